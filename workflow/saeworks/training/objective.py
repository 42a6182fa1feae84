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
from ..sae.execution.interface import Execution
from ..sae.training_pass import training_pass
from .clean import CleanPass

_PREFIXES = "_prefixes"  # behind the name of a term: what the shorter of nested prefixes add to it


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
        by_coefficient = spec.sparsity_coeff is not None
        self.penalty = penalty_of(spec.training.architecture, spec.training.penalty) if by_coefficient else None

    def terms(
        self,
        sae: SAE,
        execution: Execution,
        x: Float[Tensor, "B d_in"],
        clean: CleanPass | None = None,
        dead: Bool[Tensor, " d_sae"] | None = None,
    ) -> tuple[dict[str, Float[Tensor, ""]], Forward]:
        """`(terms, forward pass)` on values `x` at the hook point.

        A term is that of the whole dictionary; what the shorter of nested prefixes add to it has a name of its own, with
        `_prefixes` behind.

        Args:
            clean: the pass of the model without an SAE on the same tokens, for objectives that need the model.
            dead: dead features; None while there is none, or nothing is done about them.
        """
        settings = self.spec.training
        inputs = x * self.scale if self.scale != 1.0 else x
        with _precision(settings, x):
            step = training_pass(sae, execution, inputs, self.penalty, dead, settings.dead_features, auxk_k(settings, sae.d_in))
        terms = {} if clean is None else self._behind_the_model(step, clean)
        terms |= self._at_the_sae(step)
        if self.penalty is not None:
            terms["sparsity"] = self.sparsity(step)
        terms |= {name: weight * self.error(output, step.x) for name, (weight, output) in step.further.items()}
        if step.revived is not None:
            terms |= self._of_dead_features(step)
        return terms, step

    def total(self, terms: dict[str, Float[Tensor, ""]], sparsity_factor: float = 1.0) -> Float[Tensor, ""]:
        """Weighted sum of the terms that carry weight. `sparsity_factor`: the share of the sparsity coefficient that is reached."""
        parts = []
        for name, value in terms.items():
            term = name.removesuffix(_PREFIXES)
            weight = self.weights.get(term, 1.0)
            if term == "sparsity":
                weight = weight * sparsity_factor
            if term == "logits_kl" and self.facts.balances_kl and weight:
                kl = _with_prefixes(terms, term)
                weight = weight * (_with_prefixes(terms, "out_to_in") / kl.clamp(min=torch.finfo(kl.dtype).tiny)).detach()
            if isinstance(weight, Tensor) or weight:
                parts.append(weight * value)
        return torch.stack(parts).sum() if len(parts) > 1 else parts[0]

    def error(self, output: Float[Tensor, "B d_in"], target: Float[Tensor, "B d_in"]) -> Float[Tensor, ""]:
        """The configured reconstruction error."""
        name = RECONSTRUCTION_ERRORS[self.spec.training.mse_norm]
        return _loss(name, output=output, target=target, variance=self.variance)

    def sparsity(self, step: Forward) -> Float[Tensor, ""]:
        """The configured penalty, mean over tokens; divided by d_in where the reconstruction error is (`mse_norm: d_in`)."""
        settings, penalty = self.spec.training, PENALTIES[self.penalty]
        value = _loss(
            penalty.loss,
            values=step.penalised.values,
            n_tokens=step.penalised.n_tokens,
            norms=step.norms,
            **{parameter: getattr(settings, key) for parameter, key in penalty.settings.items()},
        )
        return value / step.x.shape[1] if settings.mse_norm == "d_in" else value

    def _behind_the_model(self, step: Forward, clean: CleanPass) -> dict[str, Tensor]:
        """The terms at the model's output and downstream."""
        wanted = [term for term in self.facts.terms if term.at == "output" or (term.at == "downstream" and self.downstream)]
        model, found = clean.model, {term.name: [] for term in wanted}
        for output in step.outputs:
            spliced = step.denormalise(output) / self.scale if self.scale != 1.0 else step.denormalise(output)
            last, values = clean.run(spliced.view_as(clean.x), self.downstream)
            hidden = model.final_norm(last)
            for term in wanted:
                value = _loss(
                    term.loss,
                    hidden=hidden,
                    original_hidden=clean.hidden,
                    W_U=model.W_U,
                    b_U=model.b_U,
                    soft_cap=model.soft_cap,
                    new=values,
                    original=clean.values,
                )
                found[term.name].append(value)
        return _terms(found)

    def _at_the_sae(self, step: Forward) -> dict[str, Tensor]:
        """The terms at the SAE; one without weight is only tracked."""
        found = {}
        for term in self.facts.terms:
            if term.at == "sae":
                outputs = step.outputs if self.weights[term.name] else [step.output.detach()]
                found[term.name] = [
                    _loss(term.loss, output=output, target=step.x, variance=self.variance)
                    if term.loss
                    else self.error(output, step.x)
                    for output in outputs
                ]
        return _terms(found)

    def _of_dead_features(self, step: Forward) -> dict[str, Tensor]:
        settings = self.spec.training
        residual = (step.x - step.output).detach()
        if settings.dead_features == "auxk":
            return {"auxk": losses.auxk_loss(residual, step.revived, settings.auxk_normalised)}
        error = residual.square()
        if settings.mse_norm == "input_norm":
            error = error / step.x.norm(dim=-1, keepdim=True)
        elif settings.mse_norm == "variance":
            error = error / self.variance
        return {"ghost": losses.ghost_gradients(residual, step.revived, error)}


def _terms(found: dict[str, list[Tensor]]) -> dict[str, Tensor]:
    """Terms from the values of each at every nested prefix, the whole dictionary's last."""
    terms = {}
    for name, (*shorter, whole) in found.items():
        terms |= {name: whole} | ({name + _PREFIXES: sum(shorter)} if shorter else {})
    return terms


def _with_prefixes(terms: dict[str, Tensor], name: str) -> Float[Tensor, ""]:
    return terms[name] + terms[name + _PREFIXES] if name + _PREFIXES in terms else terms[name]


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
