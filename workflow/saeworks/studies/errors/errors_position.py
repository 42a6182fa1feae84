"""Mean KL divergence by position (Gurnee 2024)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..plot import colour, kind_panels, legend, only_message
from ..reading import kind_name, of_kind
from .frame import ABSENT, measured_runs, tokens_of
from .panels import entries, measured
from .settings import INTERVENTIONS, ErrorsPositionFigure

_SHOWN = ("sae", "random", "norm_only", "cosine_true_norm")


def draw(tables: Path, config: ErrorsPositionFigure) -> Figure:
    """One panel per hook point and kind: position 0, then means over groups of later positions."""
    runs = measured_runs(tables)
    if runs.empty:
        return only_message(config, ABSENT)
    frame = tokens_of(tables, runs, [f"kl_{name}" for name in _SHOWN])
    names = measured(frame, _SHOWN)
    later = np.arange(1, frame["position"].max() + 1)
    groups = [np.array([0]), *(part for part in np.array_split(later, min(config.bins, len(later))) if len(part))]
    group = np.repeat(range(len(groups)), [len(part) for part in groups])
    centres = [part.mean() for part in groups]
    means = frame.groupby(["run", group[frame["position"]]])[[f"kl_{name}" for name in names]].mean()
    figure, placed = kind_panels(config, runs, "Position", "KL (nats)")
    for (hook_point, *kind), panel in placed.items():
        here = means.loc[of_kind(runs, hook_point, *kind)["run"].iloc[0]]
        for name in names:
            panel.plot(centres, here[f"kl_{name}"], color=INTERVENTIONS[name].color, linewidth=1, marker=".", markersize=2)
        panel.set_yscale("log")
        panel.set_title(kind_name(*kind, runs, joint="\n"), fontsize=7, color=colour(config, kind[0]))
    legend(figure, entries(names))
    return figure
