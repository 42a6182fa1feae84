"""Geometry of dictionaries: nearest-neighbour cosines within one, across seeds and across objectives."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ...store.seeds import derive_seed
from ..curves import sweep
from ..matching import SHARED_COSINE, one_to_one, shared
from ..place import Place
from ..resampling import ENOUGH_SEEDS, mean_interval, named, pair_interval, seed_groups
from .settings import GeometryConfig


def measure(place: Place, config: GeometryConfig) -> dict[str, pd.DataFrame]:
    """The tables of all runs of one hook point."""
    runs, features, selected = place.runs, place.table("features"), set(place.selected("similar_ce"))
    dictionaries = {}
    for run in runs["run"]:
        sae = place.sae(run)
        alive = features[features["run"] == run].sort_values("feature")["alive"].to_numpy()
        directions = {"decoder": sae.dictionary().cpu(), "encoder": sae.W_enc.T.cpu()}
        dictionaries[run] = Dictionary(run, directions, alive)
    geometry, nearest = compare(runs, dictionaries, config, selected)
    matching, matches = match(runs, dictionaries, geometry, config, selected)
    return {"geometry": geometry, "nearest": nearest, "matching": matching, "matches": matches}


class Nearest(NamedTuple):
    """The nearest neighbours of two dictionaries' rows in each other: their cosines and their numbers."""

    forward: Float[Tensor, " n"]
    backward: Float[Tensor, " m"]
    of_forward: Int[Tensor, " n"]
    of_backward: Int[Tensor, " m"]


