"""The learning rates of each objective at equal L0, and which is chosen."""

from __future__ import annotations

from pathlib import Path

from ..display import DisplayTable, frame, number
from ..reading import LABELS
from ..tables import read_table
from .settings import RatesTable


def table(tables: Path, config: RatesTable) -> DisplayTable:
    """By hook point and objective."""
    rates = read_table(
        tables, "rates", ["hook_point", "objective", "lr", "n_runs", "l0", "ce_increase", "excess", "chosen", "at_edge"]
    )
    rows = [
        (rate.hook_point, LABELS[rate.objective], f"{rate.lr:g}", str(rate.n_runs), number(rate.l0, 1), number(rate.ce_increase, 3),
         number(rate.excess, 2), "chosen, at the edge" if rate.at_edge else "chosen" if rate.chosen else "")
        for rate in rates.itertuples()
    ]  # fmt: skip
    notes = () if rows else ("No runs differ in their learning rate and have two sparsities.",)
    return DisplayTable(frame(rows, ("where", "objective", "rate"), ("runs", "L0", "ΔCE (nats)", "over the lowest", "")), notes)
