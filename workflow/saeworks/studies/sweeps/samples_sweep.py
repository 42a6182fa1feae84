"""Numbers of training tokens (Fig. 17 of Braun et al. 2024)."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from .settings import SamplesSweepFigure
from .sweep import Sweep, draw_sweep, million

SWEEP = Sweep("n_tokens", "training tokens", million, objectives=("local", "e2e", "e2e_ds"))


def draw(tables: Path, config: SamplesSweepFigure) -> Figure:
    """One row of two panels per hook point and objective: L0 (left) and alive features (right) against CE increase."""
    return draw_sweep(tables, config, SWEEP)
