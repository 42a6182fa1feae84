"""The ReLU sparse autoencoder."""

from __future__ import annotations

import torch.nn.functional as F

from ...config.base import Frozen
from ..base import SAE
from ..codes import Codes

LABEL = "ReLU"
PLACE = 10
PENALTIES = ("l1", "lp", "l1_decoder_norm", "tanh")


class Options(Frozen):
    """It has none."""


class ReluSAE(SAE):
    """c = ReLU(x W_enc + b_enc); Braun et al. 2024 (arXiv 2405.12241), Bloom 2024, Anthropic April 2024."""

    options_type = Options

    def activate(self, pre: Codes) -> Codes:
        """c = ReLU(pre)."""
        return pre.replaced(F.relu(pre.values))
