"""Pre-activations with every entry stored; those that are not selected are zero."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Bool, Float
from torch import Tensor

from ..codes import Codes, Selected
from ..selection import largest_among

if TYPE_CHECKING:
    from ..base import SAE


def encode(sae: SAE, x: Float[Tensor, "B d_in"], dead: Bool[Tensor, " d_sae"] | None = None, k_aux: int = 0) -> Selected:
    """The pre-activations that a training step on normalised inputs needs.

    Args:
        dead: features among which AuxK takes the `k_aux` largest pre-activations of each token.
    """
    pre = sae.pre_activations(x)
    if sae.elementwise:
        selected, *more = [Codes(pre)]
    else:
        selected, *more = (Codes.only(pre, flat) for flat in (sae.select(pre.detach()), *sae.extra_selections(pre.detach())))
    aux = None
    if dead is not None:
        features = None if dead.is_cuda else dead.nonzero().squeeze(1)
        aux = Codes.only(pre, largest_among(pre.detach(), dead, features, k_aux))
        if features is None:  # where fewer than k_aux features are dead, others were taken
            aux = aux.masked(dead)
    return Selected(selected, aux, tuple(more))
