"""Sparsity, and dictionary size in use, against the loss that the SAE costs (Fig. 1 and 4 of Braun et al. 2024)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..plot import GREY, NARROW, frontier, legend, look, name_row, of_enough_seeds, only_message, panels, plain_log_ticks
from ..reading import hook_points, kind_name, kinds, read_metrics
from .settings import ParetoFigure

_PANELS = (("l0", "L0", "features per token"), ("alive_features", "Alive features", "of the dictionary"))


def draw(tables: Path, config: ParetoFigure) -> Figure:
    """One row of two panels per hook point: L0 (left) and alive features (right) against CE increase.

    A line joins the runs of one family, those that differ in sparsity and seed alone, of their lowest seed and in the order of
    L0; runs of further seeds are open markers, or a cross where there are three seeds or more.
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
            frontier(panel, here, column, "ce_increase", looks, by="curve")
            panel.set_xscale(config.x_scale)
            if config.x_scale == "log":
                plain_log_ticks(panel.xaxis, here[column])
            elif column == "l0":
                panel.set_xlim(left=0)
            panel.set_xlabel(f"{name}\n({unit})" if config.width < NARROW else f"{name} ({unit})")
        row[0].invert_yaxis()
        row[0].set_ylabel("CE loss increase (nats)")
        name_row(row, hook_point)
    entries = [Line2D([], [], **looks[curve], label=names[curve]) for curve in looks]
    several, further = of_enough_seeds(runs), runs["seed"] > runs.groupby(["hook_point", "family"])["seed"].transform("min")
    if several.any():
        entries.append(
            Line2D([], [], color=GREY, marker="+", linestyle="none", markersize=9, label="mean and 95 % interval over seeds")
        )
    if (further & ~several).any():
        entries.append(Line2D([], [], color=GREY, marker="o", linestyle="none", markerfacecolor="white", label="further seeds"))
    legend(figure, entries)
    return figure


def _curves(runs: pd.DataFrame, config: ParetoFigure) -> tuple[pd.DataFrame, dict[str, str], dict[str, dict[str, Any]]]:
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
            curve = f"{objective} {architecture} {family if apart else ''}"
            curves[family] = curve
            if curve not in names:
                names[curve] = f"{name} ({first_group[family]})" if apart else name
                looks[curve] = look(config, objective, sum(other.startswith(f"{objective} ") for other in looks))
    return runs.assign(curve=runs["family"].map(curves)), names, looks
