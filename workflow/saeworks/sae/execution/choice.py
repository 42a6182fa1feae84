"""Which way of computing its products suits a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from . import active, dense
from .interface import Execution
from .packed import Packed
from .trial import usable

if TYPE_CHECKING:
    from ..base import SAE
    from ..codes import Selected

# share of entries above which dense products are faster: on a CPU as measured on an AMD EPYC …
_DENSE_ABOVE = 0.12
# … and on a CUDA device, in float32 and with products on tensor cores, as estimated from the rates of an H200;
# `tests/benchmarks/gpu.py --parts density` measures it
_DENSE_ABOVE_PACKED = {"float32": 0.05, "tensor cores": 0.01}
_PROBED_ROWS = 64


class ByDensity(Execution):
    """Products with the active entries only, where these are few enough for that to be faster, and dense ones otherwise."""

    def encode(
        self, sae: SAE, x: Float[Tensor, "B d_in"], dead: Bool[Tensor, " d_sae"] | None = None, k_aux: int = 0
    ) -> Selected:
        """As the base class; both ways give the same numbers, up to the order of summation."""
        way = active.encode if active_is_faster(sae, x) else dense.encode
        return way(sae, x, dead, k_aux)


def active_is_faster(sae: SAE, x: Float[Tensor, "B d_in"]) -> bool:
    """Whether few entries of the first rows are active: a probe, whose products are made again by the way that is chosen.

    On a GPU, counting them would stall it.
    """
    if torch.is_autocast_enabled(x.device.type):
        return False
    if x.is_cuda:
        return not sae.elementwise and sae.k is not None and sae.k < _DENSE_ABOVE * sae.d_sae
    with torch.no_grad():
        probe = sae.pre_activations(x[:_PROBED_ROWS])
        return len(sae.select(probe)) < _DENSE_ABOVE * probe.numel()


def choose(sae: SAE, auxk: bool, tensor_cores: bool) -> Execution:
    """The execution of a run.

    Args:
        sae: on the device that it is trained on.
        auxk: whether dead features are treated with AuxK, which needs their pre-activations too.
        tensor_cores: whether dense products are computed in TF32 or bf16.
    """
    if sae.elementwise and not auxk and usable(sae.W_enc.device):
        return Packed(_DENSE_ABOVE_PACKED["tensor cores" if tensor_cores else "float32"])
    return ByDensity()
