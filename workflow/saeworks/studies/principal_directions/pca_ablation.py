"""How much the model's output depends on each principal direction of the activations (Fig. 23b of Braun et al. 2024)."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..plot import colour, legend_columns, name_row, only_message, panels, plain_log_ticks
from ..reading import hook_points
from ..tables import read_table
from .settings import PcaAblationFigure

_LINES = {"kl": ("KL(clean ‖ ablated)", "-", "o"), "kl_reverse": ("KL(ablated ‖ clean)", "--", "s")}


def draw(tables: Path, config: PcaAblationFigure) -> Figure:
    """One panel per hook point: KL by the direction that is resampled, in both orders of its arguments."""
    ablated = read_table(tables, "pca_ablation", ["hook_point", "direction", *_LINES])
    if ablated.empty:
        return only_message(config, "No principal directions were measured.")
    hooks = hook_points(ablated)
    figure, axes = panels(config, len(hooks), 1)
    for panel, hook_point in zip(axes[:, 0], hooks, strict=True):
        here = ablated[ablated["hook_point"] == hook_point].sort_values("direction")
        handles = [
            panel.plot(
                here["direction"],
                here[column],
                color=colour(config, column),
                linestyle=dash,
                marker=marker,
                markersize=3,
                label=label,
            )[0]
            for column, (label, dash, marker) in _LINES.items()
        ]
        panel.set_yscale(config.y_scale)
        if config.y_scale == "log":
            plain_log_ticks(panel.yaxis, here["kl"])
        else:
            panel.set_ylim(bottom=0)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.set_ylabel("KL (nats/token)")
        name_row([panel], hook_point)
    axes[-1, 0].set_xlabel("Principal direction that is resampled")
    figure.legend(handles=handles, loc="outside upper center", ncols=legend_columns(config, handles, at_most=2))
    return figure
