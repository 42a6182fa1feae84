"""Histograms of nearest cosines between two dictionaries, in both directions."""

from __future__ import annotations

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ..plot import GREY, cosine_axis, histogram

PAIR = ["comparison", "run_a", "run_b", "direction"]
MEANS = [*PAIR, "directions", "features", "value", "ci_low", "ci_high", "random_baseline"]


def draw_both(panel: Axes, heading: str, shade: str, nearest: pd.DataFrame, means: pd.DataFrame, bins: int, between: str) -> None:
    """Cosines of the pairs `nearest`, filled where `forward` and outlined where not, with the means of each direction.

    The title has, under `heading`, the mean of each direction and in brackets, after `between`, its interval; with several pairs
    the range of their means.
    """
    cosine_axis(panel)
    lines = [heading]
    for forward, arrow in ((True, "→"), (False, "←")):
        cosines, of_pairs = (frame[frame["forward"] == forward] for frame in (nearest, means))
        if cosines.empty or of_pairs.empty:
            continue
        histogram(panel, cosines["cosine"], bins, 0, shade if forward else "black", outline=not forward)
        panel.axvline(of_pairs["random_baseline"].mean(), color=GREY, linestyle=":")
        panel.axvline(of_pairs["value"].mean(), color="black", linestyle="--")
        low, high = ("ci_low", "ci_high") if len(of_pairs) == 1 else ("value", "value")
        lines.append(f"{arrow} {of_pairs['value'].mean():.3f}{between}[{of_pairs[low].min():.3f}, {of_pairs[high].max():.3f}]")
    panel.set_title("\n".join(lines), fontsize=7)


def entries(forward: str, backward: str) -> list[Artist]:
    """Entries of the legend, with what the two directions are called."""
    return [
        Patch(facecolor=GREY, alpha=0.5, label=f"→ {forward}"),
        Line2D([], [], color="black", linewidth=0.9, label=f"← {backward}"),
        Line2D([], [], color="black", linestyle="--", label="mean"),
        Line2D([], [], color=GREY, linestyle=":", label="random directions"),
    ]
