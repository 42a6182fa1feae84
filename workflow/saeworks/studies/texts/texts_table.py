"""Cost and sparsity of each run on each text."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..display import DisplayTable, frame, number
from ..reading import LABELS, read_metrics, texts
from .settings import TextsTable

_METRICS = {"l0": ("L0", 1), "ce_increase": ("ΔCE", 3), "kl": ("KL", 3), "alive_features": ("alive", 0)}


def table(tables: Path, config: TextsTable) -> DisplayTable:
    """By hook point, objective and run: the metrics on the corpus's held-out rows and on each text."""
    named = {"held-out rows": None} | {name: name for name in texts(tables)}
    rows = []
    for label, text in named.items():
        runs = read_metrics(tables, list(_METRICS), text)
        for order, run in enumerate(runs.itertuples()):
            sparsity = f"λ = {run.sparsity_coeff:g}" if pd.isna(run.k) else f"k = {run.k}"
            of = (run.hook_point, LABELS[run.objective], f"{run.group}, {sparsity}, seed {run.seed}", label)
            rows.append((order, *of, *(number(getattr(run, name), digits) for name, (_, digits) in _METRICS.items())))
    rows = [row[1:] for row in sorted(rows, key=lambda row: row[0])]
    notes = () if len(named) > 1 and rows else ("No run was evaluated on another text.",)
    return DisplayTable(frame(rows, ("where", "objective", "SAE", "text"), tuple(label for label, _ in _METRICS.values())), notes)
