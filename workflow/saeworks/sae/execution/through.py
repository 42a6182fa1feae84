"""Pre-activations with a gradient for the input too, of an SAE that reads what another SAE has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..codes import Codes, Selected
from .interface import Execution, Result

if TYPE_CHECKING:
    from ..base import SAE


class Through(Execution):
    """The products of another execution, differentiable in the input: its dense products are, those of active entries are not."""

    def __init__(self, inner: Execution) -> None:
        self.inner = inner

    @property
    def uses_kernels(self) -> bool:
        """As the other."""
        return self.inner.uses_kernels

    @property
    def entries(self) -> int | None:
        """As the other."""
        return self.inner.entries

    @entries.setter
    def entries(self, entries: int | None) -> None:
        self.inner.entries = entries

    def encode(
        self, sae: SAE, x: Float[Tensor, "B d_in"], dead: Bool[Tensor, " d_sae"] | None = None, k_aux: int = 0
    ) -> Selected:
        """As the base class."""
        found = self.inner.encode(sae, x, dead, k_aux)
        aux = found.aux and _with_input(found.aux, x, sae).masked(dead)
        return Selected(_with_input(found.pre, x, sae), aux, tuple(_with_input(codes, x, sae) for codes in found.more))

    def until_complete(self, attempt: Callable[[], Result]) -> Result:
        """As the other."""
        return self.inner.until_complete(attempt)


def _with_input(codes: Codes, x: Tensor, sae: SAE) -> Codes:
    if codes.active is None:
        return codes
    return codes.replaced(_WithInput.apply(codes.values, x, sae.W_enc.detach(), codes.active))


class _WithInput(torch.autograd.Function):
    """The same values; backward, what `x W_enc` at their places gives `x` as its gradient, which `EncodeActive` leaves out."""

    @staticmethod
    def forward(ctx, values, x, W_enc, active):
        ctx.save_for_backward(W_enc)
        ctx.active = active
        return values.view_as(values)

    @staticmethod
    def backward(ctx, gradient):
        (W_enc,) = ctx.saved_tensors
        return gradient, ctx.active.times(gradient, W_enc.T.contiguous()), None, None
