"""Explained variance at the SAE and at every later layer (Fig. 12 of Braun et al. 2024)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ..plot import GREY, NARROW, handles, legend, lines, name_row, named_kinds, only_message, panels, say
from ..reading import hook_points, read_selection
from ..tables import read_table
from .settings import ExplainedVarianceFigure

_PANELS = (("explained_variance", "as they are"), ("explained_variance_ln", "layer-normalised"))
# suffix of the metric: how it is drawn
_DEFINITIONS: dict[str, dict[str, Any]] = {
    "": {"dashes": False},
    "_mean_of_ratios": {"dashes": False, "linestyle": "--", "markerfacecolor": "white"},
}
_SWAPPED = "_swapped"


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
    selected, looks = named_kinds(config, selected)
    values = values.merge(selected[["run", "kind", "hook_point", "layer"]].rename(columns={"layer": "own_layer"}), on="run")
    hooks = hook_points(selected)
    figure, axes = panels(config, len(hooks), 2, sharex="row", sharey=True)
    for row, hook_point in zip(axes, hooks, strict=True):
        measured = values[values["hook_point"] == hook_point]
        for panel, (metric, title) in zip(row, _PANELS, strict=True):
            _draw_metric(panel, measured, metric, looks, config.lowest)
            if measured.empty:
                say(panel, "not measured")
            panel.axhline(0, color=GREY, linewidth=0.6)
            panel.set_title(title)
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            panel.set_xlabel("Layer" if config.width < NARROW else "Layer (residual stream before block)")
        row[0].set_ylabel("Explained variance")
        name_row(row, hook_point)
    _limit(axes.flat, config.lowest)
    entries = [
        *handles(looks, linestyle="-"),
        Line2D([], [], color=GREY, linestyle="-", label="conventional"),
        Line2D([], [], color=GREY, linestyle="--", label="the paper's"),
        Line2D([], [], color=GREY, linestyle="none", marker="x", label="the paper's, swapped"),
    ]
    size = 6.5 if config.width < NARROW else None
    legend(figure, entries, at_most=3, fontsize=size, labelspacing=0.3)
    return figure


def _draw_metric(panel: Axes, values: pd.DataFrame, metric: str, looks: dict[str, dict[str, Any]], lowest: float) -> None:
    values = values[values["metric"].isin([metric + suffix for suffix in (*_DEFINITIONS, _SWAPPED)])]
    # at an attention or MLP output it is not of the residual stream, as the later ones are
    alone = ~values["hook_point"].str.contains(".hook_resid_", regex=False) & (values["layer"] == values["own_layer"])
    for suffix, style in _DEFINITIONS.items():
        defined = values["metric"] == metric + suffix
        lines(panel, values[defined & alone], "layer", "value", looks, **style | {"linestyle": "none"})
        lines(panel, values[defined & ~alone], "layer", "value", looks, **style)
    swapped = values[values["metric"] == metric + _SWAPPED]
    crosses = {kind: style | {"marker": "x"} for kind, style in looks.items()}
    clipped = swapped.assign(value=swapped["value"].clip(lower=lowest))
    lines(panel, clipped, "layer", "value", crosses, dashes=False, linestyle="none", clip_on=False)
    for layer, below in values[values["value"] < lowest].groupby("layer"):
        for rank, row in enumerate(below.sort_values("value", kind="stable").itertuples()):
            panel.annotate(
                f"{row.value:.3g}", (layer, lowest), (4, 2 + 7 * rank),
                textcoords="offset points", fontsize=6, color=looks[row.kind]["color"], va="bottom",
            )  # fmt: skip


def _limit(axes: Any, lowest: float) -> None:
    """End the axes at `lowest` where something lies below."""
    for panel in axes:
        low, _ = panel.get_ylim()
        panel.set_ylim(max(low, lowest - 0.02), 1.03)
