"""Settings of bootstrap intervals, for the studies that give some."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import Frozen, Seed


class ResamplingConfig(Frozen):
    """Bootstrap intervals."""

    n_resamples: Annotated[int, Field(ge=100, le=10**6)] = Field(
        1000, description="Bootstrap resamples behind each interval; those over seeds by the jackknife need none."
    )
    over_seeds: Literal["jackknife", "bca"] = Field(
        "jackknife",
        description="Interval of a mean over the pairs of three seeds or more: Student's over the seeds, each left out with its pairs, or the BCa "
        "bootstrap over pairs as if they were independent, which covers less than `confidence`.",
    )
    confidence: float = Field(0.95, gt=0, lt=1, description="Level of the intervals.")
    seed: Seed = Field(0, description="Seed of the bootstrap and of what is compared at random.")
