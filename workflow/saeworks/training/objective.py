"""What a run minimises: reconstruction, end-to-end and sparsity terms, assembled from `losses`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .. import losses
from ..config.training import RunSpec, TrainingConfig
from ..lm.bridge import BridgeModel
from ..lm.decoder import Decoder
from ..lm.sites import Site
from ..sae.base import SAE, Forward
from ..sae.dead import ghost_activations
from ..sae.gated import GatedSAE
from ..sae.jumprelu import JumpReluSAE
from ..store.errors import UserError


@dataclass(frozen=True)
class Coefficients:
    """Weights of the loss terms (e2e_sae names): the total is Σ coefficient · term; terms without one here have weight 1."""

    out_to_in: float
    logits_kl: float
    in_to_orig: float
    sparsity: float
    auxk: float


def coefficients(spec: RunSpec) -> Coefficients:
    """The paper's weights for an objective, where the settings do not say otherwise."""
    settings, objective = spec.training, spec.objective

    def chosen(value: float | None, default: float) -> float:
        return default if value is None else value

    return Coefficients(
        out_to_in=1.0 if objective == "local" else chosen(settings.reconstruction_coeff, 0.5 if objective == "finetune" else 0.0),
        logits_kl=chosen(settings.kl_coeff, {"local": 0.0, "e2e": 1.0}.get(objective, 0.5)),
        in_to_orig=chosen(settings.downstream_coeff, 2.5 if objective == "e2e_ds" else 0.0),
        sparsity=spec.sparsity_coeff or 0.0,
        auxk=settings.auxk_coeff,
    )


def downstream_hook_points(spec: RunSpec, site: Site, arch: Any) -> list[str]:
    """Hook points that are reconstructed downstream of `site`: the configured ones, or the residuals before later blocks.

    Raises:
        UserError: a configured hook point is not downstream of the SAE, or there is none.
    """
    if not coefficients(spec).in_to_orig or spec.objective not in ("e2e_ds", "finetune"):
        return []
    possible = site.downstream(arch)
    if spec.training.downstream_hook_points is not None:
        given = {Site.parse(name, arch).canonical(arch): name for name in spec.training.downstream_hook_points}
        wrong = [name for canonical, name in given.items() if canonical not in possible]
        chosen = [name for name in possible if name in given]
    else:
        wrong = []
        chosen = [name for name in possible if name.endswith("hook_resid_pre")][: spec.training.downstream_next]
    if wrong or not chosen:
        fault = (
            f"`downstream_hook_points` of run {spec.name} names {wrong[0]}"
            if wrong
            else f"run {spec.name} has objective `{spec.objective}`"
        )
        after = f"what depends on {spec.hook_point} in this model is {', '.join(possible) or 'nothing'}"
        raise UserError(f"{fault}, but {after}; choose `downstream_hook_points` among that, or another hook point for the SAE.")
    return chosen


