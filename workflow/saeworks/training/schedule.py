"""Schedules of the learning rate and of the sparsity coefficient."""

from __future__ import annotations

import math
from collections.abc import Collection

from ..config.training import TrainingConfig


def lr_factor(settings: TrainingConfig, step: int, n_steps: int) -> float:
    """Factor of the peak learning rate at `step` (0-based) of `n_steps`.

    Linear from 0 over the warm-up. Then `cosine`: `final + (1 − final)·½(1 + cos πp)`, p the share of the remaining steps
    (Braun et al. 2024); `linear_tail`: 1, and over the last `tail_fraction` of all steps linear to `final`; `constant`: 1.
    """
    warmup = round(settings.warmup_fraction * n_steps)
    if step < warmup:
        return step / warmup
    final = settings.final_lr_fraction
    if settings.schedule == "cosine":
        progress = (step - warmup) / max(1, n_steps - warmup)
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    if settings.schedule == "linear_tail":
        start = max(warmup, n_steps - round(settings.tail_fraction * n_steps))
        progress = (step - start) / max(1, n_steps - start)
        return 1.0 if progress <= 0 else 1 + (final - 1) * progress
    return 1.0


_REWARM_FROM = 0.1


def rewarm_factor(settings: TrainingConfig, step: int, resampled: Collection[int]) -> float:
    """Factor of the scheduled learning rate at `step` after resamplings before the steps `resampled`.

    ½(1.1 − 0.9 cos πp), p the share of `resample_warmup_tokens` seen since the last one; then 1 (Rajamanoharan et al. 2024).
    """
    before = [at for at in resampled if at <= step]
    seen = (step - max(before)) * settings.batch_tokens if before else math.inf
    if seen >= settings.resample_warmup_tokens:
        return 1.0
    return _REWARM_FROM + (1 - _REWARM_FROM) * 0.5 * (1 - math.cos(math.pi * seen / settings.resample_warmup_tokens))


def sparsity_factor(settings: TrainingConfig, step: int, n_steps: int) -> float:
    """Factor of the sparsity coefficient at `step`: linear from 0 over `sparsity_warmup_fraction` of the steps, then 1."""
    warmup = round(settings.sparsity_warmup_fraction * n_steps)
    return step / warmup if step < warmup else 1.0
