"""KL divergence by layer and intervention, every position replaced (Gurnee 2024)."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from ..plot import legend, only_message
from .frame import ABSENT, mean_with_interval, measured_runs, tokens_of
from .panels import bars_by_kind, entries, measured
from .settings import OF_POST, ErrorsKlFigure


def draw(tables: Path, config: ErrorsKlFigure) -> Figure:
    """One panel per kind of run: at every hook point the mean KL of each intervention of the post."""
    runs = measured_runs(tables)
    if runs.empty:
        return only_message(config, ABSENT)
    frame = tokens_of(tables, runs, [f"kl_{name}" for name in OF_POST], config.positions)
    names = measured(frame, OF_POST)
    figure = bars_by_kind(
        config, runs, names, lambda run, name: mean_with_interval(frame, run, f"kl_{name}"), "KL (nats/token)", config.y_scale
    )
    legend(figure, entries(names))
    return figure
