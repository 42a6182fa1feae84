"""One pass of a batch through an SAE in training: all that a loss needs to know of it."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .base import SAE, Forward
from .dead import ghost_activations
from .execution.interface import Execution


def training_pass(
    sae: SAE,
    execution: Execution,
    x: Float[Tensor, "B d_in"],
    penalty: str | None = None,
    dead: Bool[Tensor, " d_sae"] | None = None,
    treatment: str = "none",
    k_aux: int = 0,
) -> Forward:
    """Pass a batch of activations through an SAE; outputs are in the precision of the input.

    Args:
        penalty: the sparsity penalty, a key of `config.objectives.PENALTIES`; None where k sets the sparsity.
        dead: dead features; None while there is none, or nothing is done about them.
        treatment: what is done about them, the setting `dead_features`.
        k_aux: dead features per token in AuxK.
    """
    inputs, stats = sae.normalise(x)
    step = sae.finish(inputs, execution.encode(sae, inputs, dead if treatment == "auxk" else None, k_aux))
    step.outputs = [output.to(x.dtype) for output in step.outputs]
    step.denormalise = partial(sae.denormalise, stats=stats)
    if penalty is not None:
        step.penalised = sae.penalised(step, penalty)
        step.norms = partial(sae.penalty_norms, step, step.penalised)
    step.further = {name: (weight, output.to(x.dtype)) for name, (weight, output) in sae.further_outputs(step).items()}
    if dead is not None and treatment == "auxk":
        step.revived = step.aux.replaced(torch.relu(step.aux.values)).decode(step.dictionary).to(x.dtype)
    elif dead is not None and treatment.startswith("ghost_grads"):
        step.revived = ghost_activations(sae, step, dead, exp_relu=treatment == "ghost_grads_exp_relu").to(x.dtype)
    return step
