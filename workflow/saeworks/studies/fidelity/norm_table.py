"""Norm of the SAE's output over that of its input, beside the paper's (Table 5 of Braun et al. 2024)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..display import DisplayTable, frame, number
from ..paper import L2_RATIO, at_layer
from ..reading import LABELS, kind_name, read_selection, sparsity_label
from ..tables import read_table
from .settings import NormTable


def at_positions(tables: Path, metric: str) -> pd.DataFrame:
    """The selected runs with `first` and `rest`: the metric at position 0 and after it (NaN where it was not measured)."""
    fidelity = read_table(tables, "fidelity", ["run", "metric", "layer", "positions", "value"])
    here = fidelity[(fidelity["metric"] == metric) & (fidelity["layer"] == -1)]
    wide = here.pivot(index="run", columns="positions", values="value").reindex(columns=["first", "rest"])
    return read_selection(tables).merge(wide, left_on="run", right_index=True, how="left")


def table(tables: Path, config: NormTable) -> DisplayTable:
    """The runs selected for similar CE increase by hook point, then the paper's by layer."""
    runs = at_positions(tables, "l2_ratio")
    rows = []
    for _, run in runs.iterrows():
        name = f"{kind_name(run['objective'], run['architecture'], runs)}, {sparsity_label(run.to_frame().T)}"
        rows.append((run["hook_point"], name, *(number(run[column], config.decimals) for column in ("first", "rest"))))
    for layer, published in L2_RATIO.items():
        rows += [(at_layer(layer), LABELS[o], *(number(value, 2) for value in values)) for o, values in published.items()]
    notes = () if len(runs) else ("No runs were selected at similar CE increase.",)
    return DisplayTable(frame(rows, ("where", "SAE"), ("position 0", "later positions")), notes)
