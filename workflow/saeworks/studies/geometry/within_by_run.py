"""Crowding of every dictionary against its sparsity, cost and size in use (Fig. 7 of Braun et al. 2024)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..plot import GREY, NARROW, handles, legend, lines, name_row, named_kinds, only_message, panels
from ..reading import hook_points, read_metrics
from ..tables import read_table
from .settings import WithinByRunFigure

_PANELS = (("l0", "L0"), ("ce_increase", "CE increase (nats)"), ("alive_features", "Alive features"))
_GEOMETRY = ["comparison", "run_a", "directions", "features", "value", "ci_low", "ci_high", "random_baseline"]


def draw(tables: Path, config: WithinByRunFigure) -> Figure:
    """One row of three panels per hook point: mean nearest cosine within a dictionary against L0, CE increase and alive features.

    Every run is a marker with the table's interval over features; the small grey one is the mean of random
    directions of the same number and dimension, joined within a family in the order of the axis.
    """
    means = read_table(tables, "geometry", _GEOMETRY)
    means = means[(means["comparison"] == "within") & (means["directions"] == "decoder") & (means["features"] == "alive")]
    metrics = [column for column, _ in _PANELS]
    runs = (
        read_metrics(tables, metrics).merge(means[_GEOMETRY], left_on="run", right_on="run_a").dropna(subset=[*metrics, "value"])
    )
    if runs.empty:
        return only_message(config, "No evaluated run has two alive features.")
    runs, looks = named_kinds(config, runs)
    hooks = hook_points(runs)
    figure, axes = panels(config, len(hooks), len(_PANELS), sharey="row")
    for row, hook_point in zip(axes, hooks, strict=True):
        here = runs[runs["hook_point"] == hook_point]
        for panel, (column, label) in zip(row, _PANELS, strict=True):
            _panel(panel, here.sort_values(column), column, looks)
            panel.margins(x=0.12)
            panel.set_xlabel(label.replace(" ", "\n", 1) if config.width < NARROW else label)
        row[0].set_ylabel("Mean nearest cosine")
        name_row(row, hook_point)
    random = Line2D([], [], color=GREY, linestyle=":", marker=".", label="random directions")
    legend(figure, [*handles(looks, linestyle="none"), random])
    return figure


def _panel(panel: Axes, runs: pd.DataFrame, column: str, looks: dict[str, dict[str, Any]]) -> None:
    for _, alike in runs.groupby(["kind", "family"], sort=False):  # dictionaries of one size
        panel.plot(alike[column], alike["random_baseline"], color=GREY, linestyle=":", linewidth=0.9, marker=".", markersize=3)
    for kind, alike in runs.groupby("kind", sort=False):
        panel.vlines(alike[column], alike["ci_low"], alike["ci_high"], color=looks[kind]["color"], linewidth=0.7)
    lines(panel, runs, column, "value", looks, dashes=False, linestyle="none")
