"""Settings of the study and of its table."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from ...config.base import Frozen
from ...config.figures import TableStyle


class TextsConfig(Frozen):
    """Evaluation on text files."""

    files: dict[str, str] | None = Field(
        None,
        description="Text files (.txt, .txt.xz, .jsonl) by the name that tables give them; null: no such study. `data/texts/novels/val.txt`, novels "
        "that `novels-1m` was not trained on, is downloaded where it is missing.",
    )
    text_tokens: PositiveInt = Field(
        65_536,
        le=10**9,
        description="Tokens of each text, rounded down to whole rows, in equal shares from all of its documents.",
    )
    batch_rows: PositiveInt = Field(32, le=2**16, description="Rows per forward pass.")


class TextsTable(TableStyle):
    """Cost and sparsity of each run on each text."""

    label = "Cost on other texts"
    reads = ("runs", "fidelity", "texts")
