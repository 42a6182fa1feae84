"""What the settings of every figure and display table have in common; those of each are in the folder of its study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from ..store.files import canonical_json
from .base import Frozen
from .names import Color
from .training import ObjectiveName, RunSpec

Scale = Literal["linear", "log"]
Positions = Literal["rest", "all"]  # tokens after position 0, or all


class Exhibit(Frozen):
    """Settings of what a study shows people: a figure or a table."""

    label: ClassVar[str]  # in the report's list of figures
    reads: ClassVar[tuple[str, ...]]  # names of the tables that it is made from
    kinds: ClassVar[tuple[str, ...]]  # its files, by suffix

    @classmethod
    def applies(cls, runs: Sequence[RunSpec]) -> bool:
        """Whether an experiment of these runs has what it shows; if not, it is not made."""
        return True


class TableStyle(Exhibit):
    """Settings that every display table has: none."""

    kinds = ("html", "tex", "csv")


class FigureStyle(Exhibit):
    """Settings that every figure has; changing one of them redraws that figure only."""

    kinds = ("svg", "png")

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        """Every figure reads also the tables that say how deep in the model a hook point lies."""
        super().__pydantic_init_subclass__(**options)
        cls.reads = tuple(dict.fromkeys((*getattr(cls, "reads", ()), "runs", "fidelity")))

    width: PositiveFloat = Field(
        5.5,
        ge=1,
        le=50,
        description="Width in inches; 5.5 is the text width of a one-column paper, 3.25 a column of a two-column one.",
    )
    height: PositiveFloat = Field(
        2.6, ge=0.5, le=50, description="Height in inches of one row of panels (one row per hook point)."
    )
    dpi: PositiveInt = Field(200, ge=20, le=1200, description="Resolution of the PNG.")
    colors: dict[ObjectiveName, Color] = Field(
        default={},
        description="Colour per objective, where it is not its own (config/objectives.py: Okabe and Ito's colour-blind-safe palette).",
    )

    @field_validator("colors", mode="before")
    @classmethod
    def _others_keep_theirs(cls, colors: Any) -> Any:
        return cls.model_fields["colors"].default | colors if isinstance(colors, dict) else colors


def vary(runs: Sequence[RunSpec], *keys: str) -> bool:
    """Whether two runs differ in the settings `keys` and at most in their sparsity and seed besides."""
    groups: dict[str, set[str]] = {}
    for run in runs:
        values = run.model_dump()
        values |= {f"training.{key}": value for key, value in values.pop("training").items()}
        own = canonical_json([values.pop(key) for key in keys])
        free = {"name", "group", "seed"} | ({"start_from"} if keys == ("seed",) else {"sparsity_coeff", "k"})
        groups.setdefault(canonical_json({key: value for key, value in values.items() if key not in free}), set()).add(own)
    return any(len(found) > 1 for found in groups.values())
