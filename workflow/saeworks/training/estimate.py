"""What a run will need, said before it starts, and said again if the memory does not suffice."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch

from ..config.objectives import OBJECTIVES
from ..config.training import RunSpec
from ..sae.base import SAE
from ..store.errors import UserError
from ..store.files import human_bytes

_KEPT_PER_BLOCK = 16  # times d_model per token: normalised inputs, queries, keys, values, outputs, and the MLP's inside twice
_LOGIT_ROWS = 256  # whose logits exist at once
_PROBE = 512  # rows and columns of the product that the time estimate is based on


def describe_run(spec: RunSpec, sae: SAE, source: Any, model: Any | None, n_steps: int) -> str:
    """One line: steps, memory, disk and time of a run, before it starts. The time is that of the matrix products."""
    seconds = n_steps * _step_flops(spec, sae, source, model) / _flops_per_second(str(sae.W_enc.device))
    n_parameters = sum(p.numel() for p in sae.parameters())
    disk = (
        4 * n_parameters * (7 + 2 * bool(spec.training.weight_ema))
    )  # weights, and two checkpoints while one replaces the other
    return (
        f"run {spec.name}: {n_steps:,} steps of {spec.training.batch_tokens:,} tokens; about {human_bytes(memory_needed(spec, source.d_in, model))} "
        f"of memory beside the model, {human_bytes(disk)} of disk, {_duration(seconds)} of matrix products (less once features are sparse)"
    )


def memory_needed(spec: RunSpec, d_in: int, model: Any | None = None) -> int:
    """Bytes of a training step with dense codes: weights, gradients, two moments, and the batch's codes and inputs.

    Under an end-to-end objective also what `model`, whose own weights are not counted, keeps for its backward pass.
    """
    settings = spec.training
    parameters = 2 * d_in * settings.d_sae + settings.d_sae + d_in
    copies = 4 + bool(settings.weight_ema)
    codes = settings.batch_tokens * settings.d_sae
    kept = 0
    if model is not None and OBJECTIVES[spec.objective].needs_model:
        arch = model.arch
        kept = _KEPT_PER_BLOCK * settings.batch_tokens * arch.d_model * arch.n_layers + 3 * _LOGIT_ROWS * arch.d_vocab
    return 4 * (copies * parameters + 4 * codes + 6 * settings.batch_tokens * d_in + kept)


@contextlib.contextmanager
def out_of_memory(source: Any, specs: list[RunSpec], model: Any | None = None) -> Iterator[None]:
    """Turn a lack of memory into a sentence that says what was needed.

    Raises:
        UserError: the block ran out of memory.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError) and "alloc" not in str(error):
            raise
        fewer = ", or train fewer runs at once" if len(specs) > 1 and not specs[0].spliced else ""
        needed = sum(memory_needed(spec, source.d_in, model) for spec in specs)
        raise UserError(
            f"out of memory: {len(specs)} run(s) of {specs[0].training.d_sae:,} features with batches of {specs[0].training.batch_tokens:,} "
            f"tokens need about {human_bytes(needed)} beside the model while codes are dense; lower `batch_tokens` or `d_sae`{fewer}. "
            "The last checkpoints are kept, and the same command continues from them."
        ) from error


def _step_flops(spec: RunSpec, sae: SAE, source: Any, model: Any | None) -> float:
    tokens = spec.training.batch_tokens
    flops = 10.0 * tokens * sae.d_in * sae.d_sae  # encoder, decoder, and three gradients
    if model is not None:
        arch, layers = model.arch, model.arch.n_layers
        block = 12 * arch.d_model**2 + 2 * source.context * arch.d_model
        # clean, spliced and backward; the unembedding likewise
        flops += 6.0 * tokens * (layers * block + arch.d_model * arch.d_vocab)
    return flops


def _flops_per_second(device: str) -> float:
    probe = torch.ones(_PROBE, _PROBE, device=device)
    rates = []
    for _ in range(3):
        started = time.perf_counter()
        (probe @ probe)[0, 0].item()
        rates.append(2 * _PROBE**3 / (time.perf_counter() - started))
    return max(rates)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
