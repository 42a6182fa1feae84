"""Explained variance at the SAE and at every later layer (Fig. 12 of Braun et al. 2024)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ..plot import GREY, NARROW, legend_columns, looks_of, name_row, only_message, panels, say
from ..reading import hook_points, kind_name, read_selection
from ..tables import read_table
from .settings import ExplainedVarianceFigure

_PANELS = (("explained_variance", "as they are"), ("explained_variance_ln", "layer-normalised"))
# Suffix of the metric: how it is drawn.
_DEFINITIONS: dict[str, dict[str, Any]] = {
    "": {"linestyle": "-"},
    "_mean_of_ratios": {"linestyle": "--", "markerfacecolor": "white"},
}


def draw(tables: Path, config: ExplainedVarianceFigure) -> Figure:
    """One row of two panels per hook point: values as they are (left) and layer-normalised (right), one colour per selected run.

    A value below `config.lowest` is written at the lower edge.
    """
    selected = read_selection(tables)
    fidelity = read_table(tables, "fidelity", ["run", "metric", "layer", "positions", "value"])
    values = fidelity[(fidelity["positions"] == config.positions) & (fidelity["layer"] >= 0)].dropna(subset="value")
    values = values[values["metric"].str.startswith("explained_variance")].sort_values("layer")
    if selected.empty:
        return only_message(config, "No runs were selected at similar CE increase.")
    hooks, looks = hook_points(selected), looks_of(config, selected)
    figure, axes = panels(config, len(hooks), 2, sharex="row", sharey=True)
    for row, hook_point in zip(axes, hooks, strict=True):
        here = selected[selected["hook_point"] == hook_point]
        for panel, (metric, title) in zip(row, _PANELS, strict=True):
            measured = values[values["run"].isin(here["run"])]
            for run in here.itertuples():
                of_run = measured[measured["run"] == run.run]
                _draw_run(panel, of_run, metric, run.layer, looks[run.objective, run.architecture], hook_point, config.lowest)
            if measured.empty:
                say(panel, "not measured")
            panel.axhline(0, color=GREY, linewidth=0.6)
            panel.set_title(title)
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            panel.set_xlabel("Layer" if config.width < NARROW else "Layer (residual stream before block)")
        row[0].set_ylabel("Explained variance")
        name_row(row, hook_point)
    _limit(axes.flat, config.lowest)
    handles = [Line2D([], [], **looks[kind], label=kind_name(*kind, selected)) for kind in looks]
    handles += [
        Line2D([], [], color=GREY, linestyle="-", label="conventional"),
        Line2D([], [], color=GREY, linestyle="--", label="the paper's"),
        Line2D([], [], color=GREY, linestyle="none", marker="x", label="the paper's, swapped"),
    ]
    size = 6.5 if config.width < NARROW else None
    columns = legend_columns(config, handles, at_most=3)
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, fontsize=size, labelspacing=0.3)
    return figure


def _draw_run(
    panel: Axes, values: pd.DataFrame, metric: str, layer: int, look: dict[str, Any], hook_point: str, lowest: float
) -> None:
    for suffix, style in _DEFINITIONS.items():
        line = values[values["metric"] == metric + suffix].set_index("layer")["value"]
        if ".hook_resid_" not in hook_point:  # not of the residual stream, as the later ones are
            own, line = line[line.index == layer], line[line.index > layer]
            panel.plot(own.index, own, **look | style | {"linestyle": "none"})
        panel.plot(line.index, line, **look | style)
        _name_what_is_below(panel, line, look["color"], lowest)
    swapped = values[values["metric"] == f"{metric}_swapped"].set_index("layer")["value"]
    if not swapped.empty:  # the layout would break on nothing that is not clipped
        panel.plot(swapped.index, swapped.clip(lower=lowest), color=look["color"], marker="x", linestyle="none", clip_on=False)
    _name_what_is_below(panel, swapped, look["color"], lowest)


def _name_what_is_below(panel: Axes, line: pd.Series, shade: str, lowest: float) -> None:
    for layer, value in line[line < lowest].items():
        panel.annotate(f"{value:.3g}", (layer, lowest), (4, 2), textcoords="offset points", fontsize=6, color=shade, va="bottom")


def _limit(axes: Any, lowest: float) -> None:
    """End the axes at `lowest` where something lies below."""
    for panel in axes:
        low, _ = panel.get_ylim()
        panel.set_ylim(max(low, lowest - 0.02), 1.03)
