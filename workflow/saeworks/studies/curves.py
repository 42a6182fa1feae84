"""Curves of runs that differ in their sparsity alone, compared at equal L0, alive features or CE increase, seed by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from .claim import of_one_architecture, student_interval
from .reading import LABELS, hook_points, read_metrics

N_POINTS = 20  # as in the authors' analysis
_CEILING = 0.95  # share of the dictionary alive, above which counts of alive features say nothing
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
    curves = [_curve(frame, x, y) for frame in (above, below)]
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


def ratios_by_seed(here: pd.DataFrame, above: str, below: str, x: str, y: str) -> tuple[dict[int, CurveRatio], str]:
    """`(ratios, why)`: `y` of one objective over another's at equal `x`, for each seed in which both have curves; why there is none."""
    found = {
        seed: ratio_of_curves(sweep(here, above, seed), sweep(here, below, seed), x, y)
        for seed in common_seeds(here, above, below)
    }
    why = next(
        (ratio.why for ratio in found.values() if ratio.why), f"no runs of {LABELS[above]} and {LABELS[below]} with the same seed"
    )
    valid = {seed: ratio for seed, ratio in found.items() if not ratio.why}
    return valid, "" if valid else why


def at_equal_ce(runs: pd.DataFrame, value: str, *objectives: str) -> tuple[pd.DataFrame, float, str]:
    """`(values, ce, why)`: `value` of each seed's curve of each objective at one increase of the cross-entropy.

    That is the geometric middle of the range that all curves have in common. Rows are seeds in which every objective has a curve
    of two runs, columns the objectives; between runs the curves are linear. `why` says why there are none.
    """
    none = pd.DataFrame(columns=list(objectives), dtype=float)
    curves = {
        seed: {objective: _curve(sweep(runs, objective, seed), "ce_increase", value) for objective in objectives}
        for seed in common_seeds(runs, *objectives)
    }
    curves = {seed: found for seed, found in curves.items() if min(len(curve) for curve in found.values()) > 1}
    if not curves:
        return none, math.nan, "no seed in which every objective has two runs"
    each = [curve.index for found in curves.values() for curve in found.values()]
    start, stop = max(index[0] for index in each), min(index[-1] for index in each)
    if not 0 < start < stop:
        return none, math.nan, "the curves have no common range of CE increases"
    ce = math.sqrt(start * stop)
    values = {
        seed: {objective: float(np.interp(ce, curve.index, curve.to_numpy())) for objective, curve in found.items()}
        for seed, found in curves.items()
    }
    return pd.DataFrame.from_dict(values, orient="index", columns=list(objectives)), ce, ""


def at_ce(pairs: pd.DataFrame, ce: float, value: str) -> float:
    """`value` of pairs of runs where both increase the cross-entropy by `ce`, linear in the increase of either (`ce_a`, `ce_b`).

    NaN if the pairs do not fill a grid of two runs or more on either side, or `ce` lies outside of it.
    """
    grid = pairs.pivot_table(index="ce_a", columns="ce_b", values=value, dropna=False)
    inside = all(len(axis) > 1 and axis[0] <= ce <= axis[-1] for axis in (grid.index, grid.columns))
    if not inside or grid.isna().to_numpy().any():
        return math.nan
    return float(np.interp(ce, grid.index, [np.interp(ce, grid.columns, row) for row in grid.to_numpy()]))


def _curve(runs: pd.DataFrame, x: str, y: str) -> pd.Series:
    return runs[[x, y]].dropna().groupby(x)[y].mean()


def at_ceiling(shares: Mapping[str, Sequence[float]]) -> str:
    """Why counts of alive features say nothing, given each objective's share of the dictionary alive, seed by seed; "" if they do.

    An objective is at the ceiling if the upper end of its interval over seeds is, or its mean where there are too few for one.
    """
    for objective, values in shares.items():
        if len(values):
            mean, low, high = student_interval(values)
            if (mean if math.isnan(high) else high) > _CEILING:
                spread = "" if math.isnan(high) else f" ({low:.1%} to {high:.1%} over seeds)"
                return f"{mean:.1%}{spread} of {LABELS[objective]}'s features are alive: a ceiling"
    return ""


def shares_at_equal_alive(here: pd.DataFrame, above: str, below: str) -> dict[str, list[float]]:
    """For two objectives, seed by seed, the mean share of the dictionary alive where their curves have equal counts of alive features."""
    grids = [
        on_common_range(sweep(here, above, seed), sweep(here, below, seed), "alive_features", "alive_fraction")
        for seed in common_seeds(here, above, below)
    ]
    found = [(grid.above.mean(), grid.below.mean()) for grid in grids if not grid.why]
    return {objective: [float(each[i]) for each in found] for i, objective in enumerate((above, below))}


def of_one_family(runs: pd.DataFrame) -> pd.DataFrame:
    """`runs` of one hook point without those of other families than the most frequent of their objective."""
    counts = runs.groupby(["objective", "family"], sort=False)["run"].transform("size")
    chosen = (
        runs.assign(counts=counts).sort_values("counts", ascending=False, kind="stable").groupby("objective")["family"].first()
    )
    return runs[runs["family"] == runs["objective"].map(chosen)]


def curve_ratios(tables: Path, text: str | None = None) -> pd.DataFrame:
    """Ratios at equal L0, equal alive features and equal CE increase, per hook point and end-to-end objective.

    Columns: hook_point, objective, quantity ("ce_at_equal_l0" and "ce_at_equal_alive": objective over local; "l0_at_equal_ce":
    local over objective), ratio (geometric mean over seeds), low, high (smallest and largest along the curves of all seeds), start, stop
    (range of what is held equal), seeds, by_seed (the ratio of each), why. L0 and CE increase are those on `text`.
    """
    runs = read_metrics(tables, ["l0", "ce_increase"], text)
    alive = read_metrics(tables, ["alive_features"])
    compared = of_one_architecture(runs.merge(alive[["run", "alive_features"]], on="run"))
    rows = []
    for hook_point in hook_points(runs):
        here = compared[compared["hook_point"] == hook_point]
        for objective in ("e2e", "e2e_ds"):
            for quantity, above, below, x, y in (
                ("ce_at_equal_l0", objective, "local", "l0", "ce_increase"),
                ("ce_at_equal_alive", objective, "local", "alive_features", "ce_increase"),
                ("l0_at_equal_ce", "local", objective, "ce_increase", "l0"),
            ):
                found, why = ratios_by_seed(here, above, below, x, y)
                ratios = list(found.values()) or [CurveRatio()]
                by_seed = [ratio.mean for ratio in found.values()]
                ends = (
                    min(r.low for r in ratios),
                    max(r.high for r in ratios),
                    max(r.start for r in ratios),
                    min(r.stop for r in ratios),
                )
                mean = float(np.exp(np.mean(np.log(by_seed)))) if by_seed else np.nan
                rows.append((hook_point, objective, quantity, mean, *ends, ", ".join(map(str, found)), by_seed, why))
    columns = ["hook_point", "objective", "quantity", "ratio", "low", "high", "start", "stop", "seeds", "by_seed", "why"]
    return pd.DataFrame(rows, columns=columns)