@dataclass
class CleanPass:
    """The model from the hook point on, without an SAE: shared by all runs that train on the same rows.

    Nothing below the hook point is recomputed: `x` are cached values there, and `stream` the cached residual that the
    model continues from (`Site.stream`), where that is not `x` itself.
    """

    model: Decoder | BridgeModel
    site: Site
    x: Float[Tensor, "rows context d_in"]
    stream: Float[Tensor, "rows context d_model"]
    capture: list[str]
    hidden: Float[Tensor, "rows context d_model"] = field(init=False)
    values: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        with torch.no_grad():
            last, self.values = self.run(self.x)
            self.hidden = self.model.final_norm(last)

    def run(
        self, replacement: Float[Tensor, "rows context d_in"], capture: list[str] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The residual after the last block, and the values at the hook points `capture`, with `replacement` at the hook point."""
        return self.model.continue_from(self.site, replacement, self.x, self.stream, self.capture if capture is None else capture)


def reconstruction_error(
    output: Float[Tensor, "B d_in"], x: Float[Tensor, "B d_in"], settings: TrainingConfig, variance: Tensor | None
) -> Float[Tensor, ""]:
    """The configured reconstruction error. `variance`: mean squared deviation of the data from its mean, for `variance`."""
    if settings.mse_norm == "input_norm":
        return losses.mse_by_input_norm(output, x)
    if settings.mse_norm == "variance":
        return losses.mse_by_variance(output, x, variance)
    return losses.reconstruction_mse(output, x)


def sparsity(sae: SAE, step: Forward, settings: TrainingConfig) -> Float[Tensor, ""]:
    """The configured penalty, mean over tokens; divided by d_in where the reconstruction error is (`mse_norm: d_in`)."""
    kind = settings.penalty or ("l0" if settings.architecture == "jumprelu" else "l1")
    codes = sae.penalised(step)
    values, n_tokens = codes.values, codes.n_tokens
    if kind == "l0":
        assert isinstance(sae, JumpReluSAE)
        value = sae.open_gates(step).values.sum() / n_tokens
    elif kind == "lp":
        value = losses.lp(values, n_tokens, settings.lp_p)
    elif kind == "l1":
        value = losses.l1(values, n_tokens)
    else:
        norms = codes.at(step.dictionary.norm(dim=1))
        if isinstance(sae, GatedSAE):  # as in the term that teaches its gate: free in one alone, they would shrink for nothing
            norms = norms.detach()
        if kind == "tanh":
            value = losses.tanh_sparsity(values, n_tokens, norms, settings.tanh_scale)
        else:
            value = losses.l1_decoder_norm(values, n_tokens, norms)
    return value / sae.d_in if settings.mse_norm == "d_in" else value


def loss_terms(
    sae: SAE,
    x: Float[Tensor, "B d_in"],
    spec: RunSpec,
    clean: CleanPass | None = None,
    downstream: Sequence[str] = (),
    dead: Bool[Tensor, " d_sae"] | None = None,
    scale: float = 1.0,
    variance: Tensor | None = None,
    capacity: int | None = None,
) -> tuple[dict[str, Tensor], Forward]:
    """`(terms, forward pass)` of a run on values `x` at its hook point.

    Args:
        clean: for the end-to-end objectives, the clean pass on the same tokens.
        dead: dead features; None while there is none, or nothing is done about them.
        scale: activation scale; the SAE sees `scale · x`.
        capacity: as in `SAE.train_forward`.
    """
    settings = spec.training
    normalised, stats = sae.normalise(x * scale if scale != 1.0 else x)
    auxk = dead is not None and settings.dead_features == "auxk"
    with _precision(settings, x):
        step = sae.train_forward(normalised, dead if auxk else None, auxk_k(settings, sae.d_in) if auxk else 0, capacity=capacity)
    step.outputs = [output.to(x.dtype) for output in step.outputs]
    tracked_only = coefficients(spec).out_to_in == 0
    outputs = [output.detach() for output in step.outputs[-1:]] if tracked_only else step.outputs

    def error(output: Tensor, target: Tensor) -> Tensor:
        return reconstruction_error(output, target, settings, variance)

    terms = {}
    if clean is not None:
        terms |= _end_to_end(sae, step, stats, scale, clean, downstream)
    terms["out_to_in"] = sum(error(output, normalised) for output in outputs)
    if spec.sparsity_coeff is not None:
        terms["sparsity"] = sparsity(sae, step, settings)
    with _precision(settings, x):
        terms |= sae.auxiliary_terms(step, error)
        if dead is not None:
            terms |= _dead_terms(sae, step, settings, dead, variance)
    return terms, step


def _precision(settings: TrainingConfig, x: Tensor) -> contextlib.AbstractContextManager:
    """The SAE's matrix products in bf16 where that is set; weights, losses and the language model stay in float32."""
    return torch.autocast(x.device.type, torch.bfloat16) if settings.precision == "bf16" else contextlib.nullcontext()


def auxk_k(settings: TrainingConfig, d_in: int) -> int:
    """Dead features per token in AuxK: as set, or the power of two nearest to d_in/2."""
    return settings.auxk_k or 2 ** max(0, round(math.log2(d_in / 2)))


def _end_to_end(
    sae: SAE, step: Forward, stats: tuple[Tensor, Tensor] | None, scale: float, clean: CleanPass, downstream: Sequence[str]
) -> dict[str, Tensor]:
    """KL of the logits and downstream reconstruction; summed over nested prefixes where the architecture has such."""
    totals: dict[str, Tensor] = {}
    for output in step.outputs:
        spliced = sae.denormalise(output, stats) / scale if scale != 1.0 else sae.denormalise(output, stats)
        new, values = clean.run(spliced.view_as(clean.x), list(downstream))
        model = clean.model
        terms = {
            "logits_kl": losses.logits_kl(model.final_norm(new), clean.hidden, model.W_U, model.b_U, soft_cap=model.soft_cap)
        }
        if downstream:
            terms["in_to_orig"] = losses.downstream_mse(values, clean.values)
        totals = {name: totals.get(name, 0.0) + value for name, value in terms.items()}
    return totals


def _dead_terms(sae: SAE, step: Forward, settings: TrainingConfig, dead: Tensor, variance: Tensor | None) -> dict[str, Tensor]:
    residual = (step.x - step.output).detach()
    if settings.dead_features == "auxk":
        codes = step.aux.replaced(torch.relu(step.aux.values))
        return {"auxk": losses.auxk_loss(residual, codes.decode(step.dictionary).to(residual.dtype), settings.auxk_normalised)}
    if settings.dead_features.startswith("ghost_grads"):
        ghost = ghost_activations(sae, step, dead, exp_relu=settings.dead_features == "ghost_grads_exp_relu")
        error = residual.square()
        if settings.mse_norm == "input_norm":
            error = error / step.x.norm(dim=-1, keepdim=True)
        elif settings.mse_norm == "variance":
            error = error / variance
        return {"ghost": losses.ghost_gradients(residual, ghost, error)}
    return {}


def total(terms: dict[str, Tensor], weights: Coefficients, sparsity_factor: float = 1.0, balance: bool = False) -> Tensor:
    """Weighted sum of the terms that carry weight.

    Args:
        sparsity_factor: the share of the sparsity coefficient that is reached.
        balance: scale the KL to the value of the reconstruction error, a constant (Karvonen 2025, arXiv 2503.17272).
    """
    parts = []
    for name, value in terms.items():
        weight = getattr(weights, name, 1.0)
        if name == "sparsity":
            weight = weight * sparsity_factor
        if name == "logits_kl" and balance and weight:
            weight = weight * (terms["out_to_in"] / value.clamp(min=torch.finfo(value.dtype).tiny)).detach()
        if isinstance(weight, Tensor) or weight:
            parts.append(weight * value)
    return torch.stack(parts).sum() if len(parts) > 1 else parts[0]
