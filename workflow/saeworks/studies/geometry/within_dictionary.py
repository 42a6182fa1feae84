"""How near each feature's closest neighbour in its own dictionary lies (Fig. 3a of Braun et al. 2024)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..plot import (
    GREY,
    NARROW,
    POSITIVE,
    colour,
    cosine_axis,
    histogram,
    kind_panels,
    legend,
    only_message,
    positive_control,
    say,
)
from ..reading import alike, kind_name, of_kind, read_selection
from ..tables import read_table
from .cross_seed import of_seeds
from .settings import WithinDictionaryFigure

_GEOMETRY = ["comparison", "run_a", "directions", "features", "value", "ci_low", "ci_high", "random_baseline"]


def draw(tables: Path, config: WithinDictionaryFigure) -> Figure:
    """Per hook point one panel per objective and architecture: the alive decoder features of the selected run.

    The interval in a title is the table's: a bootstrap over clusters of features of that one dictionary. Where a kind was trained in
    several seeds, a line is the mean nearest cosine across them, of runs of any sparsity.
    """
    selected = read_selection(tables)
    nearest = read_table(tables, "nearest", ["comparison", "run_a", "cosine"])
    nearest = nearest[(nearest["comparison"] == "within") & np.isfinite(nearest["cosine"].astype(float))]
    means = read_table(tables, "geometry", _GEOMETRY)
    means = means[(means["comparison"] == "within") & (means["directions"] == "decoder") & (means["features"] == "alive")].dropna(
        subset="value"
    )
    if selected.empty:
        return only_message(config, "No runs were selected at similar CE increase.")
    x_label = "Cosine" if config.width < NARROW else "Cosine with nearest"
    figure, placed = kind_panels(config, selected, x_label, "Fraction of features")
    across = of_seeds(tables)
    chosen = selected.set_index(["hook_point", "objective", "architecture"])["run"]
    for kind, panel in placed.items():
        name = kind_name(*kind[1:], selected, joint="\n")
        features, mean = (frame[frame["run_a"] == chosen[kind]] for frame in (nearest, means))
        _panel(panel, name, colour(config, kind[1]), features, mean, config.bins)
        positive_control(panel, of_kind(across, *kind)["value"])
    entries = [
        Line2D([], [], color="black", linestyle="--", label="mean"),
        Line2D([], [], color=GREY, linestyle=":", label="random directions"),
    ]
    if len(alike(selected, across)):
        entries.append(Line2D([], [], **POSITIVE, label="mean with another seed's"))
    legend(figure, entries)
    return figure


def _panel(panel: Axes, name: str, shade: str, features: pd.DataFrame, means: pd.DataFrame, bins: int) -> None:
    cosine_axis(panel)
    if features.empty or means.empty:
        panel.set_title(name)
        say(panel, "no run with two alive features", width=14)
        return
    histogram(panel, features["cosine"], bins, 0, shade)
    mean = means.iloc[0]
    panel.axvline(mean["random_baseline"], color=GREY, linestyle=":")
    panel.axvline(mean["value"], color="black", linestyle="--")
    interval = f"[{mean['ci_low']:.3f}, {mean['ci_high']:.3f}]"
    panel.set_title(f"{name}\n{len(features):,} features\nmean {mean['value']:.3f}\n{interval}", fontsize=7)
