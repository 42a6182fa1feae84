"""Histograms of single tokens, SAE against ε-random, which two figures share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...config.figures import FigureStyle
from ..plot import GREY, colour, kind_panels, legend
from ..reading import kind_name, of_kind


def sae_and_random(
    config: FigureStyle,
    runs: pd.DataFrame,
    frame: pd.DataFrame,
    quantity: str,
    edges: np.ndarray,
    x_label: str,
    said: Callable[[pd.Series, pd.Series], str],
) -> Figure:
    """One panel per hook point and kind: counts of the tokens, on a logarithmic axis; values beyond the edges in the outer bins.

    `said` makes the last line of a panel's title from the values of the SAE and of ε-random.
    """
    figure, placed = kind_panels(config, runs, x_label, "Tokens")
    for (hook_point, *kind), panel in placed.items():
        run = of_kind(runs, hook_point, *kind)["run"].iloc[0]
        sae, random = (frame.loc[frame["run"] == run, f"{quantity}_{name}"].dropna() for name in ("sae", "random"))
        for values, shade in ((random, GREY), (sae, colour(config, kind[0]))):
            counts = np.histogram(values.clip(edges[0], edges[-1]), edges)[0]
            panel.stairs(counts, edges, color=shade, linewidth=0.9, fill=False)
        panel.set_yscale("log")
        panel.set_title(f"{kind_name(*kind, runs, joint=chr(10))}\n{said(sae, random)}", fontsize=6.5)
    shown = [Line2D([], [], color=GREY, label="ε-random"), Line2D([], [], color="black", label="SAE (in the objective's colour)")]
    legend(figure, shown)
    return figure
