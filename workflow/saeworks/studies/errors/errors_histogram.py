"""KL divergence token by token, SAE and ε-random (Gurnee 2024)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..plot import only_message
from .frame import ABSENT, measured_runs, tokens_of
from .histograms import sae_and_random
from .settings import ErrorsHistogramFigure


def draw(tables: Path, config: ErrorsHistogramFigure) -> Figure:
    """One panel per hook point and kind of run; titles give the 99.9th percentiles of SAE and ε-random."""
    runs = measured_runs(tables)
    if runs.empty:
        return only_message(config, ABSENT)
    frame = tokens_of(tables, runs, ["kl_sae", "kl_random"], config.positions)
    edges = np.linspace(0, config.highest, config.bins + 1)
    return sae_and_random(
        config,
        runs,
        frame,
        "kl",
        edges,
        "KL (nats)",
        lambda sae, random: f"{sae.quantile(0.999):.2g}, {random.quantile(0.999):.2g}",
    )
