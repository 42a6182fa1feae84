"""Settings of the study and of its table."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from ...config.base import Frozen
from ...config.figures import TableStyle, vary
from ...config.training import RunSpec


class RatesConfig(Frozen):
    """Choice of learning rates."""

    choose: bool = Field(False, description="Compare the learning rates of each objective at equal L0 and choose one.")


class RatesTable(TableStyle):
    """The learning rates of each objective, and which is chosen."""

    label = "Learning rates compared at equal L0"
    reads = ("rates",)

    @classmethod
    def applies(cls, runs: Sequence[RunSpec]) -> bool:
        return vary(runs, "training.lr")
