"""Initialisations. Randomness comes from an explicit generator only."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..config.training import TrainingConfig
from .base import SAE

_MAX_ITERATIONS = 1000
_TOLERANCE = 1e-9  # length of the mean of unit vectors towards the points, which is 0 at their geometric median
_COINCIDING = 1e-12  # of the mean distance
_ROUNDING = 1e-14  # relative, of a sum of distances


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


class _Pull:
    """What the points do to a guess: the sum of distances, of unit vectors towards them, and how many are where it is."""

    def __init__(self, points: Float[Tensor, "n d"], guess: Float[Tensor, " d"]) -> None:
        self.offsets = points - guess
        self.distances = self.offsets.norm(dim=1)
        apart = self.distances > _COINCIDING * self.distances.mean()
        self.weights = torch.where(apart, 1 / self.distances, 0.0)
        self.total, self.vector, self.here = self.distances.sum(), self.weights @ self.offsets, (~apart).sum()
        self.excess = self.vector.norm() - self.here


@torch.no_grad()
def geometric_median(points: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """The point with the least sum of distances to `points`, in float64, by Newton's method from the mean.

    Where Newton's step is no gain, Weiszfeld's is taken, in the form of Vardi & Zhang (2000, PNAS 97:1423), which leaves points of
    the sample. The median is where the sum of the unit vectors towards the points is no longer than the number of points at
    that place: to 1e-9 of all points, so that the sum of distances is within 2e-9 of the least.
    """
    dtype, points = points.dtype, points.double()
    guess = points.mean(dim=0)
    pull = _Pull(points, guess)
    for _ in range(_MAX_ITERATIONS):
        nearest = points[pull.distances.argmin()]
        for place, there in ((guess, pull), (nearest, _Pull(points, nearest))):
            if there.excess <= _TOLERANCE * len(points):
                return place.to(dtype)
        size = pull.weights.sum()
        outer = pull.offsets * pull.weights.pow(1.5)[:, None]
        curvature = (size * (1 + _TOLERANCE)) * torch.eye(len(guess), dtype=points.dtype) - outer.T @ outer
        newton = guess + torch.linalg.solve(curvature, pull.vector)
        found = _Pull(points, newton)
        if found.total > pull.total * (1 + _ROUNDING) or found.excess > pull.excess:
            newton = guess + pull.excess / pull.vector.norm() * pull.vector / size  # Weiszfeld's step
            found = _Pull(points, newton)
        guess, pull = newton, found
    print(
        f"the geometric median of {len(points):,} points is found to {pull.excess / len(points):.0e} only, where {_TOLERANCE:.0e} is meant."
    )
    return guess.to(dtype)
