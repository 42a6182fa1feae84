"""Learning-rate schedules."""

from __future__ import annotations

import math


def warmup_cosine(step: int, n_steps: int, warmup_steps: int, final: float) -> float:
    """Factor of the peak learning rate at `step` (0-based).

    Linear from 0 over `warmup_steps`, then a half-cosine that ends at `final`: the schedule of Braun et al. 2024, whose
    floor is `final + (1 − final)·½(1 + cos πp)`.
    """
    if step < warmup_steps:
        return step / warmup_steps
    progress = (step - warmup_steps) / max(1, n_steps - warmup_steps)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
