"""The TopK sparse autoencoder of Gao et al. 2024 (arXiv 2406.04093)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from .base import SAE, Error, Forward
from .codes import Codes
from .sparse import largest_per_row

MULTI_TOPK_FACTOR = 4  # Multi-TopK also reconstructs from 4k features …
MULTI_TOPK_COEFF = 1 / 8  # … with this weight


class TopKSAE(SAE):
    """c = ReLU(TopK(pre)): exactly `k` pre-activations of each token are selected, whatever their sign.

    With `relu=False` negative values among them are kept, so that L0 is exactly k. With `multi_topk` the loss gets a second
    reconstruction, from the 4k largest, weighted 1/8.
    """

    architecture = "topk"
    elementwise = False

    def __init__(self, d_in: int, d_sae: int, k: int, relu: bool = True, multi_topk: bool = False, **options: Any) -> None:
        super().__init__(d_in, d_sae, **options)
        self.k, self.relu, self.multi_topk = k, relu, multi_topk

    def select(self, pre: Float[Tensor, "rows d_sae"]) -> Int[Tensor, " n"]:
        """The k largest pre-activations of each token; of equal ones the first."""
        return largest_per_row(pre, self.k)

    @property
    def density(self) -> float:
        """k of d_sae."""
        return self.k / self.d_sae

    def activate(self, pre: Codes) -> Codes:
        """ReLU of the selected pre-activations."""
        return pre.replaced(F.relu(pre.values)) if self.relu else pre

    def extra_selections(self, pre: Float[Tensor, "rows d_sae"]) -> list[Int[Tensor, " n"]]:
        """The 4k largest, for Multi-TopK."""
        return [largest_per_row(pre, min(self.d_sae, MULTI_TOPK_FACTOR * self.k))] if self.multi_topk else []

    def finish(self, x: Tensor, pre: Codes, aux: Codes | None, others: list[Codes]) -> Forward:
        """As the base class, with the codes of Multi-TopK beside."""
        step = super().finish(x, pre, aux, others)
        if self.multi_topk:
            step.extra["multi_topk"] = self.activate(others[0])
        return step

    def auxiliary_terms(self, step: Forward, error: Error) -> dict[str, Tensor]:
        """Multi-TopK: the error of the reconstruction from 4k features."""
        if not self.multi_topk:
            return {}
        output = step.extra["multi_topk"].decode(step.dictionary) + self.b_dec
        return {"multi_topk": MULTI_TOPK_COEFF * error(output, step.x)}
