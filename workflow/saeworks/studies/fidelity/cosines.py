"""Cosine of the SAE's output with its input, token by token (Fig. 11 of Braun et al. 2024)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..plot import GREY, colour, histogram, inward, kind_panels, legend, only_message, say
from ..reading import kind_name
from ..tables import read_table
from .norm_table import at_positions
from .settings import CosinesFigure


def draw(tables: Path, config: CosinesFigure) -> Figure:
    """Per hook point one panel per objective and architecture: the sampled tokens after position 0 of the selected run.

    Means and the baseline are those of all held-out tokens; the axis begins at the tenth below all that is shown.
    """
    runs = at_positions(tables, "cosine_similarity")
    baseline = at_positions(tables, "cosine_similarity_random_pairs").set_index("run")["rest"]
    tokens = read_table(tables, "tokens", ["run", "position", "cosine"])
    tokens = tokens[tokens["run"].isin(runs["run"]) & (tokens["position"] > 0)]
    if runs.empty or tokens.empty:
        return only_message(config, "No runs were selected at similar CE increase.")
    shown = pd.concat([tokens["cosine"], runs["first"], baseline])
    low = max(-1.0, np.floor(10 * min(shown.min(), 0.9)) / 10)
    figure, placed = kind_panels(config, runs, "Cosine of input\nand output", "Fraction of tokens")
    chosen = runs.set_index(["hook_point", "objective", "architecture"])
    for kind, panel in placed.items():
        run = chosen.loc[kind]
        mean = f"mean {run['rest']:.3f}" if np.isfinite(run["rest"]) else "not measured"
        panel.set_title(f"{kind_name(*kind[1:], runs, joint=chr(10))}\n{mean}", fontsize=7)
        cosines = tokens.loc[tokens["run"] == run["run"], "cosine"]
        _panel(panel, cosines, run, baseline[run["run"]], low, config.bins, colour(config, kind[1]))
    entries = [
        Line2D([], [], color="black", linestyle="--", label="mean"),
        Line2D([], [], color="black", marker="v", linestyle="none", label="position 0"),
        Line2D([], [], color=GREY, linestyle=":", label="random pairs"),
    ]
    legend(figure, entries)
    return figure


def _panel(panel: Axes, cosines: pd.Series, run: pd.Series, baseline: float, low: float, bins: int, shade: str) -> None:
    panel.set_xlim(low, 1)
    panel.set_xticks([low, (low + 1) / 2, 1], [f"{tick:.2g}" for tick in (low, (low + 1) / 2, 1)])
    inward(panel)
    if cosines.size == 0:
        say(panel, "no tokens were sampled", width=14)
        return
    histogram(panel, cosines, bins, low, shade)  # single precision can leave a cosine just outside
    panel.axvline(baseline, color=GREY, linestyle=":")
    panel.axvline(run["rest"], color="black", linestyle="--")
    panel.plot([run["first"]], [0.97], "v", color="black", transform=panel.get_xaxis_transform(), clip_on=False)
