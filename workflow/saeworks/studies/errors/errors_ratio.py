"""Ratio of the divergences of SAE and ε-random against L0, for every objective and architecture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..plot import GREY, handles, legend, named_kinds, only_message, plain_log_ticks, say
from .frame import ABSENT, measured_runs, run_ratio, tokens_of
from .panels import hook_grid
from .settings import ErrorsRatioFigure


def draw(tables: Path, config: ErrorsRatioFigure) -> Figure:
    """One panel per hook point, a marker per run with an interval that resamples rows."""
    runs = measured_runs(tables, chosen=False)
    if runs.empty:
        return only_message(config, ABSENT)
    above, below = f"{config.quantity}_sae", f"{config.quantity}_random"
    frame = tokens_of(tables, runs, ["l0", above, below], config.positions)
    runs, looks = named_kinds(config, runs)
    l0 = frame.groupby("run")["l0"].mean()
    figure, placed = hook_grid(config, runs, sharex=True, sharey=True)
    values = []
    for hook_point, panel in placed.items():
        drawn = 0
        for run in runs[runs["hook_point"] == hook_point].itertuples():
            value, low, high = run_ratio(frame, run.run, above, below)
            if value > 0:
                style = looks[run.kind] | {"linestyle": "none", "markersize": 3.5, "elinewidth": 0.7}
                reach = [[max(value - low, 0)], [max(high - value, 0)]] if low > 0 and np.isfinite(high) else None
                panel.errorbar(max(l0[run.run], 0.1), value, yerr=reach, **style)
                drawn += 1
                values.append(value)
        if not drawn:
            say(panel, "no ratio is positive")
        panel.axhline(1, color=GREY, linestyle=":", linewidth=0.9)
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.tick_params(labelsize=6, labelbottom=True)
        panel.set_xlabel("L0")
    first = next(iter(placed.values()))
    plain_log_ticks(first.xaxis, l0)
    plain_log_ticks(first.yaxis, pd.Series(values, dtype=float))
    name = {"kl": "KL", "ce": "CE increase"}[config.quantity]
    first.set_ylabel(f"{name}: SAE over ε-random")
    legend(figure, handles(looks, linestyle="none"))
    return figure
