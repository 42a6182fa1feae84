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
        rows.append((row.hook_points, LABELS[row.objective], row.name, *cells))
    notes = () if rows else ("No set of hook points was evaluated.",)
    return DisplayTable(
        frame(rows, ("where", "objective", "SAEs"), ("ΔCE together (nats)", "sum of ΔCE alone", "ratio", "KL (nats)")), notes
    )
