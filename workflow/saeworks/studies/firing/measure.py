"""Whether the features of two seeds fire on the same tokens, whatever their directions.

The codes of every run on the held-out tokens are kept as sparse matrices, 12 bytes an active entry: memory grows with tokens × L0,
not with the size of the dictionaries. Products over tokens are taken in float64, for `_BLOCK` features of one run at a time
against all of the other, so that d_sae × d_sae is never held.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy.sparse import csc_array, csr_array, vstack
from torch import Tensor

from ...lm.bridge import BridgeModel
from ...lm.decoder import Decoder
from ...lm.sites import Site
from ...sae.base import SAE
from ...store.seeds import derive_seed
from ..matching import Matching, one_to_one
from ..place import Place
from ..resampling import ENOUGH_SEEDS, mean_interval, named, pair_interval, seed_groups
from .settings import FiringConfig

METRICS = ("pearson", "jaccard", "p_b_given_a", "p_a_given_b")
RAW = "activations"  # name of what fires without an SAE
_BLOCK = 1024  # features of one run whose products with all of the other are held at once
_NEIGHBOURS = 10  # by firing rate, among which the partner of the null is drawn


def measure(place: Place, config: FiringConfig) -> dict[str, pd.DataFrame]:
    """The tables of one hook point; the runs are those that exist in several seeds."""
    compared = [run for group in seed_groups(place.runs) for run in group["run"]]
    rows = place.held_out(config.n_tokens, "studies.firing.n_tokens")
    saes = {run: place.sae(run) for run in compared}
    firing = fire(saes, place.model, place.site, rows, config.batch_rows)
    without = {RAW: Raw(place.site.d_in, place.device)}
    for run in (group["run"].iloc[0] for group in seed_groups(place.runs)):
        active = round(firing[run].codes.nnz / rows.size)
        without[run] = Untrained(saes[run], active, derive_seed("untrained", config.seed, run))
    return study(place.runs, firing, config, fire(without, place.model, place.site, rows, config.batch_rows))


class Raw:
    """In the place of an SAE: the activations themselves, a feature for each dimension."""

    def __init__(self, d_in: int, device: str = "cpu") -> None:
        self.W_enc = torch.eye(d_in, device=device)

    def dictionary(self) -> Float[Tensor, "d_in d_in"]:
        """A direction for each dimension."""
        return self.W_enc

    def encode(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_in"]:
        """The activations."""
        return x


class Untrained:
    """A code that knows nothing of the activations: as many random directions as an SAE has features, as many of them active on each token."""

    def __init__(self, sae: SAE, active: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.active = min(active, sae.d_sae)
        self.W_enc = torch.randn(sae.d_in, sae.d_sae, generator=generator).to(sae.W_enc.device)
        self.W_enc /= self.W_enc.norm(dim=0)

    def dictionary(self) -> Float[Tensor, "d_sae d_in"]:
        """The directions."""
        return self.W_enc.T

    def encode(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_sae"]:
        """The largest components along them, as far as they are positive."""
        values, at = (x @ self.W_enc).topk(self.active, dim=-1)
        return torch.zeros(len(x), self.W_enc.shape[1], device=x.device, dtype=x.dtype).scatter_(-1, at, values.relu())


@dataclass(frozen=True)
class Firing:
    """What one run's features do on all tokens; features that never fire there are left out."""

    codes: csc_array  # (tokens, n)
    features: Int[np.ndarray, " n"]  # their numbers in the SAE
    decoder: Float[Tensor, "n d"]
    encoder: Float[Tensor, "n d"]

    @cached_property
    def fires(self) -> csc_array:
        """1 where a feature is active."""
        ones = np.ones_like(self.codes.data)
        return csc_array((ones, self.codes.indices, self.codes.indptr), shape=self.codes.shape)

    @cached_property
    def rate(self) -> Float[np.ndarray, " n"]:
        """Share of tokens on which each feature fires."""
        return np.diff(self.codes.indptr) / self.codes.shape[0]

    @cached_property
    def mean(self) -> Float[np.ndarray, " n"]:
        """Mean activation over all tokens."""
        return self.codes.sum(axis=0) / self.codes.shape[0]

    @cached_property
    def spread(self) -> Float[np.ndarray, " n"]:
        """Standard deviation of the activation over all tokens, NaN where it does not vary."""
        variance = (self.codes.multiply(self.codes)).sum(axis=0) / self.codes.shape[0] - self.mean**2
        return np.sqrt(np.where(variance > 1e-12 * self.mean**2, variance, math.nan))


