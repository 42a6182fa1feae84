"""Settings of the figure of training times."""

from __future__ import annotations

from ...config.figures import FigureStyle


class WallClockFigure(FigureStyle):
    """Training time by objective, beside the paper's (Table 6)."""

    label = "Table 6: training time"
    reads = ("timing",)
