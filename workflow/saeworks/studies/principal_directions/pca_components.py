"""What the first principal direction of the activations is about (Fig. 22 of Braun et al. 2024)."""

from __future__ import annotations

from pathlib import Path

import seaborn
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..plot import NARROW, colour, legend, name_row, only_message, panels
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
    shades = {kind: colour(config, kind) for kind in KINDS if (histogram.loc[histogram["tokens"] == kind, "count"] > 0).any()}
    for panel, hook_point in zip(axes[:, 0], hooks, strict=True):
        here = histogram[histogram["hook_point"] == hook_point]
        edges = sorted({*here["low"], *here["high"]})
        seaborn.histplot(
            here.assign(middle=(here["low"] + here["high"]) / 2), x="middle", weights="count", bins=edges,
            hue="tokens", hue_order=list(shades), palette=shades, stat="proportion", common_norm=False,
            element="step", alpha=0.45, linewidth=0.9, legend=False, ax=panel,
        )  # fmt: skip
        panel.set_yscale(config.y_scale)
        panel.set_ylabel("Share of tokens")
        first = components[(components["hook_point"] == hook_point) & (components["direction"] == 0)].iloc[0]
        text = f"direction 0: {first['variance_share']:.0%} of the variance,"
        panel.set_title(
            f"{text}{chr(10) if config.width < NARROW else ' '}cosine {first['cosine_first']:.3f} with mean at position 0"
        )
        name_row([panel], hook_point)
    axes[-1, 0].set_xlabel("Component along direction 0 (activation units)")
    legend(figure, [Patch(color=shade, alpha=0.45, label=KINDS[kind]) for kind, shade in shades.items()])
    return figure
