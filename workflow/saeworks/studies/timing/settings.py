"""Settings of the table of training times."""

from __future__ import annotations

from ...config.figures import TableStyle


class WallClockTable(TableStyle):
    """Training time by objective, beside the paper's (Table 6)."""

    label = "Table 6: training time"
    reads = ("timing",)
