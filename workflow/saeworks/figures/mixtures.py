"""End-to-end objectives with a share of the local one."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from ..config.figures import MixturesFigure
from .common import redraw, styled
from .sweeps import CE_INCREASE, EXPLAINED_VARIANCE, L0, Sweep, draw_sweep

SWEEP = Sweep("reconstruction_coeff", "weight of the reconstruction error at the SAE", "{:g}".format)
PANELS = ((L0, CE_INCREASE), (L0, EXPLAINED_VARIANCE))


@styled
def draw(tables: Path, config: MixturesFigure) -> Figure:
    """One row of two panels per hook point and objective: CE increase (left) and explained variance (right) against L0, better is up."""
    return draw_sweep(tables, config, SWEEP, PANELS)


def main(spec: str, tables: str, out: str) -> None:
    """Write `<out>.svg` and `<out>.png` from the Parquet files in `tables`."""
    redraw(draw, MixturesFigure, spec, tables, out)
