"""How much of the layers after the SAE its training must reconstruct."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..plot import NARROW, OPEN, colour, frontier, lines, name_row, only_message, panels, plain_log_ticks, say
from ..tables import read_table
from .settings import DownstreamAblationFigure
from .sweep import (
    CE_INCREASE,
    L0,
    Sweep,
    group_names,
    looks_of,
    name_x,
    name_y,
    read_sweep,
    value_legend,
)


def _order(downstream: str) -> tuple[float, str]:
    """The next layers by their number, then all of them, then lists of hook points."""
    if downstream.startswith("next "):
        return float(downstream.removeprefix("next ")), ""
    return (math.inf, "") if downstream == "all" else (math.inf, downstream)


def _text(downstream: str) -> str:
    return f"{downstream} later" if downstream == "all" else downstream


SWEEP = Sweep("downstream", "residual streams reconstructed downstream", _text, _order)


def nearest_in_loss(group: pd.DataFrame) -> pd.DataFrame:
    """One run per value of the sweep, of the lowest seed: those whose CE increases are nearest to each other."""
    first = group[group["seed"] == group["seed"].min()]

    def upwards(low: float) -> pd.DataFrame:
        return first[first["ce_increase"] >= low].sort_values("ce_increase").groupby(SWEEP.column, sort=False).head(1)

    whole = [chosen for chosen in map(upwards, first["ce_increase"]) if len(chosen) == first[SWEEP.column].nunique()]
    return min(whole, key=lambda chosen: np.ptp(chosen["ce_increase"]))


def draw(tables: Path, config: DownstreamAblationFigure) -> Figure:
    """One row of two panels per hook point: L0 against CE increase (left), and the error of the residual stream by layer (right).

    On the right is one run for each choice of downstream layers, of similar CE increase; on the left it has a black edge.
    """
    groups = read_sweep(tables, SWEEP, ["ce_increase", "l0"])
    if not groups:
        return only_message(config, "No runs differ in nothing but what they reconstruct downstream, sparsity and seed.")
    fidelity = read_table(tables, "fidelity", ["run", "metric", "layer", "positions", "value"])
    errors = fidelity[(fidelity["metric"] == "mse") & (fidelity["positions"] == "rest")].sort_values("layer")
    values = SWEEP.values(groups)
    figure, axes = panels(config, len(groups), 2)
    for (left, right), group, name in zip(axes, groups, group_names(groups), strict=True):
        looks, chosen = looks_of(colour(config, group["objective"].iloc[0]), values), nearest_in_loss(group)
        frontier(left, group, "l0", "ce_increase", looks, SWEEP.column)
        edged = OPEN | {"markerfacecolor": "auto", "markeredgecolor": "black", "zorder": 4}
        lines(left, chosen, "l0", "ce_increase", looks, SWEEP.column, **edged)
        of_chosen = errors.merge(chosen[["run", SWEEP.column]], on="run")
        lines(right, of_chosen, "layer", "value", looks, SWEEP.column)
        name_x(left, config, L0)
        name_y(left, CE_INCREASE)
        left.set_title(name, loc="left")
        _finish_errors(right, of_chosen, config)
        name_row((left, right), group["hook_point"].iloc[0])
    value_legend(figure, SWEEP, values)
    return figure


def _finish_errors(panel: Axes, errors: pd.DataFrame, config: DownstreamAblationFigure) -> None:
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_xlabel("Layer" if config.width < NARROW else "Layer (residual stream before block)")
    panel.set_ylabel("MSE (activation units²)")
    if errors.empty:
        say(panel, "not measured")
    else:
        panel.set_yscale(config.y_scale)
        if config.y_scale == "log":
            plain_log_ticks(panel.yaxis, errors["value"])
