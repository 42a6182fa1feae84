"""Principal directions of activations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Basis:
    """Principal directions of activations, by falling variance, each turned towards the mean activation at position 0."""

    mean: Float[Tensor, " d"]
    directions: Float[Tensor, "d n"]
    variance: Float[Tensor, " n"]
    cosine_first: Float[Tensor, " n"]  # of each direction with the mean activation at position 0
    size: float  # root mean square norm of the activations

    def components(self, x: Float[Tensor, "*batch d"], n: int) -> Float[Tensor, "*batch n"]:
        """Float64 components of centred activations along the first `n` directions."""
        return (x.double() - self.mean) @ self.directions[:, :n]


def principal_directions(batches: Iterator[Float[Tensor, "rows pos d"]]) -> Basis:
    """Eigenvectors of the covariance of the activations at all positions, in float64."""
    count, total, products, first, first_count = 0, 0.0, 0.0, 0.0, 0
    for x in batches:
        flat = x.double().flatten(0, 1)
        count, first_count = count + len(flat), first_count + len(x)
        total, products = total + flat.sum(dim=0), products + flat.T @ flat
        first = first + x[:, 0].double().sum(dim=0)
    mean = total / count
    variance, directions = torch.linalg.eigh((products / count - torch.outer(mean, mean)).cpu())
    variance, directions = variance.flip(0).clamp(min=0).to(mean), directions.flip(1).to(mean)
    cosine = torch.nn.functional.normalize(first / first_count, dim=0) @ directions
    sign = torch.where(cosine < 0, -1.0, 1.0).to(cosine)
    size = (products.diagonal().sum() / count).sqrt().item()
    return Basis(mean, directions * sign, variance, cosine * sign, size)
