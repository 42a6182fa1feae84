"""How long the training of each run took, from Snakemake's benchmark records.

Apart from the other tables: wall-clock differs every time, and nothing that is reproducible may depend on it.
"""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from ...store.errors import UserError
from ..place import Place

_LOADING_SECONDS = 1.0  # of CPU: less than it takes to load PyTorch, so a job that used less did not train


def job_record(path: Path) -> tuple[str, float]:
    """`(job, seconds)` of a run from the record `path` of its training job.

    The job is `alone` if it trained this run, `together` if several runs of the hook point were trained in one job from which
    this one only took its files, and `unknown` without a record; only the first has a wall-clock of its own.

    Raises:
        UserError: the record is damaged.
    """
    if not path.exists():
        return "unknown", math.nan
    try:
        record = pd.read_csv(path, sep="\t", na_values="-").iloc[0]
        seconds, cpu = float(record["s"]), float(record["cpu_time"])
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(
            f"{path} is not a benchmark record of Snakemake ({error}); delete it and the table `timing` beside it."
        ) from None
    joint = any(path.parent.glob("together*.tsv")) or any(path.parent.parent.glob(f"{path.parent.name}_*/together*.tsv"))
    if joint and not cpu >= _LOADING_SECONDS:
        return "together", math.nan
    return "alone", seconds


def timing(runs: pd.DataFrame, benchmarks: Path) -> pd.DataFrame:
    """Table `timing`: wall-clock in seconds of each run's training job, start-up included, and training tokens per second."""
    records = []
    for run in runs.to_dict("records"):
        job, seconds = job_record(benchmarks / f"{run['run']}.tsv")
        per_second = run["n_tokens"] / seconds if seconds else math.nan
        kept = {key: run[key] for key in ("run", "hook_point", "layer", "objective", "architecture", "d_sae", "n_tokens")}
        records.append({**kept, "job": job, "seconds": seconds, "tokens_per_second": per_second})
    return pd.DataFrame(records)


def measure(place: Place, settings: None) -> dict[str, pd.DataFrame]:
    """The table of all runs."""
    return {"timing": timing(place.table("runs"), place.results / "benchmarks" / "train")}
