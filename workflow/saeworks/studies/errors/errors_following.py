"""KL divergence at the one position that is replaced, and at the next (Gurnee 2024)."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from ..plot import legend, only_message
from .frame import ABSENT, mean_with_interval, measured_runs, tokens_of
from .panels import bars_by_kind, entries, measured
from .settings import OF_POST, ErrorsFollowingFigure


def draw(tables: Path, config: ErrorsFollowingFigure) -> Figure:
    """Two panels per kind of run: at every hook point the mean KL of each intervention, there and one position later."""
    runs = measured_runs(tables, "errors_single")
    if runs.empty:
        return only_message(config, ABSENT)
    frame = tokens_of(tables, runs, ["offset", *(f"kl_{name}" for name in OF_POST)], table="errors_single")
    names = measured(frame, OF_POST)
    apart = [frame[frame["offset"] == offset] for offset in (0, 1)]

    def value(run: str, name: str) -> tuple[float, float, float]:
        run, _, column = run.rpartition("/")
        return mean_with_interval(apart[int(column)], run, f"kl_{name}")

    figure = bars_by_kind(
        config, runs, names, value, "KL (nats)", config.y_scale, None, 2, lambda column: (": replaced", ": the next")[column]
    )
    legend(figure, entries(names))
    return figure
