"""How far runs that differ in their seed alone lie apart (Fig. 18 of Braun et al. 2024)."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..plot import GREY, NARROW, OPEN, handles, interval, legend, lines, named_kinds, only_message, panels, place_name
from ..reading import hook_points, read_metrics
from ..resampling import ENOUGH_SEEDS
from ..seeds import NO_SEEDS
from .settings import SeedPairsFigure


def draw(tables: Path, config: SeedPairsFigure) -> Figure:
    """One panel per hook point with runs in several seeds: their L0 against their CE increase.

    An open marker is one seed. Two seeds are joined by a line; three or more have a cross: their mean and its t interval.
    """
    runs = read_metrics(tables, ["ce_increase", "l0"]).dropna(subset=["ce_increase", "l0"])
    runs = runs[runs.groupby(["hook_point", "settings"])["seed"].transform("nunique") > 1]
    if runs.empty:
        return only_message(config, NO_SEEDS)
    runs, looks = named_kinds(config, runs)
    hooks = hook_points(runs)
    n_seeds = runs.groupby(["hook_point", "settings"])["seed"].transform("nunique")
    pairs, more = runs[n_seeds < ENOUGH_SEEDS], runs[n_seeds >= ENOUGH_SEEDS]
    n_columns = 1 if config.width < NARROW else min(len(hooks), 3)
    figure, axes = panels(config, -(-len(hooks) // n_columns), n_columns)
    for panel, hook_point in zip(axes.flat, hooks, strict=False):
        two, several = (frame[frame["hook_point"] == hook_point] for frame in (pairs, more))
        panel.set_title(place_name(hook_point).replace("\n", ", "))
        panel.set_xlabel("L0 (features per token)")
        lines(panel, two, "l0", "ce_increase", looks, units="settings", markerfacecolor="white")
        lines(panel, several, "l0", "ce_increase", looks, **OPEN)
        for _, alike in several.groupby("settings", sort=False):
            interval(panel, alike, "l0", "ce_increase", looks[alike["kind"].iloc[0]]["color"], config.confidence)
        panel.margins(0.15)
        panel.invert_yaxis()
    for panel in axes.flat[len(hooks) :]:
        panel.set_axis_off()
    for row in axes:
        row[0].set_ylabel("CE loss increase (nats)")
    entries = handles(looks, linestyle="none", markerfacecolor="white")
    if len(more):
        label = f"mean and {100 * config.confidence:g} % interval"
        entries.append(Line2D([], [], color=GREY, marker="+", linestyle="none", markersize=9, label=label))
    legend(figure, entries)
    return figure
