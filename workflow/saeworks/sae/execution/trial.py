"""Whether the Triton kernels can be trusted on a device: they are tried on a small case before a run uses them."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from .compact import compact

_TRIAL = (37, 1131, 133)  # rows, features and columns of the case that the kernels are tried on; more than their blocks
_TOLERANCE = 1e-5  # of the largest number, for float32 sums in another order


@cache
def usable(device: torch.device) -> bool:
    """Whether the kernels work on this device, tried out once; if not, a sentence says why."""
    if device.type != "cuda":
        return False
    fault = kernel_fault(device)
    if fault:
        print(f"ReLU, Gated and JumpReLU SAEs train with dense products on {device}: {fault}.", flush=True)
    return fault is None


def kernel_fault(device: torch.device) -> str | None:
    """Why the kernels cannot be used on a device, or None if they agree with dense products on a small random case."""
    try:
        from . import kernels  # noqa: F401
    except ImportError:
        return "Triton, which the sparse kernels need, is not installed"
    try:
        wrong = _disagreement(device)
    except Exception as error:  # whatever the compiler or the driver raises
        return f"the sparse kernels fail there ({' '.join([type(error).__name__, *str(error).split()])[:200]})"
    return wrong and f"the sparse kernels are wrong there ({wrong})"


def _disagreement(device: torch.device) -> str | None:
    """Which product differs from the dense one, on odd sizes, with an empty and a full row and more places than entries."""
    n_rows, n_features, d = _TRIAL

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))

    matrix, floor = draw(n_rows, n_features), 1 + draw(n_features).abs()
    matrix[3], matrix[5] = -10.0, 10.0
    left, right = draw(n_rows, d), draw(n_features, d)
    kept = matrix > floor
    values, dense = matrix[kept], (matrix * kept).double()
    n = len(values)
    active, found = compact(matrix.to(device), floor.to(device), n + 100)
    there = found.to(device), left.to(device), right.to(device)
    pairs = {
        "places": (active.rows[:n].cpu() * n_features + active.cols[:n].cpu(), kept.flatten().nonzero().squeeze(1)),
        "values": (found[:n], values),
        "number of entries": (active.count, torch.tensor(n)),
        "codes times dictionary": (active.times(there[0], there[2]), dense @ right.double()),
        "transposed codes times inputs": (active.transposed_times(there[0], there[1]), dense.T @ left.double()),
        "products at entries": (active.product_at(there[1], there[2])[:n], (left.double() @ right.double().T)[kept]),
        "sums of features": (active.feature_sums(there[0]), dense.sum(dim=0)),
    }
    for name, (ours, theirs) in pairs.items():
        ours = ours.double().cpu()
        if not ((ours - theirs).abs() <= _TOLERANCE * theirs.abs().max()).all():
            return name
    return None
