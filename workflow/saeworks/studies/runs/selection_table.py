"""The runs that are compared, beside the paper's (Tables 1 to 3 of Braun et al. 2024)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..display import DisplayTable, frame, number
from ..paper import SELECTED, at_layer
from ..reading import LABELS, kind_name, read_metrics
from ..tables import read_table
from .settings import SelectionTable

CRITERIA = {"similar_ce": "similar CE", "similar_l0": "similar L0", "similar_alive": "similar alive"}
_LEVELS = ("chosen for", "where", "SAE")
_COLUMNS = ("λ or k", "L0", "alive", "grad norm", "ΔCE (nats)", "ratio")


def selected(tables: Path) -> pd.DataFrame:
    """The chosen runs: the columns of the runs, l0, alive_features, ce_increase, criterion, spread and tolerance.

    In the order of the criteria, then of the runs.
    """
    chosen = read_table(tables, "selection", ["criterion", "run", "spread", "tolerance"])
    read_table(tables, "runs", ["grad_norm"])
    runs = read_metrics(tables, ["l0", "alive_features", "ce_increase"])
    found = [
        runs.merge(chosen.loc[chosen["criterion"] == criterion, ["criterion", "run", "spread", "tolerance"]], on="run")
        for criterion in CRITERIA
    ]
    return pd.concat(found, ignore_index=True)


def table(tables: Path, config: SelectionTable) -> DisplayTable:
    """By criterion: this experiment's runs by hook point, then the paper's by layer."""
    runs = selected(tables)
    rows = []
    for criterion, chosen_for in CRITERIA.items():
        here = runs[runs["criterion"] == criterion]
        for hook_point, compared in here.groupby("hook_point", sort=False):
            rows += [(chosen_for, hook_point, *_ours(run, compared)) for run in compared.itertuples()]
        for layer, published in SELECTED.get(criterion, {}).items():
            rows += [(chosen_for, at_layer(layer), LABELS[o], *_published(*values)) for o, values in published.items()]
    return DisplayTable(frame(rows, _LEVELS, _COLUMNS), () if len(runs) else ("No runs were selected.",))


def _ours(run: tuple, compared: pd.DataFrame) -> tuple[str, ...]:
    return (
        kind_name(run.objective, run.architecture, compared),
        f"{run.sparsity_coeff:g}" if pd.isna(run.k) else f"k = {run.k}",
        number(run.l0, 1),
        number(run.alive_features, 0),
        number(run.grad_norm, 2),
        number(run.ce_increase, 3),
        number(run.tolerance, 2),
    )


def _published(coefficient: float, l0: float, alive: int, grad_norm: float, ce_increase: float) -> tuple[str, ...]:
    return f"{coefficient:g}", f"{l0:.1f}", f"{alive // 1000}k", f"{grad_norm:.2f}", f"{ce_increase:.3f}", ""
