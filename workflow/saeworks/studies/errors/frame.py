"""The tables of the study as figures, claims and pages read them: the runs' tokens, their sums by row, ratios with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ...config.resampling import ResamplingConfig
from ..reading import read_runs, read_selection
from ..resampling import ENOUGH_SEEDS, ratio_interval, seed_interval
from ..tables import read_columns

ABSENT = "No run has errors that were measured."
RESAMPLING = ResamplingConfig()
_PLACES = {"hook_resid_pre": "", "hook_resid_post": " post", "hook_z": " z", "hook_attn_out": " attn", "hook_mlp_out": " mlp"}
_OF_RUN = ["run", "hook_point", "layer", "objective", "architecture", "sparsity_coeff", "k", "seed", "settings"]


def measured_runs(tables: Path, table: str = "errors", chosen: bool = True) -> pd.DataFrame:
    """The runs that table `table` has rows of, in the papers' order: those chosen for similar CE increase, or all."""
    runs = read_selection(tables) if chosen else read_runs(tables)
    return runs[runs["run"].isin(read_columns(tables, table, ["run"])["run"].unique())].reset_index(drop=True)


def tokens_of(
    tables: Path, runs: pd.DataFrame, columns: Sequence[str], positions: str = "all", table: str = "errors"
) -> pd.DataFrame:
    """Rows of the frame of `runs`, after position 0 or all, with `columns` and what is known of the run."""
    frame = read_columns(tables, table, list(dict.fromkeys(["run", "row", "position", *columns])))
    frame = frame[frame["run"].isin(runs["run"])]
    frame = frame[frame["position"] > 0] if positions == "rest" else frame
    return frame.merge(runs[[c for c in _OF_RUN if c not in ("layer",) or c not in frame]], on="run", how="left")


def row_sums(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Float64 sums of `columns` over the tokens that have them all, and their number `n`, by run and row."""
    kept = frame.dropna(subset=list(columns))
    grouped = kept.astype(dict.fromkeys(columns, "float64")).groupby(["run", "row"], sort=True)
    return grouped[list(columns)].sum().assign(n=grouped.size())


def mean_with_interval(frame: pd.DataFrame, run: str, column: str) -> tuple[float, float, float]:
    """Mean over the tokens of a run, with an interval that resamples rows; NaN where it was not measured."""
    sums = row_sums(frame[frame["run"] == run], [column])
    return ratio_interval(sums[column].to_numpy(), sums["n"].to_numpy(), RESAMPLING, f"errors/{run}/{column}")


def run_ratio(frame: pd.DataFrame, run: str, above: str, below: str) -> tuple[float, float, float]:
    """Ratio of the means of two columns over the same tokens of a run, with an interval that resamples rows."""
    sums = row_sums(frame[frame["run"] == run], [above, below])
    return ratio_interval(sums[above].to_numpy(), sums[below].to_numpy(), RESAMPLING, f"errors/{run}/{above}/{below}")


def seed_ratio(frame: pd.DataFrame, runs: pd.DataFrame, run: str, above: str, below: str) -> tuple[float, float, float, int]:
    """Geometric mean of `run_ratio` over the seeds of a run, with Student's interval of its logarithm, and how many they are.

    Fewer than three seeds have an interval of NaN.
    """
    this = runs[runs["run"] == run].iloc[0]
    same = runs[(runs["settings"] == this["settings"]) & (runs["hook_point"] == this["hook_point"])]
    values = pd.Series([run_ratio(frame, other, above, below)[0] for other in same["run"]], dtype=float)
    logs = np.log(values[values > 0])
    if len(logs) < ENOUGH_SEEDS:
        return np.exp(logs.mean()), np.nan, np.nan, len(logs)
    mean, half = seed_interval(logs, RESAMPLING.confidence)
    return *np.exp([mean, mean - half, mean + half]), len(logs)


def shown_run(runs: pd.DataFrame) -> pd.Series:
    """The run of figures that show one: the first kind's at the middle one of its hook points."""
    first = runs[(runs["objective"] == runs["objective"].iloc[0]) & (runs["architecture"] == runs["architecture"].iloc[0])]
    return first.iloc[(len(first) - 1) // 2]


def short_name(hook_point: str) -> str:
    """A hook point in a tick label: its layer, and its place unless it is the residual before a block."""
    block, place = hook_point.split(".")[1], hook_point.rsplit(".", 1)[-1]
    return f"{block}{_PLACES.get(place, f' {place}')}"


def visible(token: str) -> str:
    """A token's text with what cannot be seen made visible."""
    return "".join("⏎" if c == "\n" else "·" if c == " " else c if c.isprintable() else "?" for c in token)
