"""Settings of the study and of its figures."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, PositiveFloat, PositiveInt

from ...config.figures import FigureStyle, vary
from ...config.resampling import ResamplingConfig
from ...config.training import RunSpec


class GeometryConfig(ResamplingConfig):
    """Comparison of dictionaries."""


class WithinDictionaryFigure(FigureStyle):
    """Cosine of each feature with its nearest neighbour in the same dictionary (Fig. 3a)."""

    label = "Fig. 3a: nearest neighbour within a dictionary"
    reads = ("runs", "selection", "geometry", "nearest")

    bins: PositiveInt = Field(50, le=10_000, description="Histogram bins between 0 and 1.")


class CrossSeedFigure(FigureStyle):
    """Cosine of each feature with the nearest feature of another seed (Fig. 3b)."""

    label = "Fig. 3b: nearest neighbour across seeds"
    reads = ("runs", "geometry", "nearest")

    bins: PositiveInt = Field(50, le=10_000, description="Histogram bins between 0 and 1.")


class CrossObjectiveFigure(FigureStyle):
    """Cosine of each end-to-end feature with the nearest local one (Fig. 3c, 8)."""

    label = "Fig. 3c, 8: nearest neighbour across objectives"
    reads = ("runs", "selection", "geometry", "nearest")

    bins: PositiveInt = Field(50, le=10_000, description="Histogram bins between 0 and 1.")

    @classmethod
    def applies(cls, runs: Sequence[RunSpec]) -> bool:
        kinds = {(run.hook_point, run.training.architecture, run.objective == "local") for run in runs}
        return any((hook_point, architecture, not local) in kinds for hook_point, architecture, local in kinds)


class WithinByRunFigure(FigureStyle):
    """Mean nearest cosine within the dictionary of every run against L0, CE increase and alive features (Fig. 7)."""

    label = "Fig. 7: nearest neighbour within every dictionary"
    reads = ("runs", "fidelity", "geometry")


class EncoderDecoderFigure(FigureStyle):
    """Encoder against decoder cosine of one-to-one partners across seeds."""

    label = "Seeds: encoder and decoder directions"
    reads = ("runs", "matching", "matches")

    size: PositiveFloat = Field(4, le=1000, description="Area of a feature's marker in square points.")

    @classmethod
    def applies(cls, runs: Sequence[RunSpec]) -> bool:
        return vary(runs, "seed")


class DirectionOfMaximumFigure(FigureStyle):
    """Mean nearest cosine either way, their mean, and one to one."""

    label = "Seeds: direction of the maximum"
    reads = ("runs", "geometry", "matching")

    @classmethod
    def applies(cls, runs: Sequence[RunSpec]) -> bool:
        return vary(runs, "seed")
