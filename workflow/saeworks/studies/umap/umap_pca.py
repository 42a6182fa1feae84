"""Two dictionaries in one plane by their cosine with the first principal direction (Fig. 21 of Braun et al. 2024)."""

from __future__ import annotations

from pathlib import Path

from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..plot import NARROW, colour, histogram, legend, only_message, points
from ..reading import kind_name, kinds
from ..tables import read_table
from .settings import UmapPcaFigure
from .umap import pair_title, pairs_by_hook_point, two_rows_per_hook_point

_POINTS = ["hook_point", "first", "second", "run", "x", "y", "cosine_pca0"]


def draw(tables: Path, config: UmapPcaFigure) -> Figure:
    """One panel per hook point and pair of runs: alive decoder directions by their cosine; below, histograms of it."""
    embedded = read_table(tables, "umap", _POINTS)
    if embedded.empty:
        return only_message(config, "No pair of selected dictionaries to embed.")
    runs, pairs = pairs_by_hook_point(tables, embedded)
    figure, placed = two_rows_per_hook_point(config, pairs, (1.0, 0.5))
    for hook_point, found in pairs.items():
        for (first, second), (panel, below) in zip(found, placed[hook_point], strict=True):
            here = embedded[(embedded["first"] == first) & (embedded["second"] == second)]
            shown = {"hue": here["cosine_pca0"].to_numpy(), "hue_norm": (-1, 1), "palette": config.colormap}
            points(panel, here["x"], here["y"], config.point_size, **shown)
            panel.set_title(pair_title(runs, first, second, config.width < NARROW))
            for run in (first, second):
                shade = colour(config, runs.loc[run, "objective"])
                histogram(below, here.loc[here["run"] == run, "cosine_pca0"], config.bins, -1, shade, outline=True)
            below.set_xlim(-1, 1)
            below.set_xlabel("Cosine" if config.width < NARROW else "Cosine with direction 0")
        placed[hook_point][0][1].set_ylabel("Fraction\nof features")
    colours = ScalarMappable(Normalize(-1, 1), config.colormap)
    figure.colorbar(colours, ax=figure.axes, shrink=0.5, aspect=40, pad=0.02)
    entries = [Line2D([], [], color=colour(config, o), label=kind_name(o, a, runs)) for o, a in kinds(runs)]
    legend(figure, entries)
    return figure
