"""Pre-activations of the selected entries only: the others are not even stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Bool, Float
from torch import Tensor

from ..codes import Codes, Selected
from ..selection import largest_among
from .products import encode_active

if TYPE_CHECKING:
    from ..base import SAE

CHUNK_ROWS = 512  # rows of pre-activations that exist at once: entries are selected while they are in cache


def encode(sae: SAE, x: Float[Tensor, "B d_in"], dead: Bool[Tensor, " d_sae"] | None = None, k_aux: int = 0) -> Selected:
    """As `dense.encode`, up to the order of summation."""
    features = None if dead is None or dead.is_cuda else dead.nonzero().squeeze(1)

    def select(pre: Tensor) -> list[Tensor]:
        chosen = [sae.select(pre), *sae.extra_selections(pre)]
        return chosen if dead is None else [*chosen, largest_among(pre, dead, features, k_aux)]

    chunk = len(x) if x.is_cuda or not sae.selects_by_token else min(CHUNK_ROWS, len(x))
    b_dec = sae.b_dec if sae.pre_bias else None
    chosen = [Codes(values, active) for active, values in encode_active(x, sae.W_enc, sae.b_enc, b_dec, select, chunk)]
    aux = chosen.pop() if dead is not None else None
    if aux is not None and features is None:  # where fewer than k_aux features are dead, others were taken
        aux = aux.masked(dead)
    pre, *more = chosen
    return Selected(pre, aux, tuple(more))
