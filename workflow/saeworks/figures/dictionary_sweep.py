"""Dictionary sizes (Fig. 16 of Braun et al. 2024)."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from ..config.figures import DictionarySweepFigure
from .common import redraw, styled
from .sweeps import Sweep, draw_sweep

SWEEP = Sweep("d_sae", "dictionary size", "{:,}".format)


@styled
def draw(tables: Path, config: DictionarySweepFigure) -> Figure:
    """One row of two panels per hook point and objective: L0 (left) and alive features (right) against CE increase, better is up."""
    return draw_sweep(tables, config, SWEEP)


def main(spec: str, tables: str, out: str) -> None:
    """Write `<out>.svg` and `<out>.png` from the Parquet files in `tables`."""
    redraw(draw, DictionarySweepFigure, spec, tables, out)
