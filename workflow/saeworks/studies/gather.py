"""The stage that joins what a study measured at each place into the tables of the experiment."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from . import study_that_measures
from .tables import join_tables, read_table, write_table


def gather(study: str, /, parts: list[str], out: str) -> None:
    """Join the parts of a study's tables into those of the experiment.

    Args:
        study: name of the study
        parts: folders of the parts, in the order of the experiment file
        out: folder for the tables

    Raises:
        UserError: there is no such study, or a part is missing.
    """
    for name, table in study_that_measures(study).tables.items():
        if table.streamed:
            join_tables([Path(part) for part in parts], name, list(table.columns), Path(out) / f"{name}.parquet")
            continue
        frames = [read_table(Path(part), name) for part in parts]
        filled = [frame for frame in frames if len(frame)] or frames[:1]  # a table without rows has no types
        write_table(pd.concat(filled, ignore_index=True), Path(out) / f"{name}.parquet", csv=not table.long)
