"""How SAEs pass on each principal direction of their input (Fig. 23a of Braun et al. 2024)."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ..plot import legend_columns, looks_of, name_row, only_message, panels, say
from ..reading import hook_points, kind_name, read_selection
from ..tables import read_table
from .settings import PcaCorrelationFigure

_PANELS = (("rest", "positions > 0", "-"), ("first", "position 0", "--"))


def draw(tables: Path, config: PcaCorrelationFigure) -> Figure:
    """One row of two panels per hook point: Pearson's r by direction at positions > 0 (left) and at position 0 (right)."""
    measured = read_table(tables, "pca_correlation", ["run", "direction", "positions", "r"])
    selected = read_selection(tables)
    selected = selected[selected["run"].isin(measured["run"])]
    if selected.empty:
        return only_message(config, "No runs were selected at similar CE increase.")
    looks, hooks = looks_of(config, selected), hook_points(selected)
    figure, axes = panels(config, len(hooks), 2, sharex="row", sharey="row")
    for row, hook_point in zip(axes, hooks, strict=True):
        here = selected[selected["hook_point"] == hook_point]
        for panel, (positions, title, dash) in zip(row, _PANELS, strict=True):
            values = measured[(measured["positions"] == positions) & measured["run"].isin(here["run"])]
            for run in here.itertuples():
                line = values[values["run"] == run.run].set_index("direction")["r"].sort_index()
                style = looks[run.objective, run.architecture] | {"linestyle": dash, "markersize": 3}
                panel.plot(line.index, line, **style)
            if values["r"].isna().all():
                say(panel, "the activations do not vary here")
            panel.set_title(title)
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            panel.set_xlabel("Principal direction")
        row[0].set_ylim(min(0, row[0].get_ylim()[0]), 1.05)
        row[0].set_ylabel("Input–output correlation")
        name_row(row, hook_point)
    handles = [
        Line2D([], [], **looks[kind] | {"linestyle": "-", "markersize": 3}, label=kind_name(*kind, selected)) for kind in looks
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=legend_columns(config, handles, at_most=3))
    return figure
