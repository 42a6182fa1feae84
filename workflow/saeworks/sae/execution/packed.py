"""Steps on a CUDA device for architectures whose number of active entries only the device knows.

The host chooses the places for the packed entries, or dense products, from the number of entries of the step before, and reads
this step's number while the device is at work on the gradients. Where there were more entries than places, the gradients are
thrown away and the step is made again with dense products, so that no entry is ever left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..codes import Codes, Selected
from . import dense
from .compact import encode_compact
from .interface import Execution, Result

if TYPE_CHECKING:
    from ..base import SAE

_SPARE = 1.5  # times the entries of the last step
_SMALLEST = 1024  # places
_COUNTED_ROWS = 1024  # of a dense step


class Packed(Execution):
    """Packed entries, once a step has told how many there are about; dense products before, and where they are many.

    Args:
        dense_above: share of active entries above which dense products are faster.
    """

    uses_kernels = True

    def __init__(self, dense_above: float) -> None:
        self.dense_above = dense_above
        self.entries: int | None = None
        self._capacity: int | None = None
        self._count: LateNumber | None = None

    def encode(
        self, sae: SAE, x: Float[Tensor, "B d_in"], dead: Bool[Tensor, " d_sae"] | None = None, k_aux: int = 0
    ) -> Selected:
        """As the base class; not for AuxK."""
        self._capacity = self.capacity(len(x), sae.d_sae)
        selected = dense.encode(sae, x) if self._capacity is None else encode(sae, x, self._capacity)
        # sent before the device gets the rest of the step, during which the host then reads it
        self._count = LateNumber(count_selected(sae, selected.pre))
        return selected

    def capacity(self, n_tokens: int, d_sae: int) -> int | None:
        """Places for the active entries of the next step; None if its products are dense."""
        return capacity_for(self.entries, (n_tokens, d_sae), self.dense_above)

    def until_complete(self, attempt: Callable[[], Result]) -> Result:
        """As the base class; a second attempt, where some entries found no place, has dense products."""
        result = attempt()
        self.entries = self._count.read()
        if self._capacity is None or self.entries <= self._capacity:
            return result
        self.entries = None
        return self.until_complete(attempt)


def encode(sae: SAE, x: Float[Tensor, "B d_in"], capacity: int) -> Selected:
    """As `dense.encode` of an elementwise architecture; wrong if more than `capacity` entries are above the floor."""
    b_dec = sae.b_dec if sae.pre_bias else None
    active, values = encode_compact(x, sae.W_enc, sae.b_enc, b_dec, sae.floor(), capacity)
    return Selected(Codes(values, active))


@torch.no_grad()
def count_selected(sae: SAE, pre: Codes) -> Int[Tensor, ""]:
    """How many entries a packed forward pass has, from its pre-activations, or about, from some rows of dense ones."""
    if pre.active is not None:
        return pre.active.count
    rows = pre.values[:_COUNTED_ROWS]
    return (rows > sae.floor()).sum() * pre.n_tokens // len(rows)


def capacity_for(entries: int | None, shape: tuple[int, int], dense_above: float) -> int | None:
    """Places for the next step's entries; None where dense products are faster, or nothing is known yet.

    Args:
        entries: of the last step.
        shape: of the code matrix.
        dense_above: share of its entries above which dense products are faster.
    """
    if entries is None or entries > dense_above * shape[0] * shape[1]:
        return None
    wanted = max(_SMALLEST, int(_SPARE * entries))
    unit = 2 ** (wanted.bit_length() - 4)  # few different sizes, so that freed buffers fit again
    return -(-wanted // unit) * unit


class LateNumber:
    """A whole number on a device, sent to the host without waiting for it."""

    def __init__(self, number: Int[Tensor, ""]) -> None:
        self._value = torch.empty((), dtype=torch.long, pin_memory=number.is_cuda).copy_(number, non_blocking=True)
        self._sent = torch.cuda.current_stream(number.device).record_event() if number.is_cuda else None

    def read(self) -> int:
        """The number; waits for what the device had to do until it was sent, not for what it was given since."""
        if self._sent is not None:
            self._sent.synchronize()
        return int(self._value)
