"""Norm of the SAE's output over that of its input, beside the paper's (Table 5 of Braun et al. 2024)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..paper import L2_RATIO
from ..plot import only_message
from ..reading import hook_points, kind_name, read_selection, sparsity_label
from ..tables import read_table
from ..text_table import Line, published_lines, table_figure
from .settings import NormTableFigure

_COLUMNS = ("position 0", "later positions")


def at_positions(tables: Path, metric: str) -> pd.DataFrame:
    """The selected runs with `first` and `rest`: the metric at position 0 and after it (NaN where it was not measured)."""
    fidelity = read_table(tables, "fidelity", ["run", "metric", "layer", "positions", "value"])
    here = fidelity[(fidelity["metric"] == metric) & (fidelity["layer"] == -1)]
    wide = here.pivot(index="run", columns="positions", values="value").reindex(columns=["first", "rest"])
    return read_selection(tables).merge(wide, left_on="run", right_index=True, how="left")


def draw(tables: Path, config: NormTableFigure) -> Figure:
    """The runs selected for similar CE increase by hook point, then the paper's by layer."""
    runs = at_positions(tables, "l2_ratio")
    if runs.empty:
        return only_message(
            config.model_copy(update={"height": 10 * config.height}), "No runs were selected at similar CE increase."
        )
    lines = [Line("This experiment", level=0)]
    for hook_point in hook_points(runs):
        here = runs[runs["hook_point"] == hook_point]
        lines.append(Line(hook_point))
        for _, run in here.iterrows():
            name = f"{kind_name(run['objective'], run['architecture'], runs)}, {sparsity_label(run.to_frame().T)}"
            lines.append(Line(name, _cells((run["first"], run["rest"]), config.decimals), run["objective"]))
    lines.append(Line("Table 5", level=0))
    for layer, rows in L2_RATIO.items():
        lines += published_lines(layer, {objective: _cells(row, 2) for objective, row in rows.items()})
    return table_figure(config, _COLUMNS, lines, label_width=0.5)


def _cells(values: tuple[float, float], decimals: int) -> tuple[str, ...]:
    return tuple("–" if np.isnan(value) else f"{value:.{decimals}f}" for value in values)
