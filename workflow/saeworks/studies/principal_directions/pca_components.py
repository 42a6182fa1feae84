"""What the first principal direction of the activations is about (Fig. 22 of Braun et al. 2024)."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from ..plot import NARROW, colour, legend_columns, name_row, only_message, panels
from ..reading import hook_points
from ..tables import read_table
from .settings import PcaComponentsFigure

KINDS = {"position 0": "position 0", "end of text": "end of text elsewhere", "other": "other tokens"}


def draw(tables: Path, config: PcaComponentsFigure) -> Figure:
    """One panel per hook point: the share of each kind of token per bin of the component along direction 0."""
    histogram = read_table(tables, "pca_histogram", ["hook_point", "tokens", "low", "high", "count"])
    components = read_table(tables, "pca_components", ["hook_point", "direction", "variance_share", "cosine_first"])
    if histogram.empty:
        return only_message(config, "No principal directions were measured.")
    hooks = hook_points(histogram)
    figure, axes = panels(config, len(hooks), 1)
    handles = {}
    for panel, hook_point in zip(axes[:, 0], hooks, strict=True):
        here = histogram[histogram["hook_point"] == hook_point]
        for kind, label in KINDS.items():
            bins = here[here["tokens"] == kind].sort_values("low")
            total = bins["count"].sum()
            if not total:
                continue
            edges = [*bins["low"], bins["high"].iloc[-1]]
            shade = colour(config, kind)
            handles[kind] = panel.stairs(bins["count"] / total, edges, color=shade, fill=True, alpha=0.45, label=label)
            panel.stairs(bins["count"] / total, edges, color=shade, linewidth=0.9)
        panel.set_yscale(config.y_scale)
        panel.set_ylabel("Share of tokens")
        first = components[(components["hook_point"] == hook_point) & (components["direction"] == 0)].iloc[0]
        text = f"direction 0: {first['variance_share']:.0%} of the variance,"
        panel.set_title(
            f"{text}{chr(10) if config.width < NARROW else ' '}cosine {first['cosine_first']:.3f} with mean at position 0"
        )
        name_row([panel], hook_point)
    axes[-1, 0].set_xlabel("Component along direction 0 (activation units)")
    drawn = [handles[kind] for kind in KINDS if kind in handles]
    figure.legend(handles=drawn, loc="outside upper center", ncols=legend_columns(config, drawn, at_most=3))
    return figure
