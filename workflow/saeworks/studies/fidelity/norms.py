"""Norm of the SAE's output against that of its input, token by token (Fig. 10 of Braun et al. 2024)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from ..plot import GREY, NARROW, colour, kind_panels, legend, only_message, plain_log_ticks, points, say
from ..reading import kind_name
from ..tables import read_table
from .norm_table import at_positions
from .settings import NormsFigure

_OUTLIER = 10  # times the median norm, beyond which linear axes would show little but position 0
_FIRST = {"color": "black", "marker": "D", "linestyle": "none", "markerfacecolor": "white", "markersize": 4}


def draw(tables: Path, config: NormsFigure) -> Figure:
    """Per hook point one panel per objective and architecture: a point for each sampled token of the selected run.

    The titles give the mean ratio of the norms over all held-out tokens after position 0, and at it.
    """
    runs = at_positions(tables, "l2_ratio")
    tokens = read_table(tables, "tokens", ["run", "position", "input_norm", "output_norm"])
    tokens = tokens[tokens["run"].isin(runs["run"])]
    if runs.empty or tokens.empty:
        return only_message(config, "No runs were selected at similar CE increase.")
    norms = tokens[["input_norm", "output_norm"]]
    norms = norms[norms > 0]
    scale = config.scale
    if scale == "auto":
        scale = "log" if norms.max().max() > _OUTLIER * np.nanmedian(norms) else "linear"
    x_label = "Input norm" if config.width < NARROW else "Norm of the input"
    figure, placed = kind_panels(config, runs, x_label, "Norm of the output")
    chosen = runs.set_index(["hook_point", "objective", "architecture"])
    for kind, panel in placed.items():
        run = chosen.loc[kind]
        ratio = f"ratio {run['rest']:.2f}\nposition 0: {run['first']:.2f}" if np.isfinite(run["rest"]) else "not measured"
        panel.set_title(f"{kind_name(*kind[1:], runs, joint=chr(10))}\n{ratio}", fontsize=7)
        _panel(panel, tokens[tokens["run"] == run["run"]], colour(config, kind[1]))
        _limits(panel, norms, scale)
    entries = [
        Line2D([], [], color=GREY, marker=".", linestyle="none", label="positions after the first"),
        Line2D([], [], **_FIRST, label="position 0"),
        Line2D([], [], color=GREY, linestyle=":", label="equal norms"),
    ]
    legend(figure, entries)
    return figure


def _panel(panel: Axes, tokens: pd.DataFrame, shade: str) -> None:
    if tokens.empty:
        say(panel, "no tokens were sampled", width=14)
    first = tokens[tokens["position"] == 0]
    rest = tokens[tokens["position"] > 0]
    points(panel, rest["input_norm"], rest["output_norm"], 3, color=shade, alpha=0.5)
    # tokens that begin every row alike lie on one point
    at_first = first[["input_norm", "output_norm"]].drop_duplicates()
    panel.plot(at_first["input_norm"], at_first["output_norm"], **_FIRST)


def _limits(panel: Axes, norms: pd.DataFrame, scale: str) -> None:
    """Scale and equal limits of both axes, and the line of equal norms."""
    low, high = norms.min().min(), norms.max().max()
    low, high = (low / 1.5, high * 1.5) if scale == "log" else (0, high * 1.05)
    panel.plot([low, high], [low, high], color=GREY, linestyle=":", linewidth=0.9)
    panel.set(xlim=(low, high), ylim=(low, high), xscale=scale, yscale=scale)
    if scale == "log":
        for axis in (panel.xaxis, panel.yaxis):
            plain_log_ticks(axis, pd.Series([low, high]))
        if high > 10 * low:
            panel.xaxis.set_major_locator(LogLocator())  # labels side by side need more room
