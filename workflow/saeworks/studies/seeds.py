"""What the figures of runs in several seeds share."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..config.figures import FigureStyle
from .reading import kind_name, read_runs, sparsity_label
from .tables import read_table

NO_SEEDS = "No two runs differ in their seed only: give a run group a second seed (`seeds: [0, 1]`)."
_ROOM = 1.6  # inches for a panel, below which an interval takes a line of its own
_INTERVAL = ["value", "ci_low", "ci_high", "resampled"]


def of_first_run(tables: Path, name: str, columns: list[str]) -> pd.DataFrame:
    """Rows of table `name` with what is known of their `run_a` (hook_point, objective, architecture, sparsity_coeff, k, settings,
    seed), in the order of the runs."""
    table = read_table(tables, name, ["run_a", "run_b", *columns]).drop(columns="hook_point", errors="ignore")
    known = ["run", "hook_point", "objective", "architecture", "sparsity_coeff", "k", "settings", "seed"]
    return read_runs(tables)[known].merge(table, left_on="run", right_on="run_a")


def read_matching(tables: Path) -> pd.DataFrame:
    """Rows of table `matching` about alive features, as `of_first_run`."""
    columns = ["comparison", "directions", "features", "metric", "random_baseline", *_INTERVAL]
    table = of_first_run(tables, "matching", columns)
    return table[table["features"] == "alive"]


def over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """For each setting those rows that sum up all its pairs of seeds, where there are such; else all of it."""
    summed = rows["resampled"] == "seed pairs"
    return rows[summed | ~rows["settings"].isin(rows.loc[summed, "settings"])]


def joint(config: FigureStyle, n_columns: int) -> str:
    """What parts the words of a title over one of `n_columns` panels: a new line where there is little room."""
    return " " if config.width / n_columns > _ROOM else "\n"


def with_interval(rows: pd.DataFrame, joint: str) -> str:
    """Mean and interval, from the lowest to the highest bound if there are several rows."""
    rows = over_seeds(rows).dropna(subset="value")
    if rows.empty:
        return "–"
    low, high = rows["ci_low"].min(), rows["ci_high"].max()
    return f"{rows['value'].mean():z.3f}" + (f"{joint}[{low:z.3f}, {high:z.3f}]" if low == low else "")


def heading(frame: pd.DataFrame, objective: str, architecture: str, among: pd.DataFrame, joint: str) -> str:
    """The kind of the runs `frame`, and their sparsity if there are any."""
    name = kind_name(objective, architecture, among, joint="\n")
    return f"{name}{', ' if joint == ' ' else joint}{sparsity_label(frame)}" if len(frame) else name