@torch.no_grad()
def fire(
    saes: Mapping[str, SAE | Raw | Untrained],
    model: Decoder | BridgeModel,
    site: Site,
    rows: Int[np.ndarray, "rows pos"],
    batch_rows: int,
) -> dict[str, Firing]:
    """The firing of the SAEs at `site` on all tokens of `rows`, from one pass of the model."""
    parts: dict[str, list[csr_array]] = {run: [] for run in saes}
    for start in range(0, len(rows), batch_rows):
        tokens = torch.from_numpy(rows[start : start + batch_rows].astype(np.int64)).to(model.device)
        x = model.hook_values(tokens, [site.name])[site.name].flatten(0, 1)
        for run, sae in saes.items():
            parts[run].append(_sparse(sae.encode(x)))
    firing = {}
    for run, sae in saes.items():
        codes = vstack(parts.pop(run), format="csc")
        features = np.flatnonzero(np.diff(codes.indptr))
        decoder, encoder = (matrix.detach().cpu()[features] for matrix in (sae.dictionary(), sae.W_enc.T))
        firing[run] = Firing(codes[:, features], features, decoder, encoder)
    return firing


def _sparse(codes: Float[Tensor, "tokens d_sae"]) -> csr_array:
    """The non-zero codes in float64; found where `codes` are, so that no more than these is copied."""
    at = codes.nonzero(as_tuple=True)
    return csr_array((codes[at].double().cpu().numpy(), tuple(index.int().cpu().numpy() for index in at)), shape=codes.shape)


def paired(a: Firing, b: Firing, of_a: Int[np.ndarray, " k"], of_b: Int[np.ndarray, " k"]) -> dict[str, Float[np.ndarray, " k"]]:
    """`METRICS` of pairs of features: column `of_a[i]` of `a` with column `of_b[i]` of `b`.

    pearson: correlation of the activations over all tokens. jaccard: tokens on which both fire over those on which one does.
    p_b_given_a: share of the tokens on which the first fires on which the second does; p_a_given_b likewise.
    """
    n = a.codes.shape[0]
    product = a.codes[:, of_a].multiply(b.codes[:, of_b]).sum(axis=0) / n
    both = a.fires[:, of_a].multiply(b.fires[:, of_b]).sum(axis=0) / n
    rate_a, rate_b = a.rate[of_a], b.rate[of_b]
    return {
        "pearson": (product - a.mean[of_a] * b.mean[of_b]) / (a.spread[of_a] * b.spread[of_b]),
        "jaccard": both / (rate_a + rate_b - both),
        "p_b_given_a": both / rate_a,
        "p_a_given_b": both / rate_b,
    }


def covariances(a: Firing, b: Firing, block: int = _BLOCK) -> Iterator[tuple[slice, Float[np.ndarray, "k m"]]]:
    """Covariance over tokens of the features of `a`, `block` at a time, with all of `b`, if it has any."""
    for start in range(0, len(a.features) if len(b.features) else 0, block):
        part = slice(start, start + block)
        product = (a.codes[:, part].T @ b.codes).toarray() / a.codes.shape[0]
        yield part, product - np.outer(a.mean[part], b.mean)


@dataclass(frozen=True)
class Joint:
    """What all pairs of features of two runs say."""

    best_of_a: Int[np.ndarray, " n"]  # column of b that correlates most with each of a
    best_of_b: Int[np.ndarray, " m"]
    codes: float  # squared Frobenius norm of the covariance of the codes
    reconstructions: float  # and of the decoded codes


def joint(a: Firing, b: Firing, block: int = _BLOCK) -> Joint:
    """Best partners and covariances of two runs, in one pass over their pairs. Features that do not vary are nobody's partner."""
    best_of_a = np.zeros(len(a.features), dtype=int)
    best_of_b, highest = np.zeros(len(b.features), dtype=int), np.full(len(b.features), -math.inf)
    codes, reconstructions = 0.0, np.zeros((a.decoder.shape[1], b.decoder.shape[1]))
    of_a, of_b = a.decoder.double().numpy(), b.decoder.double().numpy()
    for part, covariance in covariances(a, b, block):
        codes += np.square(covariance).sum()
        reconstructions += of_a[part].T @ (covariance @ of_b)
        with np.errstate(invalid="ignore"):
            r = np.nan_to_num(covariance / np.outer(a.spread[part], b.spread), nan=-math.inf)
        best_of_a[part] = r.argmax(axis=1)
        here = r.argmax(axis=0)
        value = r[here, np.arange(r.shape[1])]
        best_of_b[value > highest] = here[value > highest] + part.start
        highest = np.maximum(highest, value)
    return Joint(best_of_a, best_of_b, float(codes), float(np.square(reconstructions).sum()))


