"""Settings of the figures of runs."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from ...config.figures import FigureStyle, TableStyle, vary
from ...config.training import RunSpec


class SelectionTable(TableStyle):
    """The runs of similar CE increase, L0 and number of alive features, beside the paper's (Tables 1 to 3)."""

    label = "Tables 1 to 3: runs that are compared"
    reads = ("runs", "fidelity", "selection")

    @classmethod
    def applies(cls, runs: Sequence[RunSpec]) -> bool:
        kinds = {(run.hook_point, run.objective, run.training.architecture) for run in runs}
        return len(kinds) > len({hook_point for hook_point, *_ in kinds})


class SeedPairsFigure(FigureStyle):
    """L0 and CE increase of runs that exist in several seeds (Fig. 18)."""

    label = "Fig. 18: runs by seed"
    reads = ("runs", "fidelity")

    confidence: float = Field(0.95, gt=0, lt=1, description="Level of the interval over seeds, where there are three or more.")

    @classmethod
    def applies(cls, runs: Sequence[RunSpec]) -> bool:
        return vary(runs, "seed")
