"""The runs that are compared, beside the paper's (Tables 1 to 3 of Braun et al. 2024)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..paper import SELECTED
from ..plot import NARROW, only_message
from ..reading import hook_points, kind_name, read_metrics
from ..tables import read_table
from ..text_table import Line, published_lines, table_figure
from .settings import SelectionTableFigure

# Criterion: its name with the paper's tables, and what is similar.
CRITERIA = {
    "similar_ce": ("Similar CE increase (Tables 1, 2)", "CE increase"),
    "similar_l0": ("Similar L0 (Table 3)", "L0"),
    "similar_alive": ("Similar number of alive features", "alive features"),
}
_COLUMNS = ("λ or k", "L0", "alive", "grad norm", "ΔCE (nats)")
_NARROW_COLUMNS = ("λ or k", "L0", "alive", "grad", "ΔCE")


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


def draw(tables: Path, config: SelectionTableFigure) -> Figure:
    """One block per criterion: this experiment's runs by hook point, then the paper's by layer."""
    runs = selected(tables)
    if runs.empty:
        return only_message(config.model_copy(update={"height": 10 * config.height}), "No runs were selected.")
    lines: list[Line] = []
    for criterion, (title, quantity) in CRITERIA.items():
        here = runs[runs["criterion"] == criterion]
        lines.append(Line(title, level=0))
        for hook_point in hook_points(here):
            lines += _own_lines(here[here["hook_point"] == hook_point], quantity, config.width < NARROW)
        for layer, rows in SELECTED.get(criterion, {}).items():
            lines += published_lines(layer, {objective: _published(row) for objective, row in rows.items()})
        if criterion not in SELECTED:
            lines.append(Line("Braun et al. 2024: values not published"))
    return table_figure(config, _NARROW_COLUMNS if config.width < NARROW else _COLUMNS, lines)


def _own_lines(runs: pd.DataFrame, quantity: str, narrow: bool) -> list[Line]:
    tolerance = f"{quantity} within a factor of {runs['tolerance'].iloc[0]:.3g}"
    heading = runs["hook_point"].iloc[0] if narrow else f"{runs['hook_point'].iloc[0]}: {tolerance}"
    lines = [Line(heading), *([Line(tolerance)] if narrow else [])]
    for run in runs.itertuples():
        sparsity = f"{run.sparsity_coeff:g}" if pd.isna(run.k) else f"k = {run.k}"
        cells = (
            sparsity,
            _number(run.l0, 1),
            _number(run.alive_features, 0),
            _number(run.grad_norm, 2),
            _number(run.ce_increase, 3),
        )
        lines.append(Line(kind_name(run.objective, run.architecture, runs), cells, run.objective))
    return lines


def _published(row: tuple[float, float, int, float, float]) -> tuple[str, ...]:
    coefficient, l0, alive, grad_norm, ce_increase = row
    return f"{coefficient:g}", f"{l0:.1f}", f"{alive // 1000}k", f"{grad_norm:.2f}", f"{ce_increase:.3f}"


def _number(value: float, decimals: int) -> str:
    return "–" if np.isnan(value) else f"{value:,.{decimals}f}"
