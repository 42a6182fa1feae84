"""The learning rates of each objective at equal L0, and which is chosen."""

from __future__ import annotations

from pathlib import Path

from ..display import DisplayTable, frame, number
from ..reading import kind_name
from ..tables import read_table
from .settings import RatesTable

_COLUMNS = ["hook_point", "objective", "architecture", "lr", "n_runs", "l0", "ce_increase", "excess", "chosen", "at_edge"]


def table(tables: Path, config: RatesTable) -> DisplayTable:
    """By hook point and objective."""
    rates = read_table(tables, "rates", _COLUMNS)
    rows = []
    for rate in rates.itertuples():
        choice = "chosen, at the edge" if rate.at_edge else "chosen" if rate.chosen else ""
        of = (rate.hook_point, kind_name(rate.objective, rate.architecture, rates), f"{rate.lr:g}")
        rows.append((*of, str(rate.n_runs), number(rate.l0, 1), number(rate.ce_increase, 3), number(rate.excess, 2), choice))
    notes = () if rows else ("No runs differ in their learning rate and have two sparsities.",)
    return DisplayTable(
        frame(rows, ("where", "objective", "rate"), ("runs", "L0", "ΔCE (nats)", "over the lowest", "choice")), notes
    )
