"""How much the model's output depends on each principal direction of the activations (Fig. 23b of Braun et al. 2024)."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..plot import colour, handles, legend, lines, name_row, only_message, panels, plain_log_ticks
from ..reading import hook_points
from ..tables import read_table
from .settings import PcaAblationFigure

_ORDERS = {"kl": ("KL(clean ‖ ablated)", "-", "o"), "kl_reverse": ("KL(ablated ‖ clean)", (0, (4, 1.5)), "s")}


def draw(tables: Path, config: PcaAblationFigure) -> Figure:
    """One panel per hook point: KL by the direction that is resampled, in both orders of its arguments."""
    ablated = read_table(tables, "pca_ablation", ["hook_point", "direction", *_ORDERS])
    if ablated.empty:
        return only_message(config, "No principal directions were measured.")
    looks = {
        label: {"color": colour(config, column), "linestyle": dash, "marker": marker}
        for column, (label, dash, marker) in _ORDERS.items()
    }
    long = ablated.rename(columns={column: label for column, (label, *_) in _ORDERS.items()})
    long = long.melt(["hook_point", "direction"], list(looks), "order", "kl").sort_values("direction")
    hooks = hook_points(ablated)
    figure, axes = panels(config, len(hooks), 1)
    for panel, hook_point in zip(axes[:, 0], hooks, strict=True):
        here = long[long["hook_point"] == hook_point]
        lines(panel, here, "direction", "kl", looks, by="order", markersize=3)
        panel.set_yscale(config.y_scale)
        if config.y_scale == "log":
            plain_log_ticks(panel.yaxis, here["kl"])
        else:
            panel.set_ylim(bottom=0)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.set_ylabel("KL (nats/token)")
        name_row([panel], hook_point)
    axes[-1, 0].set_xlabel("Principal direction that is resampled")
    legend(figure, handles(looks, markersize=3))
    return figure
