"""How much the direction of the nearest-neighbour maximum, and counting a feature more than once, change the mean cosine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..plot import GREY, NARROW, colour, legend, name_row, only_message, panels, say
from ..reading import LABELS, OBJECTIVES, hook_points, kind_name, read_runs
from ..seeds import NO_SEEDS, of_first_run, over_seeds, read_matching
from .settings import DirectionOfMaximumFigure

_MEANS = {  # metric: marker, label
    "nearest_a_to_b": (">", "nearest, a → b"),
    "nearest_b_to_a": ("<", "nearest, b → a"),
    "nearest_both": ("o", "mean of the two"),
    "matched_cosine": ("D", "one to one"),
}
_TURNED = {"nearest_a_to_b": "nearest_b_to_a", "nearest_b_to_a": "nearest_a_to_b"}
_TITLES = {"cross_seed": "Across seeds", "cross_objective": "Across objectives"}
_SIDE_BY_SIDE = 12  # kinds of pairs that have room beside each other


def means(tables: Path) -> pd.DataFrame:
    """Mean decoder cosines between alive features, one row per pair of runs and metric, and per mean over pairs of seeds.

    Of two seeds a is the lower, of two objectives the first in the papers' order. Pairs across objectives are those that were
    matched. Added: `other`, the objective of b.
    """
    matching = read_matching(tables)
    matching = matching[(matching["directions"] == "decoder") & matching["metric"].isin(_MEANS)]
    columns = ["comparison", "directions", "features", "direction", "value", "ci_low", "ci_high", "random_baseline", "resampled"]
    nearest = of_first_run(tables, "geometry", columns)
    nearest = nearest[(nearest["directions"] == "decoder") & (nearest["features"] == "alive")]
    nearest = nearest.assign(metric="nearest_" + nearest["direction"]).merge(matching[["run_a", "run_b"]].drop_duplicates())
    nearest = nearest[nearest["metric"].isin(_MEANS) & nearest["comparison"].isin(_TITLES)]
    found = pd.concat([part for part in (matching, nearest) if len(part)] or [matching], ignore_index=True)
    b = read_runs(tables).set_index("run").loc[found["run_b"]]
    found["other"] = b["objective"].to_numpy()
    one, two = (objective.map(OBJECTIVES.index).astype(int) for objective in (found["objective"], found["other"]))
    turned = (one > two) | ((found["comparison"] == "cross_seed") & (found["seed"].to_numpy() > b["seed"].to_numpy()))
    found.loc[turned, "metric"] = found.loc[turned, "metric"].replace(_TURNED)
    found.loc[turned, ["objective", "other"]] = found.loc[turned, ["other", "objective"]].to_numpy()
    return found.dropna(subset="value").reset_index(drop=True)


def draw(tables: Path, config: DirectionOfMaximumFigure) -> Figure:
    """Per hook point a panel of pairs of seeds and one of pairs of objectives; four means per kind of pair.

    Pale markers are pairs of runs where there are several, full ones their mean.
    """
    found = means(tables)
    if not (found["comparison"] == "cross_seed").any():
        return only_message(config, NO_SEEDS)
    runs = read_runs(tables)
    groups = {comparison: _groups(found[found["comparison"] == comparison]) for comparison in _TITLES}
    groups = {comparison: keys for comparison, keys in groups.items() if keys}
    hooks = [hook_point for hook_point in hook_points(runs) if hook_point in set(found["hook_point"])]
    placed = [(hook_point, comparison) for hook_point in hooks for comparison in groups]
    ratios = [max(3, len(keys)) for keys in groups.values()]  # room for the title
    if config.width < NARROW or sum(ratios) > _SIDE_BY_SIDE:
        figure, axes = panels(config, len(placed), 1, sharey=True)
    else:
        figure, axes = panels(config, len(hooks), len(groups), sharey=True, sharex="col", width_ratios=ratios)
    for panel, (hook_point, comparison) in zip(axes.flat, placed, strict=True):
        here = found[(found["hook_point"] == hook_point) & (found["comparison"] == comparison)]
        keys = groups[comparison]
        if here.empty:
            say(panel, "nothing to compare", width=14)
        for place, key in enumerate(keys):
            shade = colour(config, key[0]) if comparison == "cross_seed" else "black"
            _draw_group(panel, place, here[_key(here) == key], shade)
        panel.set_xticks(range(len(keys)), [_name(key, runs) for key in keys])
        if len(keys) > 4:  # all pairs of four objectives
            panel.tick_params(axis="x", labelsize=5)
        panel.set_xlim(-0.5, len(keys) - 0.5)
        panel.grid(axis="x", visible=False)
        panel.set_title(_TITLES[comparison])
    for row, hook_point in zip(axes, [hook for hook, _ in placed[:: axes.shape[1]]], strict=True):
        row[0].set_ylabel("Mean decoder cosine")
        name_row(row, hook_point)
    entries = [Line2D([], [], color="black", marker=m, linestyle="none", label=label) for m, label in _MEANS.values()]
    entries.append(Line2D([], [], color=GREY, linestyle=":", label="random directions"))
    legend(figure, entries, at_most=3)
    return figure


def _key(rows: pd.DataFrame) -> pd.Series:
    return pd.Series(
        list(zip(rows["objective"], rows["other"], rows["architecture"], strict=True)), index=rows.index, dtype=object
    )


def _groups(rows: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Kinds of pairs, each once, in the papers' order."""
    return sorted(set(_key(rows)), key=lambda key: (OBJECTIVES.index(key[0]), OBJECTIVES.index(key[1]), key[2]))


def _name(key: tuple[str, str, str], runs: pd.DataFrame) -> str:
    one, two, architecture = key
    if one == two:
        return kind_name(one, architecture, runs, joint="\n")
    return f"a: {LABELS[one]}\nb: {kind_name(two, architecture, runs, joint=chr(10))}"


def _draw_group(panel: Axes, place: int, rows: pd.DataFrame, shade: str) -> None:
    for offset, (metric, (marker, _)) in zip(np.linspace(-0.3, 0.3, len(_MEANS)), _MEANS.items(), strict=True):
        here = rows[rows["metric"] == metric]
        if here.empty:
            continue
        x, pairs, summed = place + offset, here[here["resampled"] != "seed pairs"], over_seeds(here)
        if len(pairs) > 1:
            panel.plot(np.full(len(pairs), x), pairs["value"], marker, color=shade, alpha=0.3, markersize=2.5, linestyle="none")
        value = summed["value"].mean()
        if len(summed) == 1 and np.isfinite(summed["ci_low"].iloc[0]):
            error = [[max(0, value - summed["ci_low"].iloc[0])], [max(0, summed["ci_high"].iloc[0] - value)]]
            panel.errorbar([x], [value], yerr=error, color=shade, marker=marker, linestyle="none", elinewidth=0.8)
        else:
            panel.plot([x], [value], marker, color=shade)
        baseline = here["random_baseline"].mean()
        if np.isfinite(baseline):
            panel.plot([x - 0.09, x + 0.09], [baseline] * 2, color=GREY, linestyle=":")
