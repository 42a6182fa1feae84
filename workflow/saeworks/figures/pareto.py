"""Sparsity, and dictionary size in use, against the loss that the SAE costs (Fig. 1 and 4 of Braun et al. 2024)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..config.figures import ParetoFigure
from .common import (
    GREY,
    LABELS,
    MARKERS,
    NARROW,
    OBJECTIVES,
    colour,
    hook_points,
    name_row,
    only_message,
    panels,
    plain_log_ticks,
    read_metrics,
    redraw,
    styled,
)

_PANELS = (("l0", "L0", "features per token"), ("alive_features", "Alive features", "of the dictionary"))


@styled
def draw(tables: Path, config: ParetoFigure) -> Figure:
    """One row of two panels per hook point: L0 (left) and alive features (right) against CE increase, better is up.

    The runs of the lowest seed of an objective are joined in the order of L0; runs of further seeds are open markers.
    """
    runs = read_metrics(tables, ["ce_increase", "l0", "alive_features"]).dropna(subset=["ce_increase", "l0", "alive_features"])
    if runs.empty:
        return only_message(config, "No evaluated runs.")
    hooks = hook_points(runs)
    figure, axes = panels(config, len(hooks), 2, sharey="row")
    for row, hook_point in zip(axes, hooks, strict=True):
        here = runs[runs["hook_point"] == hook_point]
        for panel, (column, name, unit) in zip(row, _PANELS, strict=True):
            for objective in OBJECTIVES:
                _curve(panel, here[here["objective"] == objective], column, config, objective)
            panel.set_xscale(config.x_scale)
            if config.x_scale == "log":
                plain_log_ticks(panel.xaxis, here[column])
            elif column == "l0":
                panel.set_xlim(left=0)
            panel.set_xlabel(f"{name}\n({unit})" if config.width < NARROW else f"{name} ({unit})")
        row[0].invert_yaxis()
        row[0].set_ylabel("CE loss increase (nats)")
        name_row(row, hook_point)
    figure.legend(handles=_legend(runs, config), loc="outside upper center", ncols=2 if config.width < NARROW else 4)
    return figure


def _curve(panel: Axes, runs: pd.DataFrame, column: str, config: ParetoFigure, objective: str) -> None:
    if runs.empty:
        return
    look = {"color": colour(config, objective), "marker": MARKERS[objective]}
    first = runs["seed"] == runs["seed"].min()
    # Groups of one objective may differ in anything but the objective: a line never crosses from one to the other.
    for _, sweep in runs[first].groupby("group", sort=False):
        sweep = sweep.sort_values("l0")
        panel.plot(sweep[column], sweep["ce_increase"], **look)
    further = runs[~first]
    panel.plot(further[column], further["ce_increase"], **look, linestyle="none", markerfacecolor="white", zorder=3)


def _legend(runs: pd.DataFrame, config: ParetoFigure) -> list[Line2D]:
    present = [objective for objective in OBJECTIVES if (runs["objective"] == objective).any()]
    handles = [Line2D([], [], color=colour(config, o), marker=MARKERS[o], label=LABELS[o]) for o in present]
    if (runs["seed"] > runs.groupby(["hook_point", "objective"])["seed"].transform("min")).any():
        handles.append(Line2D([], [], color=GREY, marker="o", linestyle="none", markerfacecolor="white", label="further seeds"))
    return handles


def main(spec: str, tables: str, out: str) -> None:
    """Write `<out>.svg` and `<out>.png` from the Parquet files in `tables`."""
    redraw(draw, ParetoFigure, spec, tables, out)
