"""The SAE's divergence over that of perturbations of the same length, isotropic and of the activations' own shape."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ..plot import legend, only_message, plain_log_ticks
from .frame import ABSENT, measured_runs, run_ratio, tokens_of
from .panels import bars_by_kind, entries, measured
from .settings import BASELINES, ErrorsBaselinesFigure


def draw(tables: Path, config: ErrorsBaselinesFigure) -> Figure:
    """One panel per kind of run: at every hook point the ratio to each baseline, with an interval that resamples rows."""
    runs = measured_runs(tables)
    if runs.empty:
        return only_message(config, ABSENT)
    frame = tokens_of(tables, runs, ["kl_sae", *(f"kl_{name}" for name in BASELINES)], config.positions)
    names = measured(frame, BASELINES)
    figure = bars_by_kind(
        config, runs, names, lambda run, name: run_ratio(frame, run, "kl_sae", f"kl_{name}"), "KL: SAE over it", "log", 1.0
    )
    for panel in figure.axes:
        low, high = panel.get_ylim()
        panel.set_ylim(min(low, 0.5), max(high, 2))
        plain_log_ticks(panel.yaxis, pd.Series(panel.get_ylim()))
    legend(figure, entries(names))
    return figure
