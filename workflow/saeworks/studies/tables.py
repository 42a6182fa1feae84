"""Tables on disk: tidy Parquet, with a CSV beside those that a person might read."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

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
        UserError: the file is missing, unreadable, lacks a column, or has a `value` that is no number.
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
    if "value" in columns and len(frame) and not pd.api.types.is_numeric_dtype(frame["value"]):
        raise UserError(f"table {path} has something else than numbers in its column `value`; {mend}.")
    return frame


class TableWriter:
    """Writes a table to `path` (.parquet) some rows at a time; it is there once all are written, and equal tables give equal bytes.

    The first rows with any set the types. Without rows it has `columns` and no types.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns = path, list(columns)
        self._open, self._writer = ExitStack(), None

    def __enter__(self) -> Self:
        self._partial = self._open.enter_context(atomic_path(self.path))
        return self

    def write(self, rows: pd.DataFrame) -> None:
        """Add a group of rows."""
        if not rows.empty:
            self.write_arrow(pa.Table.from_pandas(rows, preserve_index=False).replace_schema_metadata())

    def write_arrow(self, rows: pa.Table) -> None:
        """Add a group of rows that are such already."""
        if self._writer is None:
            fields = rows.schema
            floats = [field.name for field in fields if pa.types.is_floating(field.type)]
            others = [field.name for field in fields if field.name not in floats]
            self._writer = pq.ParquetWriter(
                self._partial, fields, compression="zstd", use_dictionary=others, use_byte_stream_split=floats
            )
        self._writer.write_table(rows)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool | None:
        if self._writer is not None:
            self._writer.close()
        elif kind is None:
            pd.DataFrame(columns=self.columns).to_parquet(self._partial, index=False)
        return self._open.__exit__(kind, error, trace)


def join_tables(parts: Sequence[Path], name: str, columns: Sequence[str], path: Path) -> None:
    """Join the tables `name` in the folders `parts`, some rows at a time, into `path`; parts without rows add none.

    Raises:
        UserError: a part is missing or unreadable.
    """
    for part in parts:
        read_columns(part, name, ())
    with TableWriter(path, columns) as writer:
        for part in parts:
            with pq.ParquetFile(Path(part) / f"{name}.parquet") as file:
                for group in range(file.num_row_groups):
                    if len(rows := file.read_row_group(group)):
                        writer.write_arrow(rows)


def read_columns(tables: Path, name: str, columns: Sequence[str]) -> pd.DataFrame:
    """`columns` alone of `<tables>/<name>.parquet`, which may be long.

    Raises:
        UserError: the file is missing, unreadable or lacks a column.
    """
    path = Path(tables) / f"{name}.parquet"
    try:
        there = pq.read_schema(path).names
    except (OSError, ValueError):
        there = None
    if there is None or not set(columns) <= set(there):
        return read_table(tables, name, columns)  # which says what is wrong
    return pd.read_parquet(path, columns=list(columns))
