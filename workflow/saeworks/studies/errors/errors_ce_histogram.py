"""Difference of the loss token by token, SAE and ε-random (Gurnee 2024)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..plot import only_message
from .frame import ABSENT, measured_runs, tokens_of
from .histograms import sae_and_random
from .settings import ErrorsCeHistogramFigure


def draw(tables: Path, config: ErrorsCeHistogramFigure) -> Figure:
    """One panel per hook point and kind of run; titles give the means of SAE and ε-random."""
    runs = measured_runs(tables)
    if runs.empty:
        return only_message(config, ABSENT)
    frame = tokens_of(tables, runs, ["ce_sae", "ce_random"], config.positions)
    edges = np.linspace(-config.highest, config.highest, config.bins + 1)
    return sae_and_random(
        config, runs, frame, "ce", edges, "Δ loss (nats)", lambda sae, random: f"{sae.mean():.3f}, {random.mean():.3f}"
    )
