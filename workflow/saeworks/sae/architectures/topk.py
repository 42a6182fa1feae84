"""The TopK sparse autoencoder of Gao et al. 2024 (arXiv 2406.04093)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from ...config.base import Frozen
from ..base import SAE, Forward, fold_decoder_norms
from ..codes import Codes
from ..selection import largest_per_row

LABEL = "TopK"
PLACE = 20
PENALTIES = ()
KEPT = ("topk_relu",)
ADDS_ERROR = ("multi_topk",)

MULTI_TOPK_FACTOR = 4  # Multi-TopK also reconstructs from 4k features …
MULTI_TOPK_COEFF = 1 / 8  # … with this weight
SIGNED = "topk_signed"  # other libraries' TopK has a ReLU: under this name they refuse an SAE that has none


class Options(Frozen):
    """Options of TopK."""

    topk_relu: bool = Field(
        True, description="`topk`: set negative values among the k largest to 0 (Gao); false keeps them, so that L0 is exactly k."
    )
    multi_topk: bool = Field(False, description="`topk`: also reconstruct from the 4k largest, weighted 1/8.")


class TopKSAE(SAE):
    """c = ReLU(TopK(pre)): exactly `k` pre-activations of each token are selected, whatever their sign.

    With `topk_relu` false, negative values among them are kept, so that L0 is exactly k. With `multi_topk` the loss gets a
    second reconstruction, from the 4k largest, weighted 1/8.
    """

    options_type = Options
    elementwise = False
    loads = ("topk", SIGNED)

    def select(self, pre: Float[Tensor, "rows d_sae"]) -> Int[Tensor, " n"]:
        """The k largest pre-activations of each token; of equal ones the first."""
        return largest_per_row(pre, self.k)

    def activate(self, pre: Codes) -> Codes:
        """ReLU of the selected pre-activations."""
        return pre.replaced(F.relu(pre.values)) if self.options.topk_relu else pre

    def extra_selections(self, pre: Float[Tensor, "rows d_sae"]) -> list[Int[Tensor, " n"]]:
        """The 4k largest, for Multi-TopK."""
        return [largest_per_row(pre, min(self.d_sae, MULTI_TOPK_FACTOR * self.k))] if self.options.multi_topk else []

    def further_outputs(self, step: Forward) -> dict[str, tuple[float, Tensor]]:
        """Multi-TopK: the reconstruction from 4k features."""
        if not self.options.multi_topk:
            return {}
        return {"multi_topk": (MULTI_TOPK_COEFF, self.activate(step.more[0]).decode(step.dictionary) + self.b_dec)}

    @property
    def saved_as(self) -> str:
        """`topk`, or `topk_signed` without a ReLU."""
        return "topk" if self.options.topk_relu else SIGNED

    def saved_config(self) -> dict[str, Any]:
        """k, and that the codes are not rescaled by the decoder's norms."""
        return {"k": self.k, "rescale_acts_by_decoder_norm": False}

    @classmethod
    def loaded(cls, config: dict[str, Any], weights: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """As the base class; decoder norms by which codes were rescaled are folded into the weights."""
        if config.get("rescale_acts_by_decoder_norm"):
            weights = fold_decoder_norms(weights)
        return {"k": config["k"], "topk_relu": config["architecture"] != SIGNED}, weights
