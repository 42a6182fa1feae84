"""Sparsity, and dictionary size in use, against the loss that the SAE costs (Fig. 1 and 4 of Braun et al. 2024)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..plot import GREY, NARROW, legend_columns, look, name_row, only_message, panels, plain_log_ticks
from ..reading import hook_points, kind_name, kinds, read_metrics
from .settings import ParetoFigure

_LEGEND_ROW = 0.17  # inches
_PANELS = (("l0", "L0", "features per token"), ("alive_features", "Alive features", "of the dictionary"))


def draw(tables: Path, config: ParetoFigure) -> Figure:
    """One row of two panels per hook point: L0 (left) and alive features (right) against CE increase, better is up.

    A line joins the runs of one family, those that differ in sparsity and seed alone, of their lowest seed and in the order of
    L0; runs of further seeds are open markers.
    """
    runs = read_metrics(tables, ["ce_increase", "l0", "alive_features"]).dropna(subset=["ce_increase", "l0", "alive_features"])
    if runs.empty:
        return only_message(config, "No evaluated runs.")
    runs, names, looks = _curves(runs, config)
    hooks = hook_points(runs)
    figure, axes = panels(config, len(hooks), 2, sharey="row")
    for row, hook_point in zip(axes, hooks, strict=True):
        here = runs[runs["hook_point"] == hook_point]
        for panel, (column, name, unit) in zip(row, _PANELS, strict=True):
            for curve, style in looks.items():
                _draw_curve(panel, here[here["curve"] == curve], column, style)
            panel.set_xscale(config.x_scale)
            if config.x_scale == "log":
                plain_log_ticks(panel.xaxis, here[column])
            elif column == "l0":
                panel.set_xlim(left=0)
            panel.set_xlabel(f"{name}\n({unit})" if config.width < NARROW else f"{name} ({unit})")
        row[0].invert_yaxis()
        row[0].set_ylabel("CE loss increase (nats)")
        name_row(row, hook_point)
    handles = [Line2D([], [], **looks[curve], label=names[curve]) for curve in looks]
    if (runs["seed"] > runs.groupby(["hook_point", "family"])["seed"].transform("min")).any():
        handles.append(Line2D([], [], color=GREY, marker="o", linestyle="none", markerfacecolor="white", label="further seeds"))
    n_columns = legend_columns(config, handles)
    further_rows = max(0, -(-len(handles) // n_columns) - 2)  # there are many curves in a sweep of several settings
    figure.set_figheight(figure.get_figheight() + _LEGEND_ROW * further_rows)
    figure.legend(handles=handles, loc="outside upper center", ncols=n_columns)
    return figure


def _curves(
    runs: pd.DataFrame, config: ParetoFigure
) -> tuple[pd.DataFrame, dict[tuple[str, ...], str], dict[tuple[str, ...], dict[str, Any]]]:
    """The runs with the `curve` each belongs to, and name and look of every curve.

    A curve is an objective and architecture; where a hook point has several families of both, each is a curve of its own,
    named after its first group.
    """
    kind = ["objective", "architecture"]
    families = runs.groupby(["hook_point", *kind])["family"].nunique().groupby(kind).max()
    first_group = runs.groupby("family")["group"].first()
    curves, names, looks = {}, {}, {}
    for objective, architecture in kinds(runs):
        here = runs[(runs["objective"] == objective) & (runs["architecture"] == architecture)]
        name = kind_name(objective, architecture, runs)
        apart = families[objective, architecture] > 1
        for family in here["family"].unique():
            curve = (objective, architecture, family if apart else "")
            curves[family] = curve
            if curve not in names:
                names[curve] = f"{name} ({first_group[family]})" if apart else name
                looks[curve] = look(config, objective, sum(other[0] == objective for other in looks))
    return runs.assign(curve=runs["family"].map(curves)), names, looks


def _draw_curve(panel: Axes, runs: pd.DataFrame, column: str, style: dict[str, Any]) -> None:
    first = runs["seed"] == runs["seed"].min()
    joined, further = runs[first].sort_values("l0"), runs[~first]
    panel.plot(joined[column], joined["ce_increase"], **style)
    panel.plot(further[column], further["ce_increase"], **style | {"linestyle": "none"}, markerfacecolor="white", zorder=3)
