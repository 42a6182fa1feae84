"""Initialisations. Randomness comes from an explicit generator only."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..config.training import TrainingConfig
from .base import SAE

_MAX_ITERATIONS = 100
_TOLERANCE = 1e-10  # relative change of the sum of distances
_COINCIDING = 1e-12  # of the mean distance


@torch.no_grad()
def initialise(
    sae: SAE, settings: TrainingConfig, generator: torch.Generator, sample: Float[Tensor, "n d_in"] | None = None
) -> None:
    """Fill the parameters as the settings say; the defaults are those of Braun et al. 2024.

    Encoder and biases uniform in ±1/√fan_in, decoder with orthonormal columns (WᵀW = I), untied, unless set otherwise.

    Args:
        sample: normalised activations, for a decoder bias at their mean or geometric median.
    """
    bound = sae.d_in**-0.5
    if settings.encoder_init == "linear":
        sae.W_enc.uniform_(-bound, bound, generator=generator)
    elif settings.encoder_init == "kaiming":
        nn.init.kaiming_uniform_(sae.W_enc.T, generator=generator)  # fan-in d_in
    elif settings.encoder_init == "kaiming_d_sae":
        nn.init.kaiming_uniform_(sae.W_enc, generator=generator)  # the fan-in of a (d_in, d_sae) matrix is d_sae to torch
    if settings.encoder_bias_init == "linear":
        sae.b_enc.uniform_(-bound, bound, generator=generator)
    _init_decoder(sae, settings, generator)
    if settings.encoder_init == "transpose":
        sae.W_enc.copy_(sae.dictionary().T if settings.decoder == "normalised" else sae.W_dec.T)
    if settings.decoder_bias_init == "linear":
        sae.b_dec.uniform_(-(sae.d_sae**-0.5), sae.d_sae**-0.5, generator=generator)
    elif settings.decoder_bias_init == "mean":
        sae.b_dec.copy_(sample.mean(dim=0))
    elif settings.decoder_bias_init == "geometric_median":
        sae.b_dec.copy_(geometric_median(sample))
    sae.initialise()


def _init_decoder(sae: SAE, settings: TrainingConfig, generator: torch.Generator) -> None:
    if settings.decoder_init == "orthogonal":
        nn.init.orthogonal_(sae.W_dec, generator=generator)
    elif settings.decoder_init == "kaiming":
        nn.init.kaiming_uniform_(sae.W_dec, mode="fan_in", generator=generator)
    else:
        sae.W_dec.normal_(generator=generator)
    norm = settings.decoder_init_norm or (1.0 if settings.decoder == "renormalised" else None)
    if norm is not None:
        sae.W_dec.copy_(F.normalize(sae.W_dec, dim=1) * norm)


@torch.no_grad()
def geometric_median(points: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """The point with the least sum of distances to `points`, by Weiszfeld's iteration from the mean, in float64.

    Where the guess coincides with points, it leaves them as Vardi & Zhang (2000, PNAS 97:1423) do: the pull of the others
    is lessened by their number, and if it is no larger, the guess is the median.
    """
    dtype, points = points.dtype, points.double()
    guess, total = points.mean(dim=0), torch.inf
    for _ in range(_MAX_ITERATIONS):
        offsets = points - guess
        distances = offsets.norm(dim=1)
        new_total = distances.sum().item()
        if new_total == 0 or total - new_total <= _TOLERANCE * new_total:
            break
        total = new_total
        apart = distances > _COINCIDING * distances.mean()
        weights = torch.where(apart, 1 / distances, 0.0)
        pull = weights @ offsets
        staying = (~apart).sum() / pull.norm().clamp(min=torch.finfo(torch.float64).tiny)
        guess = guess + (1 - staying).clamp(min=0) * pull / weights.sum()
    return guess.to(dtype)
