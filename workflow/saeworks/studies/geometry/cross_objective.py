"""How near the closest feature of the local dictionary lies to each end-to-end feature (Fig. 3c and 8 of Braun et al. 2024)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ..plot import GREY, NARROW, colour, cosine_axis, cosine_histogram, kind_panels, only_message, say
from ..reading import hook_points, kind_name, kinds, read_selection
from ..tables import read_table
from .settings import CrossObjectiveFigure

_PAIR = ["comparison", "run_a", "run_b", "direction"]
_MEANS = [*_PAIR, "directions", "features", "value", "ci_low", "ci_high", "random_baseline"]


def local_pairs(tables: Path, name: str, columns: list[str]) -> pd.DataFrame:
    """Rows of table `name` that compare a selected run with the selected local run of its hook point and architecture.

    Added: hook_point, objective and architecture of the run that is not local, and `forward`: whether the row goes from that run
    to the local one (a row in both directions is not forward).
    """
    table = read_table(tables, name, columns)
    table = table[table["comparison"] == "cross_objective"].drop(columns="hook_point", errors="ignore")
    selected = read_selection(tables)[["hook_point", "objective", "architecture", "run"]]
    local = selected[selected["objective"] == "local"].drop(columns="objective")
    other = selected[selected["objective"] != "local"]
    pairs = other.merge(local, on=["hook_point", "architecture"], suffixes=("", "_local"))
    found = [
        pairs.merge(table, left_on=["run", "run_local"], right_on=ends).assign(towards=towards)
        for ends, towards in ((["run_a", "run_b"], "a_to_b"), (["run_b", "run_a"], "b_to_a"))
    ]
    joined = pd.concat(found, ignore_index=True)
    return joined.assign(forward=joined["direction"] == joined["towards"]).drop(columns="towards")


def draw(tables: Path, config: CrossObjectiveFigure) -> Figure:
    """Per hook point one panel per objective but local: alive decoder features of the selected run and of the local one."""
    nearest = local_pairs(tables, "nearest", [*_PAIR, "cosine"])
    nearest = nearest[np.isfinite(nearest["cosine"].astype(float))]
    means = local_pairs(tables, "geometry", _MEANS).dropna(subset="value")
    means = means[(means["directions"] == "decoder") & (means["features"] == "alive") & (means["direction"] != "both")]
    selected = read_selection(tables)
    others = selected[selected["objective"] != "local"]
    if nearest.empty or means.empty:
        return only_message(config, "No hook point has a local run and one of another objective at similar CE increase.")
    kinds_at = {hook_point: kinds(others[others["hook_point"] == hook_point]) for hook_point in hook_points(others)}
    x_label = "Cosine" if config.width < NARROW else "Cosine with nearest\nof the other run"
    figure, placed = kind_panels(config, kinds_at, x_label, "Fraction of features")
    joint = "\n" if config.width / min(4, max(map(len, kinds_at.values()))) < 1.7 else " "  # of a mean and its interval
    for hook_point, found in placed.items():
        for objective, architecture, panel in found:
            here = f"hook_point == {hook_point!r} and objective == {objective!r} and architecture == {architecture!r}"
            name = kind_name(objective, architecture, others, joint="\n")
            _panel(panel, name, colour(config, objective), nearest.query(here), means.query(here), config.bins, joint)
    handles = [
        Patch(facecolor=GREY, alpha=0.5, label="→ to local"),
        Line2D([], [], color="black", linewidth=0.9, label="← from local"),
        Line2D([], [], color="black", linestyle="--", label="mean"),
        Line2D([], [], color=GREY, linestyle=":", label="random directions"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2 if config.width < NARROW else 4, columnspacing=1.2)
    return figure


def _panel(panel: Axes, name: str, shade: str, nearest: pd.DataFrame, means: pd.DataFrame, bins: int, joint: str) -> None:
    cosine_axis(panel)
    if nearest.empty or means.empty:
        panel.set_title(name)
        say(panel, "no local run to compare with", width=14)
        return
    lines = [name]
    for forward, arrow in ((True, "→"), (False, "←")):
        cosines = nearest.loc[nearest["forward"] == forward, "cosine"].to_numpy()
        here = means[means["forward"] == forward]
        if cosines.size == 0 or here.empty:
            continue
        outline = {"histtype": "step", "color": "black", "linewidth": 0.9}
        cosine_histogram(panel, cosines, bins, **{"color": shade, "alpha": 0.6} if forward else outline)
        mean = here.iloc[0]
        panel.axvline(mean["random_baseline"], color=GREY, linestyle=":")
        panel.axvline(mean["value"], color="black", linestyle="--")
        lines.append(f"{arrow} {mean['value']:.3f}{joint}[{mean['ci_low']:.3f}, {mean['ci_high']:.3f}]")
    panel.set_title("\n".join(lines), fontsize=7)
