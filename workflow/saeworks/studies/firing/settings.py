"""Settings of the study and of its figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, PositiveInt

from ...config.figures import FigureStyle, vary
from ...config.resampling import ResamplingConfig
from ...config.training import RunSpec


class FiringConfig(ResamplingConfig):
    """On which tokens the features of two seeds fire."""

    n_tokens: PositiveInt | None = Field(
        None, le=10**10, description="Held-out tokens used, rounded down to whole rows; null: all."
    )
    batch_rows: PositiveInt = Field(32, le=2**16, description="Rows per forward pass.")


class FiringControlsFigure(FigureStyle):
    """Correlation with the best partner and alignment of all codes across seeds, beside their controls."""

    label = "Seeds: firing and its controls"
    reads = ("runs", "firing")

    @classmethod
    def applies(cls, runs: Sequence[RunSpec]) -> bool:
        return vary(runs, "seed")


class FiringAgreementFigure(FigureStyle):
    """Agreement of the tokens that features of two seeds fire on, against their decoder cosine."""

    label = "Seeds: tokens fired on"
    reads = ("runs", "firing", "firing_features", "matching")

    metric: Literal["pearson", "jaccard", "p_b_given_a", "p_a_given_b"] = Field(
        "pearson",
        description="Correlation of the activations, Jaccard index of the tokens fired on, or the share of one's tokens that the other "
        "fires on.",
    )
    bins: PositiveInt = Field(20, le=10_000, description="Bins of the cosine, from 0 to 1, that the lines are means over.")

    @classmethod
    def applies(cls, runs: Sequence[RunSpec]) -> bool:
        return vary(runs, "seed")
