"""What every training-step worker shares: the setting, the data and the answers to the driver.

A worker is a process that reads one JSON line per request, `{"case": "topk", "steps": 5, "threads": 1}`, and answers
one JSON line, so that the drivers can take turns between libraries on a machine whose speed changes (see `workers.py`).
Only torch is imported here: the peers have an environment of their own.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.metadata
import json
import os
import re
import resource
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

D_IN = 256
D_SAE = 8192
BATCH = 4096
K = 32
L0_RANGE = (32, 64)
L0_START = 49  # of the ReLU and gated SAEs, by their encoder bias
DENSE_L0 = {"relu_dense": (0.4 * D_SAE, 0.6 * D_SAE)}  # as a ReLU SAE starts: half of the features on every token
LR = 1e-6  # L0 and dead latents stay as they were put; a step takes the same time at every rate
L1 = 1.0
DEAD = D_SAE // 2  # in topk_auxk, the first so many latents count as dead in every step
DEAD_SCALE = 0.2  # their encoder rows are scaled by this: positive half of the time, hardly ever in the top k

Step = Callable[[Tensor], Tensor | None]
"""One step on a batch; may return the loss before it."""
MakeStep = Callable[[str, Tensor], tuple[Step, Callable[[], float]]]
"""From a case and a sample of the data, one full training step on a batch, and the mean L0 on the sample."""


def make_batches(count: int = 4) -> list[Tensor]:
    """Sparse combinations of 8192 random directions, some used far more often than others, and a little noise;
    the mean squared norm is d_in."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(D_SAE, D_IN, generator=generator)
    directions /= directions.norm(dim=1, keepdim=True)
    often = (torch.arange(D_SAE) + 10.0) ** -0.5
    batches = []
    for _ in range(count):
        active = torch.multinomial(often, BATCH * 16, replacement=True, generator=generator).view(BATCH, 16)
        weight = torch.rand(BATCH, 16, generator=generator) + 0.5
        x = torch.nn.functional.embedding_bag(active, directions, per_sample_weights=weight, mode="sum")
        x += 0.05 * torch.randn(BATCH, D_IN, generator=generator)
        batches.append(x * (D_IN / x.pow(2).sum(1).mean()).sqrt())
    return batches


def bias_for_l0(pre_activations: Tensor) -> float:
    """The bias that leaves `L0_START` of a row's pre-activations positive, in the mean."""
    return -float(pre_activations.flatten().topk(L0_START * len(pre_activations)).values[-1])


def mean_l0(codes: Tensor) -> float:
    """Mean number of codes that are not zero in a row."""
    return float((codes != 0).sum(-1).float().mean())


def keep_freed_memory() -> None:
    """What `saeworks.cli` tells glibc before it trains; the peers run as their users run them, without."""
    libc = ctypes.CDLL("libc.so.6")
    m_trim_threshold, m_mmap_threshold = -1, -3
    libc.mallopt(m_mmap_threshold, 1 << 30)
    libc.mallopt(m_trim_threshold, (1 << 31) - 1)


def _status_mib(field: str) -> float:
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text()).group(1)) / 1024


def _reset_peak() -> None:
    with contextlib.suppress(OSError):  # the peak is then that of the process
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mib() -> float:
    try:
        return _status_mib("VmHWM")
    except (OSError, AttributeError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def serve(
    make_step: MakeStep,
    cases: list[str],
    modules: list[str],
    packages: list[str],
    note: str = "",
    make_batches: Callable[[], list[Tensor]] = make_batches,
    l0_ranges: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """Import `modules`, say hello, then answer requests until standard input ends; the driver shows the note.

    Args:
        l0_ranges: per case, where its mean L0 must stay, instead of `DENSE_L0`; `L0_RANGE` for the others.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the libraries print goes to standard error

    def answer(message: dict) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    try:
        for module in modules:
            importlib.import_module(module)
        versions = {package: importlib.metadata.version(package) for package in packages}
    except ImportError as error:  # PackageNotFoundError too
        answer({"error": f"not installed: {error}"})
        return
    batches = make_batches()
    sample = batches[0][:512].clone()
    imported_mib = _status_mib("VmRSS")
    versions["torch"] = torch.__version__
    answer({"cases": cases, "versions": versions, "imported_rss_mib": imported_mib, "note": note})

    ready = {}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            torch.set_num_threads(request["threads"])
            case = request["case"]
            if case not in cases:
                raise ValueError(f"no case {case!r} here; cases: {cases}")
            if case not in ready:
                torch.manual_seed(0)
                step, l0 = make_step(case, sample)
                loss, _ = [step(batch) for batch in batches[:2]]  # makes the optimiser's state
                ready[case] = step, l0, None if loss is None else float(loss)
            step, l0, first_loss = ready[case]
            _reset_peak()
            before, seconds, cpu_seconds = l0(), [], []
            for i in range(request["steps"]):
                started, cpu_started = time.perf_counter(), time.process_time()
                step(batches[i % len(batches)])
                seconds.append(time.perf_counter() - started)
                cpu_seconds.append(time.process_time() - cpu_started)
            peak, after = _peak_mib(), l0()
            low, high = (l0_ranges or DENSE_L0).get(case, L0_RANGE)
            for value in (before, after):
                if not low <= value <= high:
                    raise ValueError(f"L0 {value:.1f} outside {low} to {high}")
            answer(
                {
                    "seconds_per_step": seconds,
                    "cpu_seconds_per_step": cpu_seconds,
                    "l0": after,
                    "first_loss": first_loss,
                    "peak_rss_mib": peak,
                }
            )
        except Exception:
            answer({"error": traceback.format_exc()})
