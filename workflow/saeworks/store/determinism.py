"""Results that do not differ from run to run on a device whose fastest algorithms do."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch


def use_deterministic_algorithms() -> None:
    """From here on torch takes algorithms that sum in one order, where it has such, and warns where it has none."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)


@contextlib.contextmanager
def deterministic(device: str) -> Iterator[None]:
    """Deterministic algorithms on a CUDA device, and what was set before afterwards; on a CPU those that are used are anyway."""
    enabled, warn_only = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if device != "cpu":
        use_deterministic_algorithms()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
