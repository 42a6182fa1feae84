"""Increase of the cross-entropy of several SAEs at once against the sum of each alone."""

from __future__ import annotations

from pathlib import Path

from ..display import DisplayTable, frame, number
from ..reading import LABELS
from ..tables import read_table
from .settings import SplicedTable

_COLUMNS = ["hook_points", "name", "objective", "ce_increase", "kl", "sum_of_single", "ratio"]


def table(tables: Path, config: SplicedTable) -> DisplayTable:
    """By set, objective and name of the runs."""
    rows = []
    for row in read_table(tables, "spliced", _COLUMNS).itertuples():
        cells = (number(row.ce_increase, 3), number(row.sum_of_single, 3), number(row.ratio, 2), number(row.kl, 3))
        rows.append((_short(row.hook_points), LABELS[row.objective], row.name, *cells))
    notes = () if rows else ("No set of hook points was evaluated.",)
    return DisplayTable(frame(rows, ("where", "objective", "SAEs"), ("together", "alone, sum", "ratio", "KL")), notes)


def _short(hook_points: str) -> str:
    """`blocks.2.hook_resid_pre + blocks.4.hook_resid_pre` as `hook_resid_pre 2 + 4`; of several kinds as they are."""
    names = [name.split(".", 2)[1:] for name in hook_points.split(" + ")]
    kinds = {kind for _, kind in names}
    return f"{kinds.pop()} {' + '.join(block for block, _ in names)}" if len(kinds) == 1 else hook_points
