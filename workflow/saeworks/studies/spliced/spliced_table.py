"""Increase of the cross-entropy of several SAEs at once against the sum of each alone."""

from __future__ import annotations

from pathlib import Path

from ..display import DisplayTable, frame, number
from ..reading import LABELS
from ..tables import read_table
from .settings import SplicedTable

_KEYS = ["hook_points", "name"]
_COLUMNS = [*_KEYS, "trained", "objective", "ce_increase", "kl", "sum_of_single", "ratio"]


def table(tables: Path, config: SplicedTable) -> DisplayTable:
    """By set, objective, how they were trained and name of the runs."""
    rows = []
    sparsity = read_table(tables, "spliced_saes", [*_KEYS, "l0_set"]).groupby(_KEYS, sort=False)["l0_set"].agg(list)
    for row in read_table(tables, "spliced", _COLUMNS).itertuples():
        cells = (number(row.ce_increase, 3), number(row.sum_of_single, 3), number(row.ratio, 2), number(row.kl, 3))
        l0 = " + ".join(number(value, 1) for value in sparsity[row.hook_points, row.name])
        rows.append((_short(row.hook_points), LABELS[row.objective], row.trained, row.name, *cells, l0))
    notes = () if rows else ("No set of hook points was evaluated.",)
    columns = ("together", "alone, sum", "ratio", "KL", "L0, together")
    return DisplayTable(frame(rows, ("where", "objective", "trained", "SAEs"), columns), notes)


def _short(hook_points: str) -> str:
    """`blocks.2.hook_resid_pre + blocks.4.hook_resid_pre` as `hook_resid_pre 2 + 4`; of several kinds as they are."""
    names = [name.split(".", 2)[1:] for name in hook_points.split(" + ")]
    kinds = {kind for _, kind in names}
    return f"{kinds.pop()} {' + '.join(block for block, _ in names)}" if len(kinds) == 1 else hook_points
