"""How much memory a computation takes."""

from __future__ import annotations

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def largest_tensor(call: Callable[[], object]) -> int:
    """Bytes of the largest tensor that PyTorch allocates on the CPU during `call`."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    return max(event.self_cpu_memory_usage for event in profiler.events())
