"""What takes the place of activations: an SAE's reconstruction, corrections of it, and perturbations of the same size.

x is an activation, x̂ the SAE's output, e = x̂ − x its error and ε = ‖e‖. After Gurnee 2024 (the first eight), Heimersheim and Mendel 2024
and Lee and Heimersheim 2024 (arXiv 2410.12555, directions that real activations differ in). All functions work token by token on the last
axis; a vector of zeros has no direction and stays one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...store.seeds import derive_seed
from ..directions import Basis


def norm(x: Float[Tensor, "*tokens d"]) -> Float[Tensor, "*tokens 1"]:
    """Euclidean norms, the last axis kept."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True)


def unit(x: Float[Tensor, "*tokens d"]) -> Float[Tensor, "*tokens d"]:
    """Vectors of norm 1 in the same directions."""
    return x / norm(x).clamp(min=torch.finfo(x.dtype).tiny)


def with_norm_of(x: Float[Tensor, "*tokens d"], of: Float[Tensor, "*tokens d"]) -> Float[Tensor, "*tokens d"]:
    """`x` rescaled to the norms of `of`."""
    return unit(x) * norm(of)


def at_distance(
    x: Float[Tensor, "*tokens d"], direction: Float[Tensor, "*tokens d"], distance: Float[Tensor, "*tokens 1"] | float
) -> Float[Tensor, "*tokens d"]:
    """x + distance · direction/‖direction‖."""
    return x + distance * unit(direction)


def across(x: Float[Tensor, "*tokens d"], vectors: Float[Tensor, "*tokens d"]) -> Float[Tensor, "*tokens d"]:
    """The part of `vectors` orthogonal to `x`."""
    axis = unit(x)
    rest = vectors - (vectors * axis).sum(dim=-1, keepdim=True) * axis
    return rest - (rest * axis).sum(dim=-1, keepdim=True) * axis  # what rounding left where x is nearly parallel


def turned(
    x: Float[Tensor, "*tokens d"], output: Float[Tensor, "*tokens d"], noise: Float[Tensor, "*tokens d"]
) -> Float[Tensor, "*tokens d"]:
    """A vector of the norm of `output` and its cosine with `x`, turned away from `x` in the direction of `noise`.

    ‖x̂‖ (c x/‖x‖ + √(1 − c²) u⊥) with c = cos(x, x̂) and u⊥ the unit part of the noise orthogonal to x.
    """
    rest = across(x, output)
    return (output - rest) + norm(rest) * unit(across(x, noise))


def at_cosine(
    x: Float[Tensor, "*tokens d"], cosine: float, share: float, noise: Float[Tensor, "*tokens d"]
) -> Float[Tensor, "*tokens d"]:
    """A vector of norm `share` · ‖x‖ at this cosine with `x`, turned in the direction of `noise`."""
    return share * (cosine * x + (1 - cosine**2) ** 0.5 * norm(x) * unit(across(x, noise)))


def layer_norm_corrected(x: Float[Tensor, "*tokens d"], output: Float[Tensor, "*tokens d"]) -> Float[Tensor, "*tokens d"]:
    """x̂ with the mean over components and the norm about it that x has: no error in what a LayerNorm removes."""
    mean = x.mean(dim=-1, keepdim=True)
    return mean + with_norm_of(output - output.mean(dim=-1, keepdim=True), x - mean)


def along(vectors: Float[Tensor, "*tokens d"], directions: Float[Tensor, "d n"]) -> Float[Tensor, "*tokens d"]:
    """Projection on the span of orthonormal columns."""
    return (vectors @ directions) @ directions.T


@dataclass(frozen=True)
class Surroundings:
    """Activations of other tokens, after position 0, at the same hook point.

    Args:
        mean: their mean.
        scale: directions times standard deviations: mean + scale @ standard normal has their mean and covariance.
        top: their first principal directions.
        pool: some of them.
        origin: of each, the index of its token in the flattened rows.
        unread: orthonormal directions that the rest of the model reads least; None where they are not known.
    """

    mean: Float[Tensor, " d"]
    scale: Float[Tensor, "d d"]
    top: Float[Tensor, "d n"]
    pool: Float[Tensor, "pool d"]
    origin: Int[Tensor, " pool"]
    unread: Float[Tensor, "d unread"] | None = None

    @property
    def mean_norm(self) -> float:
        """Their mean norm."""
        return norm(self.pool).double().mean().item()

    @classmethod
    def of(
        cls,
        basis: Basis,
        n_directions: int,
        pool: Float[Tensor, "pool d"],
        origin: Int[Tensor, " pool"],
        unread: Float[Tensor, "d unread"] | None = None,
    ) -> Surroundings:
        """From the principal directions of the activations, in the precision of the `pool`."""
        scale, top = basis.directions * basis.variance.sqrt(), basis.directions[:, :n_directions]
        unread = None if unread is None else unread.to(pool)
        return cls(basis.mean.to(pool), scale.to(pool), top.to(pool), pool, origin, unread)


