"""Settings of evaluation and geometry."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt

from .base import Frozen


class EvaluationConfig(Frozen):
    """Evaluation on held-out rows."""

    n_tokens: PositiveInt | None = Field(
        None, description="Held-out tokens used, rounded down to whole rows; null: all of the corpus's eval rows."
    )
    batch_rows: PositiveInt = Field(32, description="Rows per forward pass.")


class GeometryConfig(Frozen):
    """Comparison of dictionaries."""

    n_resamples: Annotated[int, Field(ge=100)] = Field(1000, description="Bootstrap resamples of features behind each interval.")
    confidence: float = Field(0.95, gt=0, lt=1, description="Level of the intervals.")
    seed: NonNegativeInt = Field(0, description="Seed of the bootstrap and of the random dictionaries.")
