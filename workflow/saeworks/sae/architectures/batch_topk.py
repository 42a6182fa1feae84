"""BatchTopK of Bussmann et al. 2024 (arXiv 2412.06410)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ...config.base import Frozen
from ..base import SAE, Forward, PerFeature
from ..codes import Codes, Selected
from ..selection import flat_nonzero, largest_overall

LABEL = "BatchTopK"
PLACE = 30
PENALTIES = ()
SAVED_AS = "jumprelu"

_THRESHOLD_DECAY = 0.999


class Options(Frozen):
    """It has none."""


class BatchTopKSAE(SAE):
    """In training the k·B largest activations of a batch of B tokens are kept; otherwise those above one threshold.

    The threshold is a running mean (decay 0.999, unbiased) of the smallest positive activation kept in training, so that the
    codes of a token do not depend on the other tokens of its batch. Of each batch it takes the middle between that activation
    and the largest that was not kept: no activation then equals the threshold of its own batch, as the smallest would.
    Once trained it is a JumpReLU SAE, and saved as one.
    """

    options_type = Options
    elementwise = False
    selects_by_token = False
    per_feature = {"b_enc": PerFeature("b_enc"), "threshold": PerFeature("threshold")}
    saved_as = SAVED_AS
    loads = ()

    def __init__(self, d_in: int, d_sae: int, k: int, **options: Any) -> None:
        super().__init__(d_in, d_sae, k, **options)
        self.register_buffer("threshold_sum", torch.zeros((), dtype=torch.float64))
        self.register_buffer("threshold_weight", torch.zeros((), dtype=torch.float64))

    @property
    def threshold(self) -> Float[Tensor, ""]:
        """Activations above it count at inference; 0 before the first training step."""
        return (self.threshold_sum / self.threshold_weight.clamp(min=torch.finfo(torch.float64).tiny)).to(self.W_enc.dtype)

    def select(self, pre: Float[Tensor, "B d_sae"]) -> Int[Tensor, " n"]:
        """The k·B largest of the batch while training, those above the threshold otherwise."""
        if not self.training:
            return flat_nonzero(pre > self.threshold)
        kept, self._largest_dropped = largest_overall(pre, self.k * len(pre))
        return kept

    def activate(self, pre: Codes) -> Codes:
        """ReLU of the selected pre-activations."""
        return pre.replaced(F.relu(pre.values))

    def finish(self, x: Tensor, selected: Selected) -> Forward:
        """As the base class; follows the threshold."""
        step = super().finish(x, selected)
        if self.training:
            kept = step.codes.values.detach()
            smallest = torch.where(kept > 0, kept, torch.inf).amin().double()
            middle = (smallest + F.relu(self._largest_dropped).double()) / 2
            # a batch without a positive activation says nothing about the threshold, which it would make infinite
            weight = (1 - _THRESHOLD_DECAY) * middle.isfinite().double()
            self.threshold_sum.mul_(1 - weight).add_(weight * middle.nan_to_num(posinf=0.0))
            self.threshold_weight.mul_(1 - weight).add_(weight)
        return step

    @torch.no_grad()
    def rescale(self, factor: float) -> None:
        """As the base class, with the running mean."""
        super().rescale(factor)
        self.threshold_sum.mul_(factor)

    @torch.no_grad()
    def continue_from(self, saved: SAE) -> None:
        """As the base class; the running mean starts at the threshold of the JumpReLU SAE that was saved."""
        super().continue_from(saved)
        self.threshold_sum.copy_(saved.threshold[0])
        self.threshold_weight.fill_(1.0)

    def saved_config(self) -> dict[str, Any]:
        """Nothing: k has no meaning at inference."""
        return {}
