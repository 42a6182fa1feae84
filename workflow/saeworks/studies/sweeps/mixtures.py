"""End-to-end objectives with a share of the local one."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from .settings import MixturesFigure
from .sweep import CE_INCREASE, EXPLAINED_VARIANCE, L0, Sweep, draw_sweep

SWEEP = Sweep("reconstruction_coeff", "weight of the reconstruction error at the SAE", "{:g}".format)
PANELS = ((L0, CE_INCREASE), (L0, EXPLAINED_VARIANCE))


def draw(tables: Path, config: MixturesFigure) -> Figure:
    """One row of two panels per hook point and objective: CE increase (left) and explained variance (right) against L0."""
    return draw_sweep(tables, config, SWEEP, PANELS)
