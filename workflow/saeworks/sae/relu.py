"""The ReLU sparse autoencoder."""

from __future__ import annotations

import torch.nn.functional as F

from .base import SAE
from .codes import Codes


class ReluSAE(SAE):
    """c = ReLU(x W_enc + b_enc); Braun et al. 2024 (arXiv 2405.12241), Bloom 2024, Anthropic April 2024."""

    architecture = "standard"

    def activate(self, pre: Codes) -> Codes:
        """c = ReLU(pre)."""
        return pre.replaced(F.relu(pre.values))
