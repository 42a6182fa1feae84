"""`saeworks runs`: what an experiment trained and what came out, a line each."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from ..store.errors import UserError, did_you_mean
from ..studies.tables import read_table

_METRICS = {
    "l0": "L0",
    "ce_increase": "CE increase",
    "kl": "KL",
    "explained_variance": "explained variance",
    "alive_features": "alive",
}
_DECIMALS = {"L0": 1, "CE increase": 4, "KL": 4, "explained variance": 3, "alive": 0}


def runs(experiment: str, /, csv: bool = False) -> None:
    """Show the runs of an experiment and what came of each, by hook point.

    L0 is active features per token, the increase in cross-entropy (CE) and KL are in nats, alive is a number of features.

    Args:
        experiment: name of the experiment, that of its folder under results/.
        csv: print comma-separated values, with all their digits.

    Raises:
        UserError: the experiment has no tables.
    """
    table = run_table(Path("results"), experiment)
    if csv:
        table.to_csv(sys.stdout, index=False)
    else:
        print(by_hook_point(table))


def run_table(results: Path, experiment: str) -> pd.DataFrame:
    """One row per run, in the order of the experiment file: run, objective, architecture, λ or k, seed, and what it came to.

    `L0` is active features per token, `CE increase` and `KL` are in nats, `alive` is a number of features; NaN where never measured.

    Raises:
        UserError: the experiment has no tables.
    """
    tables = results / experiment / "tables"
    if missing := [path for path in (tables / "runs.parquet", tables / "fidelity.parquet") if not path.exists()]:
        known = sorted(path.parents[1].name for path in results.glob("*/tables/runs.parquet"))
        others = f"experiments with tables are {', '.join(known)}" if known else "no experiment has tables yet"
        raise UserError(
            f"{missing[0]} is missing{did_you_mean(experiment, known)}; {others}: fetch it with `dvc pull --force {missing[0]}` if it is stored, "
            "or make it with `snakemake --cores all --configfile <its file in config/>`."
        )
    runs = read_table(tables, "runs", ["run", "objective", "architecture", "sparsity_coeff", "k", "seed"])
    if runs.empty:
        path = tables / "runs.parquet"
        raise UserError(
            f"table {path} has no rows; fetch it with `dvc pull --force {path}` if it is stored, else delete it and run snakemake."
        )
    fidelity = read_table(tables, "fidelity", ["run", "metric", "layer", "positions", "value"])
    overall = fidelity[(fidelity["positions"] == "all") & (fidelity["layer"] == -1) & fidelity["metric"].isin(_METRICS)]
    metrics = overall.pivot(index="run", columns="metric", values="value").reindex(columns=list(_METRICS))
    sparsity = {"sparsity_coeff": "λ", "k": "k"}
    columns = ["run", "objective", "architecture", *(key for key in sparsity if runs[key].notna().any()), "seed"]
    return runs[columns].merge(metrics, how="left", left_on="run", right_index=True).rename(columns=sparsity | _METRICS)


def by_hook_point(table: pd.DataFrame) -> str:
    """`run_table` as text, under each hook point the runs there."""
    hook_points = table["run"].str.partition("/")[0]
    heading, *lines = aligned(table.assign(run=table["run"].str.partition("/")[2])).splitlines()
    parts = [
        [f"{at}:", heading, *(lines[i] for i in where)] for at, where in table.groupby(hook_points, sort=False).indices.items()
    ]
    return "\n\n".join("\n".join(part) for part in parts)


def aligned(table: pd.DataFrame) -> str:
    """The table as text: words to the left, numbers rounded and to the right, – where there is none."""
    columns = []
    for name in table:
        text = [_cell(value, _DECIMALS.get(name)) for value in table[name]]
        width = max(map(len, [name, *text]))
        words = pd.api.types.is_string_dtype(table[name])
        columns.append([f"{cell:<{width}}" if words else f"{cell:>{width}}" for cell in [name, *text]])
    return "\n".join("  ".join(row).rstrip() for row in zip(*columns, strict=True))


def _cell(value: object, decimals: int | None) -> str:
    if pd.isna(value):
        return "–"
    if decimals is not None:
        return f"{value:,.{decimals}f}"
    return value if isinstance(value, str) else f"{value:g}"
