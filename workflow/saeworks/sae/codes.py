"""A batch of feature activations, with or without its zeros."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .execution.products import Active, decode_active


@dataclass(frozen=True)
class Codes:
    """Entries of a (B, d_sae) matrix: all of them in `values` (B, d_sae), or those at `active` in `values` (n,).

    A function that maps zero to zero gives the same codes on either form, so losses and architectures are written once.
    """

    values: Float[Tensor, "..."]
    active: Active | None = None

    @classmethod
    def only(cls, matrix: Float[Tensor, "B d_sae"], flat: Int[Tensor, " n"]) -> Codes:
        """All entries of a matrix, those that are not at the flat indices as zeros."""
        mask = torch.zeros_like(matrix).view(-1).index_fill_(0, flat, 1.0)
        return cls(matrix * mask.view_as(matrix))

    @property
    def n_tokens(self) -> int:
        """Rows of the matrix."""
        return self.values.shape[0] if self.active is None else self.active.shape[0]

    def at(self, parameter: Float[Tensor, " d_sae"]) -> Tensor:
        """A per-feature parameter, at each entry; broadcasts against `values`."""
        return parameter if self.active is None else self.active.at(parameter)

    def replaced(self, values: Tensor) -> Codes:
        """Other values at the same places."""
        return Codes(values, self.active)

    def masked(self, features: Bool[Tensor, " d_sae"]) -> Codes:
        """The entries of some features; those of the others are zero."""
        return self.replaced(self.values * self.at(features))

    def decode(self, dictionary: Float[Tensor, "d_sae d_in"]) -> Float[Tensor, "B d_in"]:
        """Codes times dictionary, without a bias."""
        if self.active is None:
            return F.linear(self.values, dictionary.T)
        return decode_active(self.active, self.values, dictionary)

    def fired(self) -> Bool[Tensor, " d_sae"]:
        """Features with a non-zero activation on some token."""
        if self.active is None:
            return (self.values != 0).any(dim=0)
        return self.active.features_with(self.values != 0)

    def l0(self) -> Float[Tensor, ""]:
        """Mean number of non-zero activations of a token."""
        return (self.values != 0).sum() / self.n_tokens

    def dense(self) -> Float[Tensor, "B d_sae"]:
        """The whole matrix."""
        if self.active is None:
            return self.values
        return self.active.dense(self.values)


@dataclass(frozen=True)
class Selected:
    """The pre-activations of a batch that a training step goes on with, as an execution computed them.

    Attributes:
        pre: at the entries that the SAE selects, or everywhere.
        aux: of the dead features that AuxK takes.
        more: at the entries of the SAE's `extra_selections`.
    """

    pre: Codes
    aux: Codes | None = None
    more: tuple[Codes, ...] = ()