def null_partners(rate: Float[np.ndarray, " m"], partner: Int[np.ndarray, " k"], seed: int) -> Int[np.ndarray, " k"]:
    """For each feature number in `partner` another one, drawn among the `_NEIGHBOURS` nearest to it in the order of `rate`."""
    order = np.argsort(rate, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    width = min(_NEIGHBOURS, len(rate) - 1)
    first = np.clip(rank[partner] - width // 2, 0, len(rate) - 1 - width)
    drawn = first + np.random.default_rng(seed).integers(width, size=len(partner))
    return order[drawn + (drawn >= rank[partner])]


def shuffled(firing: Firing, seed: int) -> Firing:
    """The same codes on other tokens, one permutation for all features."""
    order = np.random.default_rng(seed).permutation(firing.codes.shape[0])
    return Firing(csc_array(firing.codes.tocsr()[order]), firing.features, firing.decoder, firing.encoder)


def alignment(cross: float, one: float, two: float) -> float:
    """Linear centred kernel alignment from squared norms of covariances; NaN where a side does not vary."""
    return cross / math.sqrt(one * two) if one * two > 0 else math.nan


def study(
    runs: pd.DataFrame, firing: dict[str, Firing], config: FiringConfig, without: Mapping[str, Firing] | None = None
) -> dict[str, pd.DataFrame]:
    """Tables of all pairs of runs that differ in their seed alone, the lower seed first.

    `firing`: means over features of `METRICS` (`resampled`: `features`), by partner. `decoder`: partner in the one-to-one matching by
    decoder directions; `null`: in the place of that partner another feature of its run with nearly its firing rate; `best_in_b` and
    `best_in_a`: for each feature of one run that of the other whose activations correlate most, where one may serve many and
    a maximum is taken, so that it exceeds `null` also by chance. Metric `cka`: linear centred kernel alignment (Kornblith et
    al. 2019) of the `codes` and of the `reconstructions`, one number per pair. Three seeds or more add the mean over their
    pairs (`seed pairs`; run_a and run_b of the lowest and the highest seed, n_features a mean).

    Controls of these: `best_in_shuffled` and `codes_shuffled`, the second run on shuffled tokens; and, of `without` an SAE, the
    untrained code (by the name of the lowest seed) and the activations: `best_in_untrained`, `codes_untrained`, `best_in_activations`
    (pearson alone, since every dimension is active everywhere) and `codes_activations`, of the first run.

    `firing_features`: of the two lowest seeds, single features in the one-to-one matching, the null and `best_in_b`.
    """
    records: list[dict[str, Any]] = []
    features: list[pd.DataFrame] = []
    for group in seed_groups(runs):
        names = group["run"].tolist()
        alone = {run: joint(firing[run], firing[run]) for run in names}
        controls = {"untrained": (without or {}).get(names[0]), "activations": (without or {}).get(RAW)}
        controls = {name: (control, joint(control, control)) for name, control in controls.items() if control is not None}
        own: list[dict[str, Any]] = []
        for run_a, run_b in itertools.combinations(names, 2):
            a, b = firing[run_a], firing[run_b]
            pair = {"run_a": run_a, "run_b": run_b}
            sizes = {"n_pairs": 1, "n_tokens": a.codes.shape[0]}
            together, matching = joint(a, b), one_to_one(a.decoder, b.decoder)
            found = _found(a, b, together, matching, derive_seed("firing null", config.seed, run_a, run_b))
            others = {
                "shuffled": (shuffled(b, derive_seed("firing shuffle", config.seed, run_a, run_b)), alone[run_b]),
                **controls,
            }
            crossed = {name: joint(a, other) for name, (other, _) in others.items()}
            found |= {f"best_in_{name}": _best(a, other, crossed[name]) for name, (other, _) in others.items()}
            for (partner, metrics), metric in itertools.product(found.items(), METRICS):
                if partner == "best_in_activations" and metric != "pearson":
                    continue
                known = metrics[metric][~np.isnan(metrics[metric])]
                interval = mean_interval((known,), config, f"firing/{run_a}/{run_b}/{partner}/{metric}")
                of = {"partner": partner, "metric": metric, **named(interval), "n_features": len(known)}
                own.append({**pair, **of, **sizes, "n_resamples": config.n_resamples, "resampled": "features"})
            aligned = {}
            for kind in ("codes", "reconstructions"):
                cross, one, two = (getattr(part, kind) for part in (together, alone[run_a], alone[run_b]))
                aligned[kind] = alignment(cross, one, two)
            for name, (_, itself) in others.items():
                aligned[f"codes_{name}"] = alignment(crossed[name].codes, alone[run_a].codes, itself.codes)
            for kind, cka in aligned.items():
                of = {"partner": kind, "metric": "cka", **named((cka, math.nan, math.nan)), "n_features": len(a.features)}
                own.append({**pair, **of, **sizes, "n_resamples": 0, "resampled": "none"})
            if [run_a, run_b] == names[:2]:
                features.append(pd.DataFrame({**pair, **_single_features(a, b, together, matching, found)}))
        records += own + _over_seed_pairs(group, own, config)
    filled = [frame for frame in features if len(frame)]
    return {
        "firing": pd.DataFrame(records),
        "firing_features": pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(),
    }


def _pairs_matched(matching: Matching) -> tuple[np.ndarray, np.ndarray]:
    own = np.arange(len(matching.partner))
    return (matching.partner, own) if matching.swapped else (own, matching.partner)


def _found(a: Firing, b: Firing, together: Joint, matching: Matching, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """`METRICS` of all pairs of each kind of partner; NaN for a null where there is no other feature."""
    of_a, of_b = _pairs_matched(matching)
    some = len(a.features) > 0 and len(b.features) > 0
    nothing = dict.fromkeys(METRICS, np.full(len(of_a), math.nan))
    return {
        "decoder": paired(a, b, of_a, of_b),
        "null": paired(a, b, of_a, null_partners(b.rate, of_b, seed)) if len(b.features) > 1 else nothing,
        "best_in_b": _best(a, b, together),
        "best_in_a": paired(a, b, together.best_of_b, np.arange(len(b.features))) if some else nothing,
    }


def _best(a: Firing, b: Firing, together: Joint) -> dict[str, np.ndarray]:
    """`METRICS` of each feature of `a` with that of `b` whose activations correlate most."""
    if not len(a.features) or not len(b.features):
        return dict.fromkeys(METRICS, np.full(0, math.nan))
    return paired(a, b, np.arange(len(a.features)), together.best_of_a)


def _single_features(a: Firing, b: Firing, together: Joint, matching: Matching, found: dict) -> dict[str, np.ndarray]:
    of_a, of_b = _pairs_matched(matching)
    best = together.best_of_a[of_a]
    return {
        "feature_a": a.features[of_a],
        "feature_b": b.features[of_b],
        "decoder_cosine": matching.cosine,
        "encoder_cosine": _cosine(a.encoder[of_a], b.encoder[of_b]),
        "firing_rate_a": a.rate[of_a],
        "firing_rate_b": b.rate[of_b],
        **found["decoder"],
        **{f"null_{metric}": values for metric, values in found["null"].items()},
        "best_feature": b.features[best],
        **{f"best_{metric}": values[of_a] for metric, values in found["best_in_b"].items() if len(of_a)},
        **{f"chance_{metric}": values[of_a] for metric, values in found["best_in_shuffled"].items() if len(of_a)},
        "best_decoder_cosine": _cosine(a.decoder[of_a], b.decoder[best]),
    }


def _cosine(one: Float[Tensor, "k d"], two: Float[Tensor, "k d"]) -> Float[np.ndarray, " k"]:
    return torch.nn.functional.cosine_similarity(one, two, dim=1).double().numpy()


def _over_seed_pairs(group: pd.DataFrame, records: list[dict[str, Any]], config: FiringConfig) -> list[dict[str, Any]]:
    """Means over the pairs of seeds of `group`, of which there are three or more."""
    if len(group) < ENOUGH_SEEDS:
        return []
    seeds, ends = group.set_index("run")["seed"], {"run_a": group["run"].iloc[0], "run_b": group["run"].iloc[-1]}
    out = []
    for (partner, metric), pairs in pd.DataFrame(records).groupby(["partner", "metric"], sort=False):
        of_pairs = [(seeds[one], seeds[two]) for one, two in zip(pairs["run_a"], pairs["run_b"], strict=True)]
        interval = pair_interval(pairs["value"].to_numpy(), of_pairs, config, f"{partner}/{metric}/{ends['run_a']}")
        sizes = {"n_features": pairs["n_features"].mean(), "n_pairs": len(pairs), "n_tokens": pairs["n_tokens"].iloc[0]}
        of = {"partner": partner, "metric": metric, **named(interval)}
        out.append({**ends, **of, **sizes, "n_resamples": 0, "resampled": "seed pairs"})
    return out
