"""Whether encoder directions agree across seeds where decoder directions do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..plot import GREY, NARROW, colour, cosine_axis, kind_panels, legend_columns, only_message, say
from ..reading import hook_points, kinds, read_runs
from ..seeds import NO_SEEDS, heading, joint, of_first_run, of_kind, read_matching, with_interval
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
    runs = runs[runs["hook_point"].isin(matches["hook_point"])]
    kinds_at = {hook_point: kinds(runs[runs["hook_point"] == hook_point]) for hook_point in hook_points(runs)}
    narrow = config.width < NARROW
    labels = ("Decoder\ncosine", "Encoder cosine") if narrow else ("Decoder cosine\nwith partner", "Encoder cosine with partner")
    figure, placed = kind_panels(config, kinds_at, *labels)
    between = joint(config, figure.axes[0].get_gridspec().ncols)
    for hook_point, found in placed.items():
        for objective, architecture, panel in found:
            here, means = (of_kind(frame, hook_point, objective, architecture) for frame in (matches, matching))
            _panel(panel, here, means, colour(config, objective), config)
            lines = [heading(here, objective, architecture, runs, between)]
            if len(here):
                lines.append("shared " + with_interval(means[means["metric"] == "shared_fraction"], between))
            panel.set_title("\n".join(lines), fontsize=7)
    same = {"color": "black", "marker": "o", "linestyle": "none", "markersize": 3}
    handles = [
        Line2D([], [], **same, label="same partner twice"),
        Line2D([], [], **same | {"color": GREY}, markerfacecolor="none", markeredgewidth=0.5, label="two partners"),
        Line2D([], [], color="black", marker="+", linestyle="none", markersize=9, label="mean"),
        Line2D([], [], color=GREY, linestyle=":", label="random directions"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=legend_columns(config, handles))
    return figure


def _panel(panel: Axes, matches: pd.DataFrame, means: pd.DataFrame, shade: str, config: EncoderDecoderFigure) -> None:
    cosine_axis(panel)
    panel.set_ylim(0, 1)
    if matches.empty:
        say(panel, "one seed only", width=14)
        return
    panel.axline((0, 0), slope=1, color="#cccccc", linewidth=0.6)
    same = matches["decoder_partner"] == matches["encoder_partner"]
    for chosen, look in (
        (~same, {"facecolors": "none", "edgecolors": shade, "alpha": 0.5}),
        (same, {"color": shade, "alpha": 0.8}),
    ):
        part = matches[chosen]
        x, y = (np.clip(part[f"{kind}_cosine"], 0, 1) for kind in ("decoder", "encoder"))
        panel.scatter(x, y, s=config.size, linewidths=0.4, rasterized=True, **look)
    panel.plot([matches["decoder_cosine"].mean()], [matches["encoder_cosine"].mean()], "+", color="black", markersize=9)
    matched = means[means["metric"] == "matched_cosine"]
    for kind, line in (("decoder", panel.axvline), ("encoder", panel.axhline)):
        baseline = matched.loc[matched["directions"] == kind, "random_baseline"].mean()
        if np.isfinite(baseline):
            line(baseline, color=GREY, linestyle=":")
