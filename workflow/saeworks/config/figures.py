"""Appearance of the figures: changing one of these redraws that figure only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from .base import Frozen
from .training import RunSpec


class FigureStyle(Frozen):
    """Settings that every figure has."""

    width: PositiveFloat = Field(
        5.5, description="Width in inches; 5.5 is the text width of a one-column paper, 3.25 a column of a two-column one."
    )
    height: PositiveFloat = Field(2.6, description="Height in inches of one row of panels (one row per hook point).")
    dpi: PositiveInt = Field(200, description="Resolution of the PNG.")
    colors: dict[Literal["local", "e2e", "e2e_ds", "finetune"], str] = Field(
        default={"local": "#0072B2", "e2e": "#D55E00", "e2e_ds": "#009E73", "finetune": "#CC79A7"},
        description="Colour per objective; one that is not given keeps its default (Okabe and Ito's colour-blind-safe palette).",
    )

    @classmethod
    def applies(cls, runs: Sequence[RunSpec]) -> bool:
        """Whether an experiment of these runs has what the figure shows; if not, it is not drawn."""
        return True

    @field_validator("colors", mode="before")
    @classmethod
    def _others_keep_theirs(cls, colors: Any) -> Any:
        return cls.model_fields["colors"].default | colors if isinstance(colors, dict) else colors


class ParetoFigure(FigureStyle):
    """L0 and alive features against CE increase (Fig. 1 and 4 of Braun et al. 2024)."""

    x_scale: Literal["linear", "log"] = Field("linear", description="Scale of the L0 and alive axes.")


class ResidualMseFigure(FigureStyle):
    """Reconstruction error at every later layer (Fig. 2)."""

    y_scale: Literal["linear", "log"] = Field("log", description="Scale of the error axis.")


class WithinDictionaryFigure(FigureStyle):
    """Cosine of each feature with its nearest neighbour in the same dictionary (Fig. 3a)."""

    bins: PositiveInt = Field(50, description="Histogram bins between 0 and 1.")


class CrossSeedFigure(FigureStyle):
    """Cosine of each feature with the nearest feature of another seed (Fig. 3b)."""

    bins: PositiveInt = Field(50, description="Histogram bins between 0 and 1.")


class FiguresConfig(Frozen):
    """One block per figure."""

    pareto: ParetoFigure = Field(
        default_factory=ParetoFigure, description="L0 and alive features against CE increase (Fig. 1, 4)."
    )
    residual_mse: ResidualMseFigure = Field(
        default_factory=ResidualMseFigure, description="Reconstruction error by layer (Fig. 2)."
    )
    within_dictionary: WithinDictionaryFigure = Field(
        default_factory=WithinDictionaryFigure, description="Nearest neighbour within a dictionary (Fig. 3a)."
    )
    cross_seed: CrossSeedFigure = Field(default_factory=CrossSeedFigure, description="Nearest neighbour across seeds (Fig. 3b).")

    def wanted(self, runs: Sequence[RunSpec]) -> list[str]:
        """Names of the figures that an experiment of these runs has."""
        return [name for name in type(self).model_fields if getattr(self, name).applies(runs)]
