"""The gated sparse autoencoder of Rajamanoharan et al. 2024 (arXiv 2404.16014)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...config.base import Frozen
from ..base import SAE, Forward, PerFeature
from ..codes import Codes

LABEL = "Gated"
PLACE = 50
PENALTIES = ("l1", "lp", "l1_decoder_norm", "tanh")


class Options(Frozen):
    """It has none."""


class GatedSAE(SAE):
    """f = 1[π > 0] ⊙ ReLU(π_mag); π = x W_enc + b_gate, π_mag = x (W_enc ⊙ exp r_mag) + b_mag.

    The two encoders share one product, since π_mag = exp(r_mag)(π − b_gate) + b_mag. `b_enc` is b_gate. The sparsity penalty
    acts on ReLU(π), and an auxiliary reconstruction from ReLU(π), through a frozen decoder, teaches the gate.
    """

    options_type = Options
    per_feature = {"b_enc": PerFeature("b_gate"), "b_mag": PerFeature("b_mag"), "r_mag": PerFeature("r_mag", scaled=False)}

    def __init__(self, d_in: int, d_sae: int, k: int | None = None, **options: Any) -> None:
        super().__init__(d_in, d_sae, k, **options)
        self.b_mag = nn.Parameter(torch.zeros(d_sae))
        self.r_mag = nn.Parameter(torch.zeros(d_sae))

    def activate(self, pre: Codes) -> Codes:
        """Magnitudes where the gate is open."""
        magnitude = pre.at(self.r_mag.exp()) * (pre.values - pre.at(self.b_enc)) + pre.at(self.b_mag)
        return pre.replaced(F.relu(magnitude) * (pre.values > 0))

    def penalised(self, step: Forward, penalty: str) -> Codes:
        """ReLU(π): penalising f itself would shrink the magnitudes."""
        return step.pre.replaced(F.relu(step.pre.values))

    def penalty_norms(self, step: Forward, codes: Codes) -> Tensor:
        """As constants, as in the term that teaches the gate: free in one alone, they would shrink for nothing."""
        return super().penalty_norms(step, codes).detach()

    def further_outputs(self, step: Forward) -> dict[str, tuple[float, Tensor]]:
        """`gate`: the reconstruction from ReLU(π); decoder weights and bias are frozen in it."""
        gate = step.pre.replaced(F.relu(step.pre.values))
        return {"gate": (1.0, gate.decode(step.dictionary.detach()) + self.b_dec.detach())}
