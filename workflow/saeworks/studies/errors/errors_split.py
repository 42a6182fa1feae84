"""Where the divergence lies: parts and corrections of the SAE's error against the whole."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from ..plot import GREY, legend, only_message
from .frame import ABSENT, measured_runs, run_ratio, tokens_of
from .panels import bars_by_kind, entries, measured
from .settings import ErrorsSplitFigure

_PARTS = (
    *("on_directions", "off_directions", "on_unread", "off_unread"),
    *("norm_only", "norm_corrected", "layer_norm", "after_first"),
)


def draw(tables: Path, config: ErrorsSplitFigure) -> Figure:
    """One panel per kind of run: at every hook point the KL of each part over that of the SAE's output; each kind has its own axis."""
    runs = measured_runs(tables)
    if runs.empty:
        return only_message(config, ABSENT)
    frame = tokens_of(tables, runs, ["kl_sae", *(f"kl_{name}" for name in _PARTS)], config.positions)
    names = measured(frame, _PARTS)
    if not names:
        return only_message(config, "No part of the errors was measured: `interventions` leaves them out.")
    figure = bars_by_kind(
        config, runs, names, lambda run, name: run_ratio(frame, run, f"kl_{name}", "kl_sae"), "KL over the SAE's", share_y=False
    )
    for panel in figure.axes:
        panel.axhline(1, color=GREY, linestyle=":", linewidth=0.9)
    legend(figure, entries(names))
    return figure
