"""SAEs of every architecture with random weights, none of them neutral, as training would leave them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saeworks.sae.base import SAE
from saeworks.sae.batch_topk import BatchTopKSAE
from saeworks.sae.build import ARCHITECTURES as _CLASSES
from saeworks.sae.jumprelu import JumpReluSAE

D_IN, D_SAE, K = 8, 24, 5
ARCHITECTURES = list(_CLASSES)
_OPTIONS: dict[str, dict[str, Any]] = {
    "topk": {"k": K},
    "batch_topk": {"k": K},
    "matryoshka_batch_topk": {"k": K, "fractions": [0.25, 0.25, 0.5]},
}


@torch.no_grad()
def trained_sae(architecture: str, seed: int = 0, d_in: int = D_IN, d_sae: int = D_SAE, **options: Any) -> SAE:
    """An SAE in eval mode; decoder rows of norms from 0.2 to 3 unless they are `renormalised`."""
    generator = torch.Generator().manual_seed(seed)
    sae = _CLASSES[architecture](d_in, d_sae, **_OPTIONS.get(architecture, {}) | options)
    for parameter in sae.parameters():
        parameter.normal_(std=0.5, generator=generator)
    sae.W_dec.mul_(torch.linspace(0.2, 3, d_sae)[:, None] / sae.W_dec.norm(dim=1, keepdim=True))
    if isinstance(sae, JumpReluSAE):
        sae.threshold.abs_()
    if isinstance(sae, BatchTopKSAE):
        for batch in inputs(seed + 100, 80, d_in).split(20):
            sae.train().train_forward(sae.normalise(batch)[0])  # the threshold follows the training batches
    sae.after_step()
    return sae.eval()


def inputs(seed: int = 0, n: int = 50, d_in: int = D_IN) -> Tensor:
    """Activations (n, d_in) of norm about √d_in."""
    return torch.randn(n, d_in, generator=torch.Generator().manual_seed(seed + 1000))
