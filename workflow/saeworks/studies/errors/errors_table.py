"""Divergence by the SAE over that by random perturbations, beside published values."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..display import ABSENT as DASH
from ..display import DisplayTable, frame, number
from ..paper import ERRORS_KL, GURNEE, LEE
from ..reading import kind_name
from .frame import ABSENT, measured_runs, run_ratio, seed_ratio, tokens_of
from .settings import ErrorsTable

_COLUMNS = ("L0", "KL", "ratio", "over seeds", "loss", "norm")
_OTHERS = ("sae", "random", "norm_only")


def table(tables: Path, config: ErrorsTable) -> DisplayTable:
    """Every chosen run by hook point and kind, with intervals over rows and, from three seeds on, over seeds; then published values."""
    every, runs = measured_runs(tables, chosen=False), measured_runs(tables)
    rows = []
    if len(runs):
        columns = [*(f"kl_{name}" for name in _OTHERS), "ce_sae", "ce_random", "l0"]
        tokens = tokens_of(tables, every, columns, config.positions)
        means = tokens.groupby("run")[["l0", "kl_sae"]].mean()
        for run in runs.itertuples():
            mean = means.loc[run.run]
            *of_seeds, n = seed_ratio(tokens, every, run.run, "kl_sae", "kl_random")
            cells = (
                number(mean["l0"], 1),
                number(mean["kl_sae"], config.decimals + 1),
                _interval(run_ratio(tokens, run.run, "kl_sae", "kl_random"), config.decimals),
                f"{_interval(tuple(of_seeds), config.decimals)} ({n})" if n > 2 else DASH,
                number(run_ratio(tokens, run.run, "ce_sae", "ce_random")[0], config.decimals),
                number(run_ratio(tokens, run.run, "kl_norm_only", "kl_random")[0], config.decimals),
            )
            rows.append((run.hook_point, kind_name(run.objective, run.architecture, runs), *cells))
    rows.append((GURNEE, "Bloom's local", DASH, DASH, "2.2 to 4.5", DASH, "2 to 4", DASH))
    rows.append((GURNEE, "attention z", DASH, DASH, "0.9 to 1.7", DASH, DASH, DASH))
    for name, (l0, sae, _, random, norm_only, *_) in ERRORS_KL.items():
        ratio, norm_ratio = f"{sae / random:.2f}", f"{norm_only / random:.2f}"
        rows.append((LEE, name, f"{l0:g}", f"{sae:g}", ratio, DASH, DASH, norm_ratio))
    return DisplayTable(frame(rows, ("where", "SAE"), _COLUMNS), () if len(runs) else (ABSENT,))


def _interval(value: tuple[float, float, float], decimals: int) -> str:
    mean, low, high = value
    return number(mean, decimals) + (f" [{number(low, decimals)}, {number(high, decimals)}]" if np.isfinite(low) else "")
