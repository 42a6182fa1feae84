"""Initialisations. Randomness comes from an explicit generator only."""

from __future__ import annotations

import torch
from torch import nn

from .relu import ReluSAE


@torch.no_grad()
def init_braun2024(sae: ReluSAE, generator: torch.Generator) -> None:
    """As the authors' code: encoder and biases uniform in ±1/√fan_in, decoder with orthonormal columns (WᵀW = I), then free.

    W_enc, b_enc ~ U(±1/√d_in); b_dec ~ U(±1/√d_sae); the encoder is not tied to the decoder.
    """
    bound = sae.d_in**-0.5
    sae.W_enc.uniform_(-bound, bound, generator=generator)
    sae.b_enc.uniform_(-bound, bound, generator=generator)
    nn.init.orthogonal_(sae.W_dec, generator=generator)
    sae.b_dec.uniform_(-(sae.d_sae**-0.5), sae.d_sae**-0.5, generator=generator)
