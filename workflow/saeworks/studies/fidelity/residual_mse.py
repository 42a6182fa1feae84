"""Error of the residual stream at the SAE and at every later layer (Fig. 2 of Braun et al. 2024)."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ..plot import NARROW, legend_columns, look, name_row, only_message, panels, plain_log_ticks, say
from ..reading import hook_points, kind_name, kinds, read_selection
from ..tables import read_table
from .settings import ResidualMseFigure

# Position 0 has its own panel: in many models its residual stream is orders of magnitude longer than any other.
_PANELS = (("rest", "all positions but the first", "-"), ("first", "position 0 only", "--"))


def draw(tables: Path, config: ResidualMseFigure) -> Figure:
    """One row of two panels per hook point: positions > 0 (left) and position 0 (right), one line per selected run.

    An SAE at the output of an attention or MLP has its own error there, which is not one of the residual stream: a marker alone.
    """
    selected = read_selection(tables)
    fidelity = read_table(tables, "fidelity", ["run", "metric", "layer", "positions", "value"])
    errors = fidelity[fidelity["metric"] == "mse"].sort_values("layer")
    if selected.empty:
        return only_message(config, "No runs were selected at similar CE increase.")
    hooks = hook_points(selected)
    present = kinds(selected)
    looks = {kind: look(config, kind[0], [k for k in present if k[0] == kind[0]].index(kind)) for kind in present}
    figure, axes = panels(config, len(hooks), 2, sharex="row")
    for row, hook_point in zip(axes, hooks, strict=True):
        here = selected[selected["hook_point"] == hook_point]
        for panel, (positions, title, dash) in zip(row, _PANELS, strict=True):
            measured = errors[errors["run"].isin(here["run"]) & (errors["positions"] == positions)]
            for run in here.itertuples():
                line = measured[measured["run"] == run.run].set_index("layer")["value"]
                style = looks[run.objective, run.architecture] | {"linestyle": dash}
                if ".hook_resid_" not in hook_point:
                    own, line = line[line.index == run.layer], line[line.index > run.layer]
                    panel.plot(own.index, own, **style | {"linestyle": "none"})
                panel.plot(line.index, line, **style)
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
    handles = [Line2D([], [], **looks[k] | {"linestyle": "-"}, label=kind_name(*k, selected)) for k in present]
    figure.legend(handles=handles, loc="outside upper center", ncols=legend_columns(config, handles, at_most=3))
    return figure
