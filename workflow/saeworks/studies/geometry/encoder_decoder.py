"""Whether encoder directions agree across seeds where decoder directions do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..plot import GREY, NARROW, colour, cosine_axis, kind_panels, legend, only_message, points
from ..reading import alike, of_kind, read_runs
from ..seeds import NO_SEEDS, heading, joint, of_first_run, read_matching, with_interval
from .settings import EncoderDecoderFigure

_MATCHES = ["decoder_partner", "decoder_cosine", "encoder_partner", "encoder_cosine"]


def draw(tables: Path, config: EncoderDecoderFigure) -> Figure:
    """Per hook point one panel per objective and architecture; every alive feature of the lowest seed is a point.

    Its cosine with its partner in the second seed, one to one by decoder directions, and with that by encoder directions.
    """
    matches = of_first_run(tables, "matches", _MATCHES).dropna(subset=["decoder_cosine", "encoder_cosine"])
    matching = read_matching(tables)
    matching = matching[matching["comparison"] == "cross_seed"]
    if matches.empty:
        return only_message(config, NO_SEEDS)
    runs = read_runs(tables)
    runs = alike(runs, matches)
    narrow = config.width < NARROW
    labels = ("Decoder\ncosine", "Encoder cosine") if narrow else ("Decoder cosine\nwith partner", "Encoder cosine with partner")
    figure, placed = kind_panels(config, runs, *labels)
    between = joint(config, figure.axes[0].get_gridspec().ncols)
    for kind, panel in placed.items():
        here, means = (of_kind(frame, *kind) for frame in (matches, matching))
        _panel(panel, here, means, colour(config, kind[1]), config)
        shared = with_interval(means[means["metric"] == "shared_fraction"], between)
        lines = [heading(here, *kind[1:], runs, between), f"shared {shared}"]
        panel.set_title("\n".join(lines), fontsize=7)
    same = {"color": "black", "marker": "o", "linestyle": "none", "markersize": 3}
    entries = [
        Line2D([], [], **same, label="same partner twice"),
        Line2D([], [], **same | {"color": GREY}, markerfacecolor="none", markeredgewidth=0.5, label="two partners"),
        Line2D([], [], color="black", marker="+", linestyle="none", markersize=9, label="mean"),
        Line2D([], [], color=GREY, linestyle=":", label="random directions"),
    ]
    legend(figure, entries)
    return figure


def _panel(panel: Axes, matches: pd.DataFrame, means: pd.DataFrame, shade: str, config: EncoderDecoderFigure) -> None:
    cosine_axis(panel)
    panel.set_ylim(*panel.get_xlim())
    panel.axline((0, 0), slope=1, color="#cccccc", linewidth=0.6)
    same = matches["decoder_partner"] == matches["encoder_partner"]
    x, y = (matches[f"{kind}_cosine"].clip(0, 1) for kind in ("decoder", "encoder"))
    points(panel, x[~same], y[~same], config.size, facecolor="none", edgecolor=shade, alpha=0.5, linewidth=0.4)
    points(panel, x[same], y[same], config.size, color=shade, alpha=0.8)
    panel.plot([matches["decoder_cosine"].mean()], [matches["encoder_cosine"].mean()], "+", color="black", markersize=9)
    matched = means[means["metric"] == "matched_cosine"]
    for kind, line in (("decoder", panel.axvline), ("encoder", panel.axhline)):
        baseline = matched.loc[matched["directions"] == kind, "random_baseline"].mean()
        if np.isfinite(baseline):
            line(baseline, color=GREY, linestyle=":")