def nearest(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"] | None = None, chunk: int = 4096) -> Nearest:
    """For each row of `a` the row of `b` with the largest cosine, and for each row of `b` that of `a`.

    With `b=None`, for each row of `a` that among the other rows of `a` (twice the same). A row that has nobody to be
    compared with has a cosine of NaN. The (n, m) matrix is never held: `chunk` rows at a time.
    """
    a = torch.nn.functional.normalize(a, dim=1)
    other = a if b is None else torch.nn.functional.normalize(b, dim=1)
    forward, of_forward = a.new_full((len(a),), -math.inf), torch.zeros(len(a), dtype=torch.long, device=a.device)
    backward, of_backward = other.new_full((len(other),), -math.inf), torch.zeros(len(other), dtype=torch.long, device=a.device)
    for start in range(0, len(a), chunk):
        cosines = a[start : start + chunk] @ other.T
        if b is None:
            rows = torch.arange(len(cosines))
            cosines[rows, rows + start] = -math.inf
        if len(other):
            forward[start : start + chunk], of_forward[start : start + chunk] = cosines.max(dim=1)
            highest, row = cosines.max(dim=0)
            of_backward = torch.where(highest > backward, row + start, of_backward)
            backward = torch.maximum(backward, highest)
    forward, backward = (torch.where(t.isinf(), math.nan, t.clamp(-1, 1)) for t in (forward, backward))
    return Nearest(forward, backward, of_forward, of_backward)


def nearest_cosine(
    a: Float[Tensor, "n d"], b: Float[Tensor, "m d"] | None = None, chunk: int = 4096
) -> tuple[Float[Tensor, " n"], Float[Tensor, " m"]]:
    """The cosines of `nearest`."""
    return nearest(a, b, chunk)[:2]


def linked(neighbour: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The cluster of each feature of a dictionary: features are linked with their nearest neighbour, whose nearest they often are."""
    own = np.arange(len(neighbour))
    return connected_components(coo_array((np.ones(len(own)), (own, neighbour)), shape=(len(own),) * 2), directed=False)[1]


@cache
def random_baseline(n: int, m: int | None, d: int, seed: int) -> tuple[float, float]:
    """Mean of `nearest_cosine`, both directions, for seeded random unit dictionaries of n and m rows (m=None: within one)."""
    forward, backward = nearest_cosine(*_random_dictionaries(n, m, d, seed))
    return forward.mean().item(), backward.mean().item()


@cache
def _random_matching(n: int, m: int, d: int, seed: int) -> np.ndarray:
    """Cosines of the one-to-one matching of seeded random dictionaries of n and m rows."""
    return one_to_one(*_random_dictionaries(n, m, d, seed)).cosine


def _random_dictionaries(n: int, m: int | None, d: int, seed: int) -> tuple[Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(derive_seed("random dictionary", seed, n, m, d))
    return torch.randn(n, d, generator=generator), None if m is None else torch.randn(m, d, generator=generator)


@dataclass(frozen=True)
class Dictionary:
    """One run's directions."""

    run: str
    directions: dict[str, Tensor]  # decoder, encoder: (d_sae, d_in)
    alive: np.ndarray

    def rows(self, directions: str, features: str) -> Tensor:
        values = self.directions[directions]
        return values[torch.tensor(self.alive)] if features == "alive" else values


def compare(
    runs: pd.DataFrame, dictionaries: dict[str, Dictionary], config: GeometryConfig, selected: Collection[str] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables `(geometry, nearest)` of the runs of one hook point.

    Compared are: every run with itself (`within`); runs that differ in their seed alone (`cross_seed`, a the lower seed); and, where
    their settings are those of `selected` runs (None: all runs), runs of one seed and architecture with different objectives
    (`cross_objective`), whose within-dictionary means are also subtracted (`within_difference`). Every comparison is made for
    decoder and encoder directions, alive features and all, and in both directions and their mean, since a maximum over one
    dictionary is not a maximum over the other. Neighbours depend on each other, so the intervals resample clusters of features: those
    `linked` within a dictionary, those with the same nearest feature in another.

    Besides, `to_local`: mean cosines of alive decoder features alone, without an interval, from the runs of every objective's curve
    to those of local's curve of the same seed and architecture, for comparisons at equal cost.

    `nearest` has the cosines of single features: of `within`, `cross_seed`, and of those pairs of `cross_objective` that are both `selected`.
    """
    records: list[dict[str, Any]] = []
    kept: list[pd.DataFrame] = []
    d_in = int(runs["d_in"].iloc[0])
    within: dict[tuple, tuple[np.ndarray, np.ndarray]] = {}
    kinds = list(itertools.product(("decoder", "encoder"), ("alive", "all")))

    def add(comparison, a, b, kind, direction, samples, clusters, baseline, n_a, n_b):
        purpose = f"{comparison}/{a}/{b}/{kind}/{direction}"
        if direction == "both":
            interval = _mean_of_both(samples, clusters, config, purpose)
        else:
            interval = mean_interval(samples, config, purpose, clusters)
        of = {
            "comparison": comparison,
            "run_a": a,
            "run_b": b,
            "directions": kind[0],
            "features": kind[1],
            "direction": direction,
        }
        sizes = {"n_a": n_a, "n_b": n_b, "n_resamples": config.n_resamples}
        records.append({**of, **named(interval), "random_baseline": baseline, **sizes, "resampled": "clusters"})

    def keep(comparison, a, b, direction, features, cosine):
        of = {"comparison": comparison, "run_a": a, "run_b": b, "direction": direction}
        kept.append(pd.DataFrame({**of, "feature": features, "cosine": cosine}))

    for run, kind in itertools.product(dictionaries, kinds):
        rows = dictionaries[run].rows(*kind)
        found = nearest(rows)
        cosines = _known(found.forward)
        clusters = linked(found.of_forward.numpy()) if len(cosines) else np.zeros(0, int)
        within[run, kind] = cosines, clusters
        baseline = random_baseline(len(rows), None, d_in, config.seed)[0] if len(rows) > 1 else math.nan
        add("within", run, run, kind, "a_to_a", (cosines,), (clusters,), baseline, len(rows), len(rows))
        if kind == ("decoder", "alive") and len(cosines):
            keep("within", run, run, "a_to_a", np.flatnonzero(dictionaries[run].alive), cosines)

    for comparison, run_a, run_b in _pairs(runs, selected):
        for kind in kinds:
            a, b = dictionaries[run_a].rows(*kind), dictionaries[run_b].rows(*kind)
            found = nearest(a, b)
            forward, backward = (_known(t) for t in found[:2])
            clusters = tuple(t.numpy() for t in found[2:])
            base = random_baseline(len(a), len(b), d_in, config.seed) if len(a) and len(b) else (math.nan, math.nan)
            add(comparison, run_a, run_b, kind, "a_to_b", (forward,), clusters[:1], base[0], len(a), len(b))
            add(comparison, run_a, run_b, kind, "b_to_a", (backward,), clusters[1:], base[1], len(a), len(b))
            add(comparison, run_a, run_b, kind, "both", (forward, backward), clusters, sum(base) / 2, len(a), len(b))
            shown = comparison == "cross_seed" or {run_a, run_b} <= set(selected or ())
            if shown and kind == ("decoder", "alive") and len(forward) and len(backward):
                keep(comparison, run_a, run_b, "a_to_b", np.flatnonzero(dictionaries[run_a].alive), forward)
                keep(comparison, run_a, run_b, "b_to_a", np.flatnonzero(dictionaries[run_b].alive), backward)
            if comparison == "cross_objective":
                (one, of_one), (two, of_two) = within[run_a, kind], within[run_b, kind]
                samples, clusters = (one, two), (of_one, of_two)
                add("within_difference", run_a, run_b, kind, "a_to_a", samples, clusters, 0.0, len(one), len(two))
    table = pd.concat([pd.DataFrame(records), _to_local(runs, dictionaries)], ignore_index=True)
    return table, pd.concat(kept, ignore_index=True) if kept else pd.DataFrame()


def _to_local(runs: pd.DataFrame, dictionaries: dict[str, Dictionary]) -> pd.DataFrame:
    """Rows `to_local` of table `geometry`; none of runs that are no curve, of two or more."""
    records = []
    for _, alike in runs.groupby(["architecture", "seed"], sort=False):
        curves = {objective: sweep(alike, objective, alike["seed"].iloc[0]) for objective in dict.fromkeys(alike["objective"])}
        curves = {objective: list(curve["run"]) for objective, curve in curves.items() if len(curve) > 1}
        local = curves.pop("local", [])
        for a, b in itertools.product(itertools.chain(*curves.values()), local):
            rows = [dictionaries[run].rows("decoder", "alive") for run in (a, b)]
            value = nearest_cosine(*rows)[0].double().mean().item() if all(map(len, rows)) else math.nan
            of = {"comparison": "to_local", "run_a": a, "run_b": b, "directions": "decoder", "features": "alive"}
            sizes = {"n_a": len(rows[0]), "n_b": len(rows[1]), "n_resamples": 0}
            values = {**named((value, math.nan, math.nan)), "random_baseline": math.nan}
            records.append({**of, "direction": "a_to_b", **values, **sizes, "resampled": "none"})
    return pd.DataFrame(records)


def match(
    runs: pd.DataFrame,
    dictionaries: dict[str, Dictionary],
    table: pd.DataFrame,
    config: GeometryConfig,
    selected: Collection[str] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables `(matching, matches)` of the runs of one hook point; `table` is their table `geometry`.

    Matched one to one are runs that differ in their seed alone (`cross_seed`), and runs of one seed and architecture with different
    objectives (`cross_objective`) whose settings are those of `selected` runs. `matching`: metric `matched_cosine` (mean cosine of
    partners, for decoder and encoder directions) and `shared_fraction` (of the smaller dictionary: features that decoder and
    encoder matching pair with the same partner at cosines ≥ 0.7; directions `both`). Random dictionaries whose decoder and encoder
    directions are unrelated are the baseline. Three seeds or more add the mean over their pairs (`resampled` is `seed pairs`;
    run_a and run_b those of the lowest and the highest seed, n_a and n_b means), there also of `nearest_a_to_b` (from
    the lower seed to the higher), `nearest_b_to_a` and `nearest_both`, which are those of `table`.

    `matches`: for the alive features of the lowest seed their partners in the second lowest by decoder and by encoder directions;
    −1 and NaN for those left over in the larger dictionary.
    """
    d_in = int(runs["d_in"].iloc[0])
    pairs = _pairs(runs, selected)
    shown = {tuple(group["run"][:2]) for group in seed_groups(runs)}
    records: list[dict[str, Any]] = []
    matches: list[pd.DataFrame] = []
    for (comparison, run_a, run_b), features in itertools.product(pairs, ("alive", "all")):
        a, b = (dictionaries[run] for run in (run_a, run_b))
        found = {kind: one_to_one(a.rows(kind, features), b.rows(kind, features)) for kind in ("decoder", "encoder")}
        n_a, n_b = len(a.rows("decoder", features)), len(b.rows("decoder", features))
        random = _random_matching(n_a, n_b, d_in, config.seed)
        # which partner random directions have does not depend on the cosine: 1 / max(n_a, n_b) have the same twice
        by_chance = (random >= SHARED_COSINE).mean() ** 2 / max(n_a, n_b) if len(random) else math.nan
        metrics = {("matched_cosine", kind): (m.cosine, random.mean() if len(random) else math.nan) for kind, m in found.items()}
        metrics["shared_fraction", "both"] = (shared(found["decoder"], found["encoder"]).astype(float), by_chance)
        for (metric, directions), (values, baseline) in metrics.items():
            interval = mean_interval((values,), config, f"{metric}/{comparison}/{run_a}/{run_b}/{directions}/{features}")
            of = {"comparison": comparison, "run_a": run_a, "run_b": run_b, "directions": directions, "features": features}
            sizes = {"n_a": n_a, "n_b": n_b, "n_pairs": 1, "n_resamples": config.n_resamples}
            values_of = {"metric": metric, **named(interval), "random_baseline": baseline}
            records.append({**of, **values_of, **sizes, "resampled": "features"})
        if features == "alive" and n_a and n_b and (run_a, run_b) in shown:
            columns = {"run_a": run_a, "run_b": run_b, "feature": np.flatnonzero(a.alive)}
            for kind, matching in found.items():
                partner, cosine = matching.of_a(n_a)
                columns[f"{kind}_partner"] = np.where(partner < 0, -1, np.flatnonzero(b.alive)[partner])
                columns[f"{kind}_cosine"] = cosine
            matches.append(pd.DataFrame(columns))
    matching = pd.DataFrame(records)
    over_seeds = _over_seed_pairs(runs, matching, table, config)
    matching = pd.concat([matching, over_seeds], ignore_index=True) if len(over_seeds) else matching
    return matching, pd.concat(matches, ignore_index=True) if matches else pd.DataFrame()


def _over_seed_pairs(runs: pd.DataFrame, matching: pd.DataFrame, table: pd.DataFrame, config: GeometryConfig) -> pd.DataFrame:
    """Rows of table `matching` for the means over all pairs of three seeds or more."""
    seeds = runs.set_index("run")["seed"]
    rows = pd.concat([matching, table.assign(metric="nearest_" + table["direction"])], ignore_index=True)
    rows = rows[rows["comparison"] == "cross_seed"]
    records = []
    for group in seed_groups(runs):
        here = rows[rows["run_a"].isin(group["run"]) & rows["run_b"].isin(group["run"])]
        if len(group) < ENOUGH_SEEDS:
            continue
        ends = (group["run"].iloc[0], group["run"].iloc[-1])
        for (directions, features, metric), pairs in here.groupby(["directions", "features", "metric"], sort=False):
            of_pairs = [(seeds[one], seeds[two]) for one, two in zip(pairs["run_a"], pairs["run_b"], strict=True)]
            interval = pair_interval(pairs["value"].to_numpy(), of_pairs, config, f"{directions}/{features}/{metric}/{ends[0]}")
            of = {"comparison": "cross_seed", "run_a": ends[0], "run_b": ends[1], "directions": directions, "features": features}
            means = {column: pairs[column].mean() for column in ("random_baseline", "n_a", "n_b")}
            values_of = {"metric": metric, **named(interval), **means, "n_pairs": len(pairs), "n_resamples": 0}
            records.append({**of, **values_of, "resampled": "seed pairs"})
    return pd.DataFrame(records)


def _mean_of_both(samples, clusters, config: GeometryConfig, purpose: str) -> tuple[float, float, float]:
    """Mean of the two directional means. The directions share their matrix, so their bounds are averaged: an interval that
    holds however strongly they depend on each other."""
    parts = enumerate(zip(samples, clusters, strict=True))
    forward, backward = (mean_interval((one,), config, f"{purpose}/{number}", (of_one,)) for number, (one, of_one) in parts)
    return tuple((one + other) / 2 for one, other in zip(forward, backward, strict=True))


def _known(cosines: Tensor) -> np.ndarray:
    values = cosines.double().numpy()
    return values[~np.isnan(values)]


def _pairs(runs: pd.DataFrame, selected: Collection[str] | None = None) -> list[tuple[str, str, str]]:
    """`(comparison, run_a, run_b)` of the pairs to compare, in the order of the table; of two seeds the lower is a."""
    settings = set(runs["settings"] if selected is None else runs.loc[runs["run"].isin(selected), "settings"])
    pairs = []
    for a, b in itertools.combinations(runs.itertuples(), 2):
        if a.settings == b.settings and a.seed != b.seed:
            pairs.append(("cross_seed", *((a.run, b.run) if a.seed < b.seed else (b.run, a.run))))
        elif (
            a.seed == b.seed
            and a.architecture == b.architecture
            and a.objective != b.objective
            and {a.settings, b.settings} <= settings
        ):
            pairs.append(("cross_objective", a.run, b.run))
    return pairs
