"""Settings of the language model that the project trains itself."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from .base import Frozen, Seed
from .names import FilePath

PositiveFloat = Annotated[float, Field(gt=0)]


class PretrainConfig(Frozen):
    """Training of a small GPT-2-architecture language model from text files."""

    train_text: FilePath = Field(
        description="Path of the training text: .txt or .txt.xz, UTF-8, documents between lines `<|endoftext|>`."
    )
    val_text: FilePath = Field(description="Path of the held-out text, in the same format.")
    source: str = Field(description="Where the text comes from, for the model card.")
    vocab_size: PositiveInt = Field(
        4096, ge=257, le=2**16, description="Size of the byte-level BPE vocabulary, special token included."
    )
    n_layers: PositiveInt = Field(8, le=1000, description="Number of transformer blocks.")
    d_model: PositiveInt = Field(64, le=2**16, description="Width of the residual stream.")
    n_heads: PositiveInt = Field(4, le=1000, description="Attention heads per block.")
    context: PositiveInt = Field(128, ge=2, le=2**20, description="Tokens per row, beginning-of-text token included.")
    batch_rows: PositiveInt = Field(64, le=2**16, description="Rows per optimiser step.")
    micro_rows: PositiveInt = Field(16, le=2**16, description="Rows per forward pass; gradients are summed over them.")
    n_steps: PositiveInt = Field(4000, le=10**9, description="Optimiser steps.")
    lr: PositiveFloat = Field(4e-3, le=10, description="Peak learning rate of AdamW.")
    warmup_steps: PositiveInt = Field(
        200, le=10**9, description="Steps of linear learning-rate warm-up; cosine decay to 2 % after it."
    )
    weight_decay: float = Field(0.05, ge=0, description="AdamW weight decay, on matrices only.")
    grad_clip: PositiveFloat = Field(1.0, description="Global gradient norm limit.")
    eval_every: PositiveInt = Field(250, le=10**9, description="Steps between held-out evaluations and checkpoints.")
    seed: Seed = Field(0, description="Seed of the initialisation and of the row order.")
    dtype: Literal["float32"] = Field("float32", description="Type of the published weights.")

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> PretrainConfig:
        if self.d_model % self.n_heads:
            raise ValueError(f"`d_model` is {self.d_model}, which `n_heads` ({self.n_heads}) does not divide; change one of them")
        return self
