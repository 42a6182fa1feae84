"""Learning rates (Fig. 13 to 15 of Braun et al. 2024)."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from .settings import LrSweepFigure
from .sweep import Sweep, draw_sweep

SWEEP = Sweep("lr", "learning rate", "{:g}".format)


def draw(tables: Path, config: LrSweepFigure) -> Figure:
    """One row of two panels per hook point and objective: L0 (left) and alive features (right) against CE increase."""
    return draw_sweep(tables, config, SWEEP)
