"""Geometry of dictionaries: nearest-neighbour cosines within one, across seeds and across objectives."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from ..config.base import parse
from ..config.measures import GeometryConfig
from ..sae.formats import load_sae
from ..store.seeds import derive_seed
from .tables import read_table, write_table

COLUMNS = [
    "hook_point",
    "comparison",
    "run_a",
    "run_b",
    "directions",
    "features",
    "direction",
    "value",
    "ci_low",
    "ci_high",
    "random_baseline",
    "n_a",
    "n_b",
    "n_resamples",
    "resampled",
]


def nearest_cosine(
    a: Float[Tensor, "n d"], b: Float[Tensor, "m d"] | None = None, chunk: int = 4096
) -> tuple[Float[Tensor, " n"], Float[Tensor, " m"]]:
    """Largest cosine of each row of `a` among the rows of `b`, and of each row of `b` among the rows of `a`.

    With `b=None`, of each row of `a` among the other rows of `a` (twice the same tensor). A row that has nobody to be
    compared with gets NaN. The (n, m) matrix is never held: `chunk` rows at a time.
    """
    a = torch.nn.functional.normalize(a, dim=1)
    other = a if b is None else torch.nn.functional.normalize(b, dim=1)
    forward = torch.full((len(a),), -math.inf)
    backward = torch.full((len(other),), -math.inf)
    for start in range(0, len(a), chunk):
        cosines = a[start : start + chunk] @ other.T
        if b is None:
            rows = torch.arange(len(cosines))
            cosines[rows, rows + start] = -math.inf
        if len(other):
            forward[start : start + chunk] = cosines.amax(dim=1)
            backward = torch.maximum(backward, cosines.amax(dim=0))
    return tuple(torch.where(t.isinf(), math.nan, t.clamp(-1, 1)) for t in (forward, backward))


def random_baseline(n: int, m: int | None, d: int, seed: int) -> tuple[float, float]:
    """Mean of `nearest_cosine`, both directions, for seeded random unit dictionaries of n and m rows (m=None: within one)."""
    generator = torch.Generator().manual_seed(derive_seed("random dictionary", seed, n, m, d))
    a = torch.randn(n, d, generator=generator)
    b = None if m is None else torch.randn(m, d, generator=generator)
    forward, backward = nearest_cosine(a, b)
    return forward.mean().item(), backward.mean().item()


def mean_interval(samples: tuple[np.ndarray, ...], config: GeometryConfig, purpose: str) -> tuple[float, float, float]:
    """`(value, low, high)`: the mean of one sample, or the difference of the means of two, with a BCa bootstrap interval.

    Features are resampled, independently in each sample (Efron and Tibshirani 1993, ch. 14). The jackknife of a mean has a
    closed form, so the cost is linear in the number of features. Fewer than two features give an interval of NaN, equal ones
    an interval of no width.
    """
    if any(len(sample) == 0 for sample in samples):
        return math.nan, math.nan, math.nan
    signs = (1.0, -1.0)[: len(samples)]
    value = sum(sign * float(sample.mean()) for sign, sample in zip(signs, samples, strict=True))
    if any(len(sample) < 2 for sample in samples):
        return value, math.nan, math.nan
    if all(np.ptp(sample) == 0 for sample in samples):
        return value, value, value
    generator = np.random.default_rng(derive_seed("bootstrap", config.seed, purpose))
    resampled = sum(
        sign * _resampled_means(sample, config.n_resamples, generator) for sign, sample in zip(signs, samples, strict=True)
    )
    below = ((resampled < value).mean() + (resampled <= value).mean()) / 2
    bias = stats.norm.ppf(np.clip(below, 0.5 / config.n_resamples, 1 - 0.5 / config.n_resamples))
    centred = [sign * (sample - sample.mean()) / len(sample) for sign, sample in zip(signs, samples, strict=True)]
    skew, spread = sum((c**3).sum() for c in centred), sum((c**2).sum() for c in centred)
    acceleration = skew / (6 * spread**1.5)
    tail = (1 - config.confidence) / 2
    shifted = bias + stats.norm.ppf([tail, 1 - tail])
    levels = stats.norm.cdf(bias + shifted / (1 - acceleration * shifted))
    low, high = np.quantile(resampled, levels)
    return value, float(low), float(high)


def _resampled_means(sample: np.ndarray, n_resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Means of `n_resamples` resamples, drawn a few at a time to bound the memory."""
    at_once = max(1, 4_000_000 // len(sample))
    sizes = [min(at_once, n_resamples - start) for start in range(0, n_resamples, at_once)]
    return np.concatenate([sample[generator.integers(len(sample), size=(size, len(sample)))].mean(axis=1) for size in sizes])


@dataclass(frozen=True)
class Dictionary:
    """One run's directions."""

    run: str
    directions: dict[str, Tensor]  # decoder, encoder: (d_sae, d_in)
    alive: np.ndarray

    def rows(self, directions: str, features: str) -> Tensor:
        values = self.directions[directions]
        return values[torch.tensor(self.alive)] if features == "alive" else values


def compare(runs: pd.DataFrame, dictionaries: dict[str, Dictionary], config: GeometryConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables `(geometry, nearest)` of the runs of one hook point.

    Compared are: every run with itself (`within`); runs that differ in their seed alone (`cross_seed`);
    runs of one seed and architecture with different objectives (`cross_objective`), whose within-dictionary means are also subtracted
    (`within_difference`). Every comparison is made for decoder and encoder directions, alive features and all, and in
    both directions and their mean, since a maximum over one dictionary is not a maximum over the other.
    """
    records: list[tuple] = []
    nearest: list[pd.DataFrame] = []
    d_in = int(runs["d_in"].iloc[0])
    hook_point = runs["hook_point"].iloc[0]
    within: dict[tuple, np.ndarray] = {}
    kinds = list(itertools.product(("decoder", "encoder"), ("alive", "all")))

    def add(comparison, a, b, kind, direction, samples, baseline, n_a, n_b):
        purpose = f"{comparison}/{a}/{b}/{kind}/{direction}"
        if direction == "both":
            value, low, high = _mean_of_both(samples, config, purpose)
        else:
            value, low, high = mean_interval(samples, config, purpose)
        records.append(
            (hook_point, comparison, a, b, *kind, direction, value, low, high, baseline, n_a, n_b, config.n_resamples, "features")
        )

    def keep(comparison, a, b, direction, features, cosine):
        columns = {"hook_point": hook_point, "comparison": comparison, "run_a": a, "run_b": b, "direction": direction}
        nearest.append(pd.DataFrame({**columns, "feature": features, "cosine": cosine}))

    for run, kind in itertools.product(dictionaries, kinds):
        rows = dictionaries[run].rows(*kind)
        cosines = _known(nearest_cosine(rows)[0])
        within[run, kind] = cosines
        baseline = random_baseline(len(rows), None, d_in, config.seed)[0] if len(rows) > 1 else math.nan
        add("within", run, run, kind, "a_to_a", (cosines,), baseline, len(rows), len(rows))
        if kind == ("decoder", "alive") and len(cosines):
            keep("within", run, run, "a_to_a", np.flatnonzero(dictionaries[run].alive), cosines)

    for comparison, run_a, run_b in _pairs(runs):
        for kind in kinds:
            a, b = dictionaries[run_a].rows(*kind), dictionaries[run_b].rows(*kind)
            forward, backward = (_known(t) for t in nearest_cosine(a, b))
            base = random_baseline(len(a), len(b), d_in, config.seed) if len(a) and len(b) else (math.nan, math.nan)
            add(comparison, run_a, run_b, kind, "a_to_b", (forward,), base[0], len(a), len(b))
            add(comparison, run_a, run_b, kind, "b_to_a", (backward,), base[1], len(a), len(b))
            add(comparison, run_a, run_b, kind, "both", (forward, backward), sum(base) / 2, len(a), len(b))
            if comparison == "cross_seed" and kind == ("decoder", "alive") and len(forward) and len(backward):
                keep(comparison, run_a, run_b, "a_to_b", np.flatnonzero(dictionaries[run_a].alive), forward)
                keep(comparison, run_a, run_b, "b_to_a", np.flatnonzero(dictionaries[run_b].alive), backward)
            if comparison == "cross_objective":
                one, two = within[run_a, kind], within[run_b, kind]
                add("within_difference", run_a, run_b, kind, "a_to_a", (one, two), 0.0, len(one), len(two))
    table = pd.DataFrame(records, columns=COLUMNS)
    empty = pd.DataFrame(columns=["hook_point", "comparison", "run_a", "run_b", "direction", "feature", "cosine"])
    return table, pd.concat(nearest, ignore_index=True) if nearest else empty


def _mean_of_both(samples, config: GeometryConfig, purpose: str) -> tuple[float, float, float]:
    """Mean of the two directional means. The directions share their matrix, so their bounds are averaged: an interval that
    holds however strongly they depend on each other."""
    forward, backward = (mean_interval((sample,), config, f"{purpose}/{number}") for number, sample in enumerate(samples))
    return tuple((one + other) / 2 for one, other in zip(forward, backward, strict=True))


def _known(cosines: Tensor) -> np.ndarray:
    values = cosines.double().numpy()
    return values[~np.isnan(values)]


def _pairs(runs: pd.DataFrame) -> list[tuple[str, str, str]]:
    """`(comparison, run_a, run_b)` of the pairs to compare, in the order of the table."""
    pairs = []
    for a, b in itertools.combinations(runs.itertuples(), 2):
        if a.settings == b.settings and a.seed != b.seed:
            pairs.append(("cross_seed", a.run, b.run))
        elif a.objective != b.objective and a.architecture == b.architecture and a.seed == b.seed:
            pairs.append(("cross_objective", a.run, b.run))
    return pairs


def geometry(config: GeometryConfig, hook_point: str, saes: Path, tables: Path, out: Path) -> None:
    """Compare all runs at `hook_point` and write `geometry.parquet` and `nearest.parquet` under `out`."""
    runs = read_table(tables / "runs.parquet").query("hook_point == @hook_point")
    features = read_table(tables / "features.parquet")
    dictionaries = {}
    for run in runs["run"]:
        sae = load_sae(saes / run)
        alive = features[features["run"] == run].sort_values("feature")["alive"].to_numpy()
        dictionaries[run] = Dictionary(run, {"decoder": sae.dictionary(), "encoder": sae.W_enc.T}, alive)
    for name, table in zip(("geometry", "nearest"), compare(runs, dictionaries, config), strict=True):
        write_table(table, out / f"{name}.parquet", csv=False)


def main(spec: str, hook_point: str, experiment: str) -> None:
    """Entry point of the stage: `spec` is a geometry block as JSON."""
    results = Path("results") / experiment
    config = parse(GeometryConfig, json.loads(spec), "geometry")
    geometry(config, hook_point, results / "saes", results / "tables", results / "tables" / "geometry" / hook_point)


def join(hook_points: list[str], experiment: str) -> None:
    """Second entry point: one table of all hook points."""
    tables = Path("results") / experiment / "tables"
    for name in ("geometry", "nearest"):
        parts = [read_table(tables / "geometry" / hook_point / f"{name}.parquet") for hook_point in hook_points]
        write_table(pd.concat(parts, ignore_index=True), tables / f"{name}.parquet")
