"""How SAEs pass on each principal direction of their input (Fig. 23a of Braun et al. 2024)."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..plot import handles, legend, lines, name_row, named_kinds, only_message, panels, say
from ..reading import hook_points, read_selection
from ..tables import read_table
from .settings import PcaCorrelationFigure

_PANELS = {"rest": "positions > 0", "first": "position 0"}


def draw(tables: Path, config: PcaCorrelationFigure) -> Figure:
    """One row of panels per hook point: Pearson's r by direction at positions > 0 and, where it is defined, at position 0."""
    measured = read_table(tables, "pca_correlation", ["hook_point", "run", "direction", "positions", "r"])
    selected = read_selection(tables)
    selected = selected[selected["run"].isin(measured["run"])]
    if selected.empty:
        return only_message(config, "No runs were selected at similar CE increase.")
    selected, looks = named_kinds(config, selected)
    measured = measured.merge(selected[["run", "kind"]], on="run").sort_values("direction")
    hooks = hook_points(selected)
    varying = set(measured.dropna(subset="r")["positions"])  # every row may begin with the same token
    shown = {positions: title for positions, title in _PANELS.items() if positions in varying}
    if not shown:
        return only_message(config, "The activations do not vary along the principal directions.")
    figure, axes = panels(config, len(hooks), len(shown), sharex="row", sharey="row")
    for row, hook_point in zip(axes, hooks, strict=True):
        for panel, (positions, title) in zip(row, shown.items(), strict=True):
            here = measured[(measured["positions"] == positions) & (measured["hook_point"] == hook_point)]
            pieces = here["r"].isna().groupby(here["kind"]).cumsum()  # between undefined ones, where a line has a gap
            lines(panel, here.assign(piece=pieces), "direction", "r", looks, markersize=3, units="piece")
            if here["r"].isna().all():
                say(panel, "the activations do not vary here")
            panel.set_title(title)
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            panel.set_xlabel("Principal direction")
        row[0].set_ylim(min(0, row[0].get_ylim()[0]), 1.05)
        row[0].set_ylabel("Input–output correlation")
        name_row(row, hook_point)
    legend(figure, handles(looks, markersize=3))
    return figure