@dataclass(frozen=True)
class Draws:
    """Random numbers for rows of tokens: each row has a stream of its own for every run and intervention.

    Args:
        run: name of the run; empty for what all runs of a hook point share.
        rows: indices of the rows among the held-out ones.
        n_positions: tokens in a row.
        like: a tensor of the wanted type and device.
    """

    run: str
    rows: range
    n_positions: int
    like: Tensor

    def _generators(self, purpose: str) -> Iterable[torch.Generator]:
        for row in self.rows:
            yield torch.Generator().manual_seed(derive_seed("errors", purpose, self.run, row))

    def normal(self, purpose: str, n: int | None = None) -> Float[Tensor, "*n rows pos d"]:
        """Standard normal vectors, or `n` of them, for each token."""
        size = (n or 1, self.n_positions, self.like.shape[-1])
        found = torch.stack([torch.randn(size, generator=generator) for generator in self._generators(purpose)], dim=1)
        return (found if n else found[0]).to(self.like)

    def others(self, purpose: str, origin: Int[Tensor, " pool"], n: int) -> Int[Tensor, "n rows pos"]:
        """`n` indices into a pool for each token, of which none is the token itself and no two are equal.

        `origin` are the indices of the pool's tokens in the flattened rows, each once.
        """
        size = len(origin)
        drawn = torch.stack(
            [torch.randint(size, (n, self.n_positions), generator=generator) for generator in self._generators(purpose)], dim=1
        ).to(origin.device)
        flat = torch.arange(self.rows.start * self.n_positions, self.rows.stop * self.n_positions, device=origin.device)
        own = flat.view(len(self.rows), self.n_positions)
        for i in range(n):
            for _ in range(n):  # each step may meet one more of those to be avoided
                taken = origin[drawn[i]] == own
                for j in range(i):
                    taken |= drawn[i] == drawn[j]
                drawn[i] = (drawn[i] + taken) % size
        return drawn


@dataclass(frozen=True)
class Tokens:
    """A batch of activations with all that interventions on them are made from.

    Args:
        x: activations.
        output: the SAE's reconstructions.
        around: activations of other tokens.
        draws: random numbers of these rows.
        pool_error: errors of the SAE on the pool of `around`.
        other_output: reconstructions by another seed's SAE.
    """

    x: Float[Tensor, "rows pos d"]
    output: Float[Tensor, "rows pos d"]
    around: Surroundings
    draws: Draws
    pool_error: Float[Tensor, "pool d"] | None = None
    other_output: Float[Tensor, "rows pos d"] | None = None

    @cached_property
    def error(self) -> Float[Tensor, "rows pos d"]:
        """x̂ − x."""
        return self.output - self.x

    @cached_property
    def turned(self) -> Float[Tensor, "rows pos d"]:
        """A random vector with the norm of x̂ and its cosine with x."""
        return turned(self.x, self.output, self.draws.normal("cosine"))

    def toward(self, direction: Float[Tensor, "rows pos d"]) -> Float[Tensor, "rows pos d"]:
        """As far from x as the reconstruction, in another direction."""
        return at_distance(self.x, direction, norm(self.error))

    def gaussian(self, purpose: str) -> Float[Tensor, "rows pos d"]:
        """Deviations from the mean, with the covariance of the activations."""
        return self.draws.normal(purpose) @ self.around.scale.T

    def real(self, purpose: str, n: int) -> Float[Tensor, "n rows pos d"]:
        """Activations of `n` other tokens."""
        return self.around.pool[self.draws.others(purpose, self.around.origin, n)]


def _after_first(t: Tokens) -> Tensor:
    replaced = t.output.clone()
    replaced[:, 0] = t.x[:, 0]
    return replaced


def _real_mixture(t: Tokens) -> Tensor:
    one, two = t.real("real_mixture", 2)
    return t.toward(one - two)


def _other_token(t: Tokens) -> Tensor:
    return t.toward(t.pool_error[t.draws.others("other_token", t.around.origin, 1)[0]])


# by their names in `settings.INTERVENTIONS`
MAKE: dict[str, Callable[[Tokens], Tensor]] = {
    "sae": lambda t: t.output,
    "norm_corrected": lambda t: with_norm_of(t.output, t.x),
    "norm_only": lambda t: with_norm_of(t.x, t.output),
    "random": lambda t: t.toward(t.draws.normal("random")),
    "cosine_sae_norm": lambda t: t.turned,
    "cosine_true_norm": lambda t: with_norm_of(t.turned, t.x),
    "zero": lambda t: torch.zeros_like(t.x),
    "mean": lambda t: t.around.mean.expand_as(t.x),
    "gaussian": lambda t: t.toward(t.around.mean + t.gaussian("gaussian") - t.x),
    "real": lambda t: t.toward(t.real("real", 1)[0] - t.x),
    "gaussian_mixture": lambda t: t.toward(t.gaussian("gaussian_mixture a") - t.gaussian("gaussian_mixture b")),
    "real_mixture": _real_mixture,
    "other_token": _other_token,
    "other_seed": lambda t: t.toward(t.other_output - t.x),
    "on_directions": lambda t: t.x + along(t.error, t.around.top),
    "off_directions": lambda t: t.output - along(t.error, t.around.top),
    "on_unread": lambda t: t.x + along(t.error, t.around.unread),
    "off_unread": lambda t: t.output - along(t.error, t.around.unread),
    "layer_norm": lambda t: layer_norm_corrected(t.x, t.output),
    "after_first": _after_first,
}
