"""Settings of the study and of its table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, PositiveInt

from ...config.base import Frozen
from ...config.figures import TableStyle
from ...config.training import RunSpec


class SplicedConfig(Frozen):
    """Several SAEs in the model at once."""

    sets: list[Annotated[list[str], Field(min_length=2)]] | None = Field(
        None,
        description="Sets of hook points, each in the order of the forward pass; runs of one name at all hook points of a set are spliced in "
        "together. Null: no such study.",
    )
    n_tokens: PositiveInt | None = Field(
        None, le=10**10, description="Held-out tokens used, rounded down to whole rows; null: all of the corpus's eval rows."
    )
    batch_rows: PositiveInt = Field(32, le=2**16, description="Rows per forward pass.")


class SplicedTable(TableStyle):
    """Increase of the cross-entropy of several SAEs at once against the sum of each alone."""

    label = "SAEs spliced in together"
    reads = ("spliced", "spliced_saes")

    @classmethod
    def applies(cls, runs: Sequence[RunSpec]) -> bool:
        names = [run.name for run in runs]
        return len(names) > len(set(names))
