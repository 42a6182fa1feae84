"""How activations reach the trainers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from .base import Frozen, Seed


class ActivationsConfig(Frozen):
    """The activation cache, or the stream that replaces it."""

    source: Literal["cache", "stream"] = Field(
        "cache",
        description="`cache`: written once, read by every run. `stream`: the model runs during training; same rows, same order, no disk.",
    )
    dtype: Literal["float32", "float16", "bfloat16"] = Field("float32", description="Type of the stored activations.")
    shard_tokens: PositiveInt = Field(
        262_144, le=2**31, description="Tokens per shard file; an interrupted write resumes after the last whole shard."
    )
    batch_rows: PositiveInt = Field(64, le=2**16, description="Corpus rows per forward pass.")
    block_rows: PositiveInt | None = Field(
        None,
        le=10**9,
        description="Corpus rows that are shuffled together token by token; null: all of them. A stream holds one block in memory.",
    )
    seed: Seed = Field(0, description="Seed of the stored shuffle.")
