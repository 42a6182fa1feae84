"""The JumpReLU sparse autoencoder of Rajamanoharan et al. 2024 (arXiv 2407.14435)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from ...config.base import Frozen
from ..base import SAE, Forward, PerFeature
from ..codes import Codes

LABEL = "JumpReLU"
PLACE = 60
PENALTIES = ("l0", "l1", "lp", "l1_decoder_norm", "tanh")
INITIAL = ("jumprelu_threshold",)


class Options(Frozen):
    """Options of JumpReLU."""

    jumprelu_bandwidth: PositiveFloat = Field(1e-3, description="`jumprelu`: width ε of the straight-through kernel.")
    jumprelu_threshold: PositiveFloat = Field(1e-3, description="`jumprelu`: initial threshold.")


class JumpReluSAE(SAE):
    """f = z · 1[z > θ], z the pre-activation, θ ≥ 0 a threshold per feature.

    The threshold gets its gradient from a straight-through estimator with a rectangular kernel K of width `jumprelu_bandwidth`
    (ε): ∂f/∂θ = −(θ/ε) K((z − θ)/ε) and ∂1[z > θ]/∂θ = −(1/ε) K((z − θ)/ε). The indicator has no gradient for z.
    """

    options_type = Options
    per_feature = {"b_enc": PerFeature("b_enc"), "threshold": PerFeature("threshold")}

    def __init__(self, d_in: int, d_sae: int, k: int | None = None, **options: Any) -> None:
        super().__init__(d_in, d_sae, k, **options)
        self.threshold = nn.Parameter(torch.zeros(d_sae))

    def initialise(self) -> None:
        """The thresholds all alike."""
        self.threshold.fill_(self.options.jumprelu_threshold)

    def floor(self) -> Float[Tensor, " d_sae"]:
        """The kernel reaches half a bandwidth below the threshold."""
        return self.threshold - self.options.jumprelu_bandwidth / 2 if self.training else self.threshold

    def activate(self, pre: Codes) -> Codes:
        """z · 1[z > θ]."""
        return pre.replaced(_JumpRelu.apply(pre.values, pre.at(self.threshold), self.options.jumprelu_bandwidth))

    @torch.no_grad()
    def after_step(self) -> None:
        """As the base class; a step may not take a threshold below zero, where f would be negative between the two."""
        super().after_step()
        self.threshold.clamp_(min=0)

    def penalised(self, step: Forward, penalty: str) -> Codes:
        """For `l0` the open gates 1[z > θ], whose sum is L0."""
        if penalty != "l0":
            return step.codes
        gates = _Step.apply(step.pre.values, step.pre.at(self.threshold), self.options.jumprelu_bandwidth)
        return step.pre.replaced(gates)

    @classmethod
    @torch.no_grad()
    def from_saved(cls, weights: dict[str, Tensor], **options: Any) -> SAE:
        """As the base class; elsewhere a JumpReLU has a ReLU as well, to which a negative threshold adds nothing."""
        sae = super().from_saved(weights, **options)
        sae.threshold.clamp_(min=0)
        return sae


def _kernel(z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    return ((z - threshold).abs() < bandwidth / 2).to(z.dtype) / bandwidth


class _JumpRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, threshold, bandwidth):
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth = bandwidth
        return z * (z > threshold)

    @staticmethod
    def backward(ctx, gradient):
        z, threshold = ctx.saved_tensors
        grad_threshold = -threshold * _kernel(z, threshold, ctx.bandwidth) * gradient
        return gradient * (z > threshold), _sum_to(grad_threshold, threshold), None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, threshold, bandwidth):
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth = bandwidth
        return (z > threshold).to(z.dtype)

    @staticmethod
    def backward(ctx, gradient):
        z, threshold = ctx.saved_tensors
        return None, _sum_to(-_kernel(z, threshold, ctx.bandwidth) * gradient, threshold), None


def _sum_to(gradient: Tensor, parameter: Tensor) -> Tensor:
    """A gradient per entry, for a parameter per entry or per feature."""
    return gradient if gradient.shape == parameter.shape else gradient.flatten(0, -2).sum(dim=0)
