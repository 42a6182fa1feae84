"""Curves of runs that differ in their sparsity alone, compared at equal L0, alive features or CE increase."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from .claim import of_one_architecture
from .reading import LABELS, hook_points, read_metrics

N_POINTS = 20  # as in the authors' analysis
# least share of either curve's range that must be common: seeds alone move counts of alive features by a tenth of such a range
_OVERLAP = {"alive_features": 0.2}


@dataclass(frozen=True)
class CurveRatio:
    """Ratio of two interpolated curves; `why` says why there is none (then every number is NaN)."""

    mean: float = np.nan
    low: float = np.nan
    high: float = np.nan
    start: float = np.nan
    stop: float = np.nan
    seeds: tuple[int, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Grid:
    """Two curves at equal `x`, or `why` they cannot be compared."""

    x: Float[np.ndarray, " points"]
    above: Float[np.ndarray, " points"]
    below: Float[np.ndarray, " points"]
    why: str = ""


def on_common_range(above: pd.DataFrame, below: pd.DataFrame, x: str, y: str, n_points: int = N_POINTS) -> Grid:
    """`y` of both frames at `n_points` of the common range of `x`.

    Each frame holds the runs of one curve; between runs the curves are linear, as in the paper. Runs with equal `x` are averaged.
    """
    none = np.empty(0)
    curves = [frame[[x, y]].dropna().groupby(x)[y].mean() for frame in (above, below)]
    if min(len(curve) for curve in curves) < 2:
        return Grid(none, none, none, "a curve needs two runs")
    start, stop = max(curve.index[0] for curve in curves), min(curve.index[-1] for curve in curves)
    if start >= stop:
        return Grid(none, none, none, "the curves have no common range")
    if any(stop - start < _OVERLAP.get(x, 0) * (curve.index[-1] - curve.index[0]) for curve in curves):
        return Grid(none, none, none, "less than a fifth of a curve's range is common")
    grid = np.linspace(start, stop, n_points)
    return Grid(grid, *(np.interp(grid, curve.index, curve.to_numpy()) for curve in curves))


def ratio_of_curves(above: pd.DataFrame, below: pd.DataFrame, x: str, y: str, n_points: int = N_POINTS) -> CurveRatio:
    """`y` of `above` over `y` of `below` at equal `x`: mean, smallest and largest over `n_points` of the common range of `x`.

    The paper's 45 % figure is the mean of such ratios at 20 equally spaced values.
    """
    grid = on_common_range(above, below, x, y, n_points)
    if grid.why:
        return CurveRatio(why=grid.why)
    if min(grid.above.min(), grid.below.min()) <= 0:
        return CurveRatio(why="a curve reaches zero, where a ratio means nothing")
    ratio = grid.above / grid.below
    return CurveRatio(float(ratio.mean()), float(ratio.min()), float(ratio.max()), float(grid.x[0]), float(grid.x[-1]))


def sweep(runs: pd.DataFrame, objective: str, seed: int) -> pd.DataFrame:
    """Runs of one curve: one objective and seed, of the family that has the most of them."""
    runs = runs[(runs["objective"] == objective) & (runs["seed"] == seed)]
    return runs[runs["family"] == runs["family"].value_counts(sort=False).idxmax()] if len(runs) else runs


def common_seeds(here: pd.DataFrame, *objectives: str) -> list[int]:
    """Seeds that all the objectives have."""
    return sorted(set.intersection(*(set(here.loc[here["objective"] == objective, "seed"]) for objective in objectives)))


def _over_seeds(here: pd.DataFrame, above: str, below: str, x: str, y: str) -> CurveRatio:
    """The ratio for each seed that both objectives have at a hook point, averaged; the range spans all of them."""
    seeds = common_seeds(here, above, below)
    found = {seed: ratio_of_curves(sweep(here, above, seed), sweep(here, below, seed), x, y) for seed in seeds}
    valid = {seed: ratio for seed, ratio in found.items() if not ratio.why}
    if not valid:
        return next(iter(found.values()), CurveRatio(why=f"no runs of {LABELS[above]} and {LABELS[below]} with the same seed"))
    ratios = list(valid.values())
    return CurveRatio(
        float(np.mean([r.mean for r in ratios])),
        min(r.low for r in ratios),
        max(r.high for r in ratios),
        max(r.start for r in ratios),
        min(r.stop for r in ratios),
        tuple(valid),
    )


def curve_ratios(tables: Path) -> pd.DataFrame:
    """Ratios at equal L0, equal alive features and equal CE increase, per hook point and end-to-end objective.

    Columns: hook_point, objective, quantity ("ce_at_equal_l0" and "ce_at_equal_alive": objective over local; "l0_at_equal_ce":
    local over objective), ratio, low, high, start, stop (range of what is held equal), seeds, why.
    """
    runs = read_metrics(tables, ["l0", "alive_features", "ce_increase"])
    compared = of_one_architecture(runs)
    rows = []
    for hook_point in hook_points(runs):
        for objective in ("e2e", "e2e_ds"):
            for quantity, above, below, x, y in (
                ("ce_at_equal_l0", objective, "local", "l0", "ce_increase"),
                ("ce_at_equal_alive", objective, "local", "alive_features", "ce_increase"),
                ("l0_at_equal_ce", "local", objective, "ce_increase", "l0"),
            ):
                ratio = _over_seeds(compared[compared["hook_point"] == hook_point], above, below, x, y)
                numbers = (ratio.mean, ratio.low, ratio.high, ratio.start, ratio.stop)
                rows.append((hook_point, objective, quantity, *numbers, ", ".join(map(str, ratio.seeds)), ratio.why))
    columns = ["hook_point", "objective", "quantity", "ratio", "low", "high", "start", "stop", "seeds", "why"]
    return pd.DataFrame(rows, columns=columns)
