"""How far runs that differ in their seed alone lie apart (Fig. 18 of Braun et al. 2024)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from ..plot import GREY, NARROW, legend_columns, looks_of, only_message, panels
from ..reading import hook_points, kind_name, read_metrics
from .settings import SeedPairsFigure

_ENOUGH = 3  # seeds for an interval


def seed_interval(values: pd.Series, confidence: float) -> tuple[float, float]:
    """`(mean, half width)` of Student's t interval for the mean over seeds."""
    n = len(values)
    return float(values.mean()), float(stats.t.ppf((1 + confidence) / 2, n - 1) * values.std(ddof=1) / math.sqrt(n))


def draw(tables: Path, config: SeedPairsFigure) -> Figure:
    """One panel per hook point with runs in several seeds: their L0 against their CE increase, better is up.

    An open marker is one seed. Two seeds are joined by a line; three or more have a cross: their mean and its t interval.
    """
    runs = read_metrics(tables, ["ce_increase", "l0"]).dropna(subset=["ce_increase", "l0"])
    runs = runs[runs.groupby(["hook_point", "settings"])["seed"].transform("nunique") > 1]
    if runs.empty:
        return only_message(config, "No two runs differ in their seed only: give a run group a second seed (`seeds: [0, 1]`).")
    hooks, looks = hook_points(runs), looks_of(config, runs)
    n_columns = 1 if config.width < NARROW else min(len(hooks), 3)
    figure, axes = panels(config, -(-len(hooks) // n_columns), n_columns)
    for panel, hook_point in zip(axes.flat, hooks, strict=False):
        here = runs[runs["hook_point"] == hook_point]
        panel.set_title(hook_point)
        panel.set_xlabel("L0 (features per token)")
        for _, alike in here.groupby("settings", sort=False):
            _draw_seeds(panel, alike, looks[alike["objective"].iloc[0], alike["architecture"].iloc[0]], config.confidence)
        panel.margins(0.15)
        panel.invert_yaxis()
    for panel in axes.flat[len(hooks) :]:
        panel.set_axis_off()
    for row in axes:
        row[0].set_ylabel("CE loss increase (nats)")
    handles = [Line2D([], [], **look | _OPEN | {"linestyle": "none"}, label=kind_name(*k, runs)) for k, look in looks.items()]
    if (runs.groupby(["hook_point", "settings"])["seed"].nunique() >= _ENOUGH).any():
        interval = f"mean and {100 * config.confidence:g} % interval"
        handles.append(Line2D([], [], color=GREY, marker="+", linestyle="none", markersize=9, label=interval))
    figure.legend(handles=handles, loc="outside upper center", ncols=legend_columns(config, handles))
    return figure


_OPEN = {"markerfacecolor": "white"}


def _draw_seeds(panel: Axes, runs: pd.DataFrame, style: dict, confidence: float) -> None:
    runs = runs.sort_values("seed")
    joined = len(runs) < _ENOUGH
    panel.plot(runs["l0"], runs["ce_increase"], **style | _OPEN | {"linestyle": style["linestyle"] if joined else "none"})
    if joined:
        return
    (x, x_half), (y, y_half) = (seed_interval(runs[column], confidence) for column in ("l0", "ce_increase"))
    panel.plot(np.array([x - x_half, x + x_half]), [y, y], color=style["color"])
    panel.plot([x, x], np.array([y - y_half, y + y_half]), color=style["color"])
