"""Two dictionaries in one plane by their cosine with the first principal direction (Fig. 21 of Braun et al. 2024)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..plot import NARROW, colour, legend_columns, only_message
from ..reading import kind_name, kinds
from ..tables import read_table
from .settings import UmapPcaFigure
from .umap import pair_title, pairs_by_hook_point, two_rows_per_hook_point

_POINTS = ["hook_point", "first", "second", "run", "x", "y", "cosine_pca0"]


def draw(tables: Path, config: UmapPcaFigure) -> Figure:
    """One panel per hook point and pair of runs: alive decoder directions by their cosine; below, histograms of it."""
    points = read_table(tables, "umap", _POINTS)
    if points.empty:
        return only_message(config, "No pair of selected dictionaries to embed.")
    runs, pairs = pairs_by_hook_point(tables, points)
    figure, placed = two_rows_per_hook_point(config, pairs, (1.0, 0.5))
    for hook_point, found in pairs.items():
        for (first, second), (panel, below) in zip(found, placed[hook_point], strict=True):
            here = points[(points["first"] == first) & (points["second"] == second)]
            drawn = panel.scatter(
                here["x"], here["y"], s=config.point_size, c=here["cosine_pca0"], cmap=config.colormap, vmin=-1, vmax=1,
                linewidths=0, rasterized=True,
            )  # fmt: skip
            panel.set_title(pair_title(runs, first, second, config.width < NARROW))
            panel.set_xticks([])
            panel.set_yticks([])
            for run in (first, second):
                cosines = here.loc[here["run"] == run, "cosine_pca0"].to_numpy()
                counts, edges = np.histogram(cosines, config.bins, (-1, 1))
                below.stairs(counts / len(cosines), edges, color=colour(config, runs.loc[run, "objective"]), linewidth=1.2)
            below.set_xlim(-1, 1)
            below.set_xlabel("Cosine" if config.width < NARROW else "Cosine with direction 0")
        placed[hook_point][0][1].set_ylabel("Fraction\nof features")
    figure.colorbar(drawn, ax=figure.axes, shrink=0.5, aspect=40, pad=0.02)
    handles = [Line2D([], [], color=colour(config, o), label=kind_name(o, a, runs)) for o, a in kinds(runs)]
    figure.legend(handles=handles, loc="outside upper center", ncols=legend_columns(config, handles))
    return figure
