"""The loss of a run on a batch: its objective's terms, its sparsity penalty, and what is done about dead features."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .. import losses
from ..config.objectives import OBJECTIVES, PENALTIES, RECONSTRUCTION_ERRORS, coefficients, penalty_of
from ..config.training import RunSpec, TrainingConfig
from ..sae.base import SAE, Forward
from ..sae.dead import ghost_activations
from ..sae.execution.interface import Execution
from .clean import CleanPass


class Objective:
    """What a run minimises.

    Args:
        downstream: hook points that are reconstructed downstream.
        scale: activation scale; the SAE sees `scale · x`.
        variance: mean squared deviation of the scaled and normalised data from its mean, where the loss is divided by it.
    """

    def __init__(
        self, spec: RunSpec, downstream: Sequence[str] = (), scale: float = 1.0, variance: Float[Tensor, ""] | None = None
    ) -> None:
        self.spec, self.downstream, self.scale, self.variance = spec, list(downstream), scale, variance
        self.facts, self.weights = OBJECTIVES[spec.objective], coefficients(spec)

    def terms(
        self,
        sae: SAE,
        execution: Execution,
        x: Float[Tensor, "B d_in"],
        clean: CleanPass | None = None,
        dead: Bool[Tensor, " d_sae"] | None = None,
    ) -> tuple[dict[str, Float[Tensor, ""]], Forward]:
        """`(terms, forward pass)` on values `x` at the hook point.

        Args:
            clean: the pass of the model without an SAE on the same tokens, for objectives that need the model.
            dead: dead features; None while there is none, or nothing is done about them.
        """
        settings = self.spec.training
        inputs, stats = sae.normalise(x * self.scale if self.scale != 1.0 else x)
        auxk = dead is not None and settings.dead_features == "auxk"
        with _precision(settings, x):
            step = execution.forward(sae, inputs, dead if auxk else None, auxk_k(settings, sae.d_in) if auxk else 0)
        step.outputs = [output.to(x.dtype) for output in step.outputs]
        terms = {} if clean is None else self._behind_the_model(sae, step, stats, clean)
        terms |= self._at_the_sae(step)
        if self.spec.sparsity_coeff is not None:
            terms["sparsity"] = self.sparsity(sae, step)
        with _precision(settings, x):
            terms |= sae.auxiliary_terms(step, self.error)
            if dead is not None:
                terms |= self._of_dead_features(sae, step, dead)
        return terms, step

    def total(self, terms: dict[str, Float[Tensor, ""]], sparsity_factor: float = 1.0) -> Float[Tensor, ""]:
        """Weighted sum of the terms that carry weight. `sparsity_factor`: the share of the sparsity coefficient that is reached."""
        parts = []
        for name, value in terms.items():
            weight = self.weights.get(name, 1.0)
            if name == "sparsity":
                weight = weight * sparsity_factor
            if name == "logits_kl" and self.facts.balances_kl and weight:
                weight = weight * (terms["out_to_in"] / value.clamp(min=torch.finfo(value.dtype).tiny)).detach()
            if isinstance(weight, Tensor) or weight:
                parts.append(weight * value)
        return torch.stack(parts).sum() if len(parts) > 1 else parts[0]

    def error(self, output: Float[Tensor, "B d_in"], target: Float[Tensor, "B d_in"]) -> Float[Tensor, ""]:
        """The configured reconstruction error."""
        name = RECONSTRUCTION_ERRORS[self.spec.training.mse_norm]
        return _loss(name, output=output, target=target, variance=self.variance)

    def sparsity(self, sae: SAE, step: Forward) -> Float[Tensor, ""]:
        """The configured penalty, mean over tokens; divided by d_in where the reconstruction error is (`mse_norm: d_in`)."""
        settings = self.spec.training
        name = penalty_of(settings.architecture, settings.penalty)
        codes = sae.penalised(step, name)
        value = _loss(
            PENALTIES[name].loss,
            values=codes.values,
            n_tokens=codes.n_tokens,
            norms=lambda: sae.penalty_norms(step, codes),
            **{parameter: getattr(settings, key) for parameter, key in PENALTIES[name].settings.items()},
        )
        return value / sae.d_in if settings.mse_norm == "d_in" else value

    def _behind_the_model(
        self, sae: SAE, step: Forward, stats: tuple[Tensor, Tensor] | None, clean: CleanPass
    ) -> dict[str, Tensor]:
        """The terms at the model's output and downstream; summed over nested prefixes where the architecture has such."""
        wanted = [term for term in self.facts.terms if term.at == "output" or (term.at == "downstream" and self.downstream)]
        model, totals = clean.model, dict.fromkeys([term.name for term in wanted], 0.0)
        for output in step.outputs:
            spliced = sae.denormalise(output, stats) / self.scale if self.scale != 1.0 else sae.denormalise(output, stats)
            last, values = clean.run(spliced.view_as(clean.x), self.downstream)
            hidden = model.final_norm(last)
            for term in wanted:
                totals[term.name] = totals[term.name] + _loss(
                    term.loss,
                    hidden=hidden,
                    original_hidden=clean.hidden,
                    W_U=model.W_U,
                    b_U=model.b_U,
                    soft_cap=model.soft_cap,
                    new=values,
                    original=clean.values,
                )
        return totals

    def _at_the_sae(self, step: Forward) -> dict[str, Tensor]:
        """The terms at the SAE, summed over nested prefixes; one without weight is only tracked, for the whole dictionary."""
        terms = {}
        for term in self.facts.terms:
            if term.at == "sae":
                outputs = step.outputs if self.weights[term.name] else [step.output.detach()]
                losses_of_outputs = (
                    _loss(term.loss, output=output, target=step.x, variance=self.variance)
                    if term.loss
                    else self.error(output, step.x)
                    for output in outputs
                )
                terms[term.name] = sum(losses_of_outputs)
        return terms

    def _of_dead_features(self, sae: SAE, step: Forward, dead: Bool[Tensor, " d_sae"]) -> dict[str, Tensor]:
        settings = self.spec.training
        residual = (step.x - step.output).detach()
        if settings.dead_features == "auxk":
            output = step.aux.replaced(torch.relu(step.aux.values)).decode(step.dictionary)
            return {"auxk": losses.auxk_loss(residual, output.to(residual.dtype), settings.auxk_normalised)}
        if settings.dead_features.startswith("ghost_grads"):
            ghost = ghost_activations(sae, step, dead, exp_relu=settings.dead_features == "ghost_grads_exp_relu")
            error = residual.square()
            if settings.mse_norm == "input_norm":
                error = error / step.x.norm(dim=-1, keepdim=True)
            elif settings.mse_norm == "variance":
                error = error / self.variance
            return {"ghost": losses.ghost_gradients(residual, ghost, error)}
        return {}


def _loss(name: str, **quantities: Any) -> Float[Tensor, ""]:
    """The function `name` of `losses`, of those quantities that it has parameters for; one may be given as a function that makes it."""
    function = getattr(losses, name)
    asked = {key: quantities[key] for key in signature(function).parameters if key in quantities}
    return function(**{key: value() if callable(value) else value for key, value in asked.items()})


def _precision(settings: TrainingConfig, x: Tensor) -> contextlib.AbstractContextManager:
    """The SAE's matrix products in bf16 where that is set; weights, losses and the language model stay in float32."""
    return torch.autocast(x.device.type, torch.bfloat16) if settings.precision == "bf16" else contextlib.nullcontext()


def auxk_k(settings: TrainingConfig, d_in: int) -> int:
    """Dead features per token in AuxK: as set, or the power of two nearest to d_in/2."""
    return settings.auxk_k or 2 ** max(0, round(math.log2(d_in / 2)))
