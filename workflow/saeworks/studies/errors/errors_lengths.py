"""KL divergence of errors and random vectors rescaled to the same lengths."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..plot import GREY, handles, legend, named_kinds, only_message
from ..tables import read_table
from .frame import ABSENT, measured_runs
from .panels import hook_grid
from .settings import ErrorsLengthsFigure

_COLUMNS = ["hook_point", "run", "sweep", "direction", "level", "row", "kl"]
_RANDOM = {
    "random": {"color": GREY, "linestyle": ":", "label": "random direction"},
    "real_mixture": {"color": "black", "linestyle": "--", "label": "real difference"},
}


def draw(tables: Path, config: ErrorsLengthsFigure) -> Figure:
    """One panel per hook point: mean KL against the length, of each chosen run's errors, and of the two kinds of random vectors."""
    sweep = read_table(tables, "errors_sweep", _COLUMNS)
    sweep = sweep[sweep["sweep"] == "length"]
    if sweep.empty:
        return only_message(config, ABSENT)
    runs = measured_runs(tables, "errors_sweep")
    if runs.empty:
        return only_message(config, ABSENT)
    runs, looks = named_kinds(config, runs)
    means = sweep.groupby(["hook_point", "direction", "run", "level"])["kl"].mean()
    figure, placed = hook_grid(config, runs, sharey=True)
    for hook_point, panel in placed.items():
        for direction, style in _RANDOM.items():
            here = means[hook_point, direction, ""]
            panel.plot(here.index, here, linewidth=1, **style)
        for run in runs[runs["hook_point"] == hook_point].itertuples():
            here = means[hook_point, "error", run.run]
            panel.plot(here.index, here, linewidth=1, markersize=2.5, **looks[run.kind])
        panel.set(xscale=config.y_scale, yscale=config.y_scale, xlabel="Length / mean norm")
        panel.tick_params(labelsize=6)
    next(iter(placed.values())).set_ylabel("KL (nats/token)")
    legend(figure, [*handles(looks, markersize=2.5), *(Line2D([], [], **style) for style in _RANDOM.values())])
    return figure
