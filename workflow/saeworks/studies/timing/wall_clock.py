"""Cost of training by objective, beside the paper's (Table 6 of Braun et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from ..display import DisplayTable, frame, number
from ..paper import TRAINING_TOKENS, WALL_CLOCK_HOURS, at_layer
from ..reading import LABELS, kind_name, kinds
from ..tables import read_table
from .settings import WallClockTable

_COLUMNS = [
    "run", "hook_point", "layer", "objective", "architecture", "d_sae", "n_tokens", "job", "seconds", "tokens_per_second",
]  # fmt: skip
_LIKE = ["hook_point", "architecture", "d_sae", "n_tokens"]  # of runs whose times differ by their objectives


def summary(timing: pd.DataFrame) -> pd.DataFrame:
    """Per objective, hook point, architecture, d_sae and n_tokens: jobs, medians of wall-clock (s) and tokens/s, and the slowdown.

    `slowdown` is tokens/s of the local objective over those of this one, all else equal; NaN where there is no such local run.
    """
    alone = timing[timing["job"] == "alone"].dropna(subset=["seconds", "tokens_per_second"])
    table = alone.groupby(["objective", *_LIKE], sort=False).agg(
        layer=("layer", "first"),
        jobs=("run", "size"),
        seconds=("seconds", "median"),
        tokens_per_second=("tokens_per_second", "median"),
    )
    table = table.reset_index()
    local = table[table["objective"] == "local"].set_index(_LIKE)["tokens_per_second"].rename("of_local")
    table = table.join(local, on=_LIKE)
    return table.assign(slowdown=table["of_local"] / table["tokens_per_second"]).drop(columns="of_local")


def duration(seconds: float) -> str:
    """A wall-clock in two units, the larger not zero."""
    minutes, hours = seconds / 60, seconds / 3600
    if hours >= 1:
        return (
            f"{int(hours)} h {round(60 * (hours % 1)):02d} min" if round(60 * (hours % 1)) < 60 else f"{int(hours) + 1} h 00 min"
        )
    return f"{minutes:.1f} min" if minutes >= 1 else f"{seconds:.1f} s"


def _runs(number: int) -> str:
    return "1 run was" if number == 1 else f"{number} runs were"


def table(tables: Path, config: WallClockTable) -> DisplayTable:
    """This experiment's training jobs by hook point, and after them the paper's by layer."""
    timing = read_table(tables, "timing", _COLUMNS)
    rows = [*_ours(summary(timing)), *_published()]
    together, unknown = ((timing["job"] == job).sum() for job in ("together", "unknown"))
    notes = []
    if together:
        notes.append(f"{_runs(together)} trained together with others: such a job has no time of one run.")
    if unknown:
        notes.append(f"{_runs(unknown)} trained without a record of the time.")
    if timing.empty:
        notes.append("There are no runs.")
    return DisplayTable(frame(rows, ("where", "SAE"), ("jobs", "wall-clock", "tokens/s", "× local")), tuple(notes))


def _ours(table: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    for hook_point, here in table.sort_values("layer", kind="stable").groupby("hook_point", sort=False):
        for (d_sae, n_tokens), alike in here.groupby(["d_sae", "n_tokens"]):
            sizes = {"d_sae": f"{d_sae:,} features", "n_tokens": f"{n_tokens:,} tokens"}
            where = ", ".join([hook_point, *(size for column, size in sizes.items() if here[column].nunique() > 1)])
            rows = alike.set_index(["objective", "architecture"])
            for objective, architecture in kinds(alike):
                row = rows.loc[(objective, architecture)]
                speed = number(row["tokens_per_second"], 0), number(row["slowdown"], 1)
                yield where, kind_name(objective, architecture, table), f"{row['jobs']:.0f}", duration(row["seconds"]), *speed


def _published() -> Iterator[tuple[str, ...]]:
    for layer, hours in WALL_CLOCK_HOURS.items():
        for objective, taken in hours.items():
            speed = number(TRAINING_TOKENS / (3600 * taken), 0), number(taken / hours["local"], 1)
            yield at_layer(layer), LABELS[objective], "", duration(3600 * taken), *speed
