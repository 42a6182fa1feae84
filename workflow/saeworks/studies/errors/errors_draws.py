"""KL divergence of many random directions for one token each, and of the SAE's output (Gurnee 2024)."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..plot import GREY, colour, legend, only_message
from ..reading import kind_name
from .draws import z_scores
from .frame import ABSENT, measured_runs, shown_run, tokens_of
from .panels import grid
from .settings import ErrorsDrawsFigure


def draw(tables: Path, config: ErrorsDrawsFigure) -> Figure:
    """One panel per token, the first ones of one run: a histogram of the directions and a line at the SAE's."""
    runs = measured_runs(tables, "errors_draws")
    if runs.empty:
        return only_message(config, ABSENT)
    run = shown_run(runs)
    frame = tokens_of(tables, runs[runs["run"] == run["run"]], ["draw", "kl"], table="errors_draws")
    scores = z_scores(frame).loc[run["run"]].iloc[: config.tokens]
    shade = colour(config, run["objective"])
    figure, placed = grid(config.model_copy(update={"height": 0.55 * config.height}), [str(row) for row in scores.index])
    for row, panel in placed.items():
        here = frame[frame["row"] == int(row)]
        panel.hist(here.loc[here["draw"] >= 0, "kl"], bins=config.bins, color=GREY, linewidth=0)
        panel.axvline(scores.loc[int(row), "sae"], color=shade, linewidth=1.2)
        panel.set_title(f"row {row}: z = {scores.loc[int(row), 'z']:.1f}", fontsize=6)
        panel.tick_params(labelsize=5.5)
        panel.locator_params(nbins=3)
    figure.supxlabel("KL (nats)", fontsize=8)
    figure.supylabel("Directions", fontsize=8)
    name = f"SAE ({kind_name(run['objective'], run['architecture'], runs)}, {run['hook_point']})"
    legend(figure, [Line2D([], [], color=GREY, label="ε-random directions"), Line2D([], [], color=shade, label=name)])
    return figure
