"""Error of the residual stream at the SAE and at every later layer (Fig. 2 of Braun et al. 2024)."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..plot import NARROW, handles, legend, lines, name_row, named_kinds, only_message, panels, plain_log_ticks, say
from ..reading import hook_points, read_selection
from ..tables import read_table
from .settings import ResidualMseFigure

# Position 0 has its own panel: in many models its residual stream is orders of magnitude longer than any other.
_PANELS = {"rest": "all positions but the first", "first": "position 0 only"}


def draw(tables: Path, config: ResidualMseFigure) -> Figure:
    """One row of two panels per hook point: positions > 0 (left) and position 0 (right), one line per selected run.

    An SAE at the output of an attention or MLP has its own error there, which is not one of the residual stream: a marker alone.
    """
    selected = read_selection(tables)
    fidelity = read_table(tables, "fidelity", ["run", "metric", "layer", "positions", "value"])
    errors = fidelity[fidelity["metric"] == "mse"].sort_values("layer")
    if selected.empty:
        return only_message(config, "No runs were selected at similar CE increase.")
    selected, looks = named_kinds(config, selected)
    errors = errors.merge(selected[["run", "kind", "hook_point", "layer"]].rename(columns={"layer": "own_layer"}), on="run")
    hooks = hook_points(selected)
    figure, axes = panels(config, len(hooks), 2, sharex="row")
    for row, hook_point in zip(axes, hooks, strict=True):
        for panel, (positions, title) in zip(row, _PANELS.items(), strict=True):
            measured = errors[(errors["hook_point"] == hook_point) & (errors["positions"] == positions)]
            alone = (measured["layer"] == measured["own_layer"]) & (".hook_resid_" not in hook_point)
            lines(panel, measured[alone], "layer", "value", looks, dashes=False, linestyle="none")
            lines(panel, measured[~alone], "layer", "value", looks)
            if measured.empty:
                say(panel, "not measured")
            else:
                panel.set_yscale(config.y_scale)
                if config.y_scale == "log":
                    plain_log_ticks(panel.yaxis, measured["value"])
            panel.set_title(title.replace(" but", "\nbut") if config.width < NARROW else title)
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            panel.set_xlabel("Layer" if config.width < NARROW else "Layer (residual stream before block)")
        row[0].set_ylabel("MSE (activation units²)")
        name_row(row, hook_point)
    legend(figure, handles(looks))
    return figure
