"""One SAE run: objective, architecture, optimiser, budget."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from .base import Frozen

Objective = Literal["local", "e2e", "e2e_ds"]


class TrainingConfig(Frozen):
    """Settings shared by all runs of an experiment; a run group may override any of them."""

    d_sae: PositiveInt = Field(1024, description="Dictionary size.")
    n_tokens: PositiveInt = Field(
        1_000_000,
        description="Training tokens per run, rounded down to whole batches; the corpus is repeated in the same order if it is smaller.",
    )
    batch_tokens: PositiveInt = Field(
        2048, description="Tokens per optimiser step; a multiple of the context for `e2e` and `e2e_ds`."
    )
    lr: PositiveFloat = Field(5e-4, description="Peak learning rate of Adam (β 0.9, 0.999; no weight decay).")
    warmup_fraction: float = Field(0.05, ge=0, lt=1, description="Share of the steps with linear warm-up from 0.")
    final_lr_fraction: float = Field(
        0.1, ge=0, le=1, description="Learning rate at the end of the half-cosine, as a share of the peak."
    )
    grad_clip: PositiveFloat | None = Field(10.0, description="Limit of the global gradient norm; null: none.")
    kl_coeff: NonNegativeFloat | None = Field(
        None, description="Weight κ of the KL divergence; null: the paper's (1 for `e2e`, 0.5 for `e2e_ds`)."
    )
    downstream_coeff: NonNegativeFloat = Field(
        2.5, description="Total weight β of downstream reconstruction in `e2e_ds`, split evenly over the hook points."
    )
    downstream_layers: Annotated[list[NonNegativeInt], Field(min_length=1)] | None = Field(
        None, description="Layers L whose `blocks.L.hook_resid_pre` is reconstructed in `e2e_ds`; null: every one after the SAE."
    )
    dead_window_tokens: PositiveInt = Field(
        100_000,
        description="A feature that has not fired for this many training tokens counts as dead in the log and the progress bar.",
    )
    log_every: PositiveInt = Field(20, description="Steps between lines of log.jsonl.")
    checkpoint_every: PositiveInt = Field(
        250, description="Steps between checkpoints; an interrupted run resumes from the last one."
    )


class RunSpec(Frozen):
    """Everything that determines one run, but for the model and the corpus."""

    name: str
    group: str
    hook_point: str
    objective: Objective
    sparsity_coeff: float
    seed: int
    training: TrainingConfig


# settings that only some objectives use; the others neither accept them in a group nor depend on them
_USED_BY = {
    "kl_coeff": ("e2e", "e2e_ds"),
    "downstream_coeff": ("e2e_ds",),
    "downstream_layers": ("e2e_ds",),
}


def settings_without_effect(objective: Objective) -> set[str]:
    """Training settings that `objective` does not use."""
    return {key for key, users in _USED_BY.items() if objective not in users}
