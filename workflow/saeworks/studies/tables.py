"""Tables on disk: tidy Parquet, with a CSV beside those that a person might read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ..store.errors import UserError
from ..store.files import atomic_path


def write_table(table: pd.DataFrame, path: Path, csv: bool) -> None:
    """Write `path` (.parquet) and, with `csv`, the same table as .csv beside it; equal tables give equal bytes."""
    with atomic_path(path) as partial:
        table.to_parquet(partial, index=False, compression="zstd")
    if csv:
        with atomic_path(path.with_suffix(".csv")) as partial:
            table.to_csv(partial, index=False, float_format="%.7g")


def read_table(tables: Path, name: str, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Read `<tables>/<name>.parquet` and check that it has `columns`.

    Raises:
        UserError: the file is missing, unreadable or lacks a column.
    """
    path = Path(tables) / f"{name}.parquet"
    mend = f"fetch it with `dvc pull --force {path}` if it is stored, else delete it and run snakemake, which makes it again"
    if not path.exists():
        raise UserError(f"table {path} is missing; {mend}.")
    if not path.is_file():  # of a folder pandas reads all that is in it
        raise UserError(f"table {path} is a folder; remove it and run snakemake, which makes it again.")
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"table {path} cannot be read ({reason}); {mend}.") from None
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise UserError(f"table {path} has no column `{missing[0]}`; {mend}.")
    return frame
