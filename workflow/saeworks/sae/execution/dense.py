"""A forward pass with every entry stored; those that are not selected are zero."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Bool, Float
from torch import Tensor

from ..codes import Codes
from ..selection import largest_among

if TYPE_CHECKING:
    from ..base import SAE, Forward


def forward(sae: SAE, x: Float[Tensor, "B d_in"], dead: Bool[Tensor, " d_sae"] | None = None, k_aux: int = 0) -> Forward:
    """The forward pass of a training step on normalised inputs.

    Args:
        dead: features among which AuxK takes the `k_aux` largest pre-activations of each token.
    """
    pre = sae.pre_activations(x)
    if sae.elementwise:
        selected, others = Codes(pre), []
    else:
        selected, *others = (Codes.only(pre, flat) for flat in (sae.select(pre.detach()), *sae.extra_selections(pre.detach())))
    aux = None
    if dead is not None:
        features = None if dead.is_cuda else dead.nonzero().squeeze(1)
        aux = Codes.only(pre, largest_among(pre.detach(), dead, features, k_aux))
        if features is None:  # where fewer than k_aux features are dead, others were taken
            aux = aux.masked(dead)
    return sae.finish(x, selected, aux, others)
