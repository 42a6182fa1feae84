"""SAEs of every architecture with random weights, none of them neutral, as training would leave them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saeworks.config.architectures import ARCHITECTURES as DECLARED
from saeworks.sae.base import SAE, Forward
from saeworks.sae.build import sae_class
from saeworks.sae.execution import dense

D_IN, D_SAE, K = 8, 24, 5
ARCHITECTURES = list(DECLARED)


@torch.no_grad()
def trained_sae(architecture: str, seed: int = 0, d_in: int = D_IN, d_sae: int = D_SAE, **options: Any) -> SAE:
    """An SAE in eval mode; decoder rows of norms from 0.2 to 3 unless they are `renormalised`."""
    generator = torch.Generator().manual_seed(seed)
    sparsity = {"k": K} if DECLARED[architecture].by_k else {}
    sae = sae_class(architecture)(d_in, d_sae, **sparsity | options)
    for name, parameter in sae.named_parameters():
        parameter.normal_(std=0.5, generator=generator)
        if name == "threshold":
            parameter.abs_()
    sae.W_dec.mul_(torch.linspace(0.2, 3, d_sae)[:, None] / sae.W_dec.norm(dim=1, keepdim=True))
    sae.train()
    for batch in inputs(seed + 100, 80, d_in).split(20):
        forward(sae, sae.normalise(batch)[0])  # what follows the training batches, as BatchTopK's threshold does
    sae.after_step()
    return sae.eval()


def forward(sae: SAE, x: Tensor, dead: Tensor | None = None, k_aux: int = 0, way: Any = dense) -> Forward:
    """The forward pass of a training step on normalised inputs, its products computed as the module `way` does."""
    return sae.finish(x, way.encode(sae, x, dead, k_aux))


def inputs(seed: int = 0, n: int = 50, d_in: int = D_IN) -> Tensor:
    """Activations (n, d_in) of norm about √d_in."""
    return torch.randn(n, d_in, generator=torch.Generator().manual_seed(seed + 1000))
