"""Tables on disk: tidy Parquet, with a CSV beside those that a person might read."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..config.measures import LONG_TABLES
from ..store.errors import UserError
from ..store.files import atomic_path


def write_table(table: pd.DataFrame, path: Path, csv: bool = True) -> None:
    """Write `path` (.parquet) and the same table as .csv beside it, but for `LONG_TABLES`; equal tables give equal bytes.

    `csv=False` is for parts that end up in a table of the whole experiment.
    """
    with atomic_path(path) as partial:
        table.to_parquet(partial, index=False, compression="zstd")
    if not csv or path.stem in LONG_TABLES:
        return
    with atomic_path(path.with_suffix(".csv")) as partial:
        table.to_csv(partial, index=False, float_format="%.7g")


def read_table(path: Path) -> pd.DataFrame:
    """Read a table.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise UserError(f"table {path} is missing; run snakemake, or fetch it with `dvc pull`.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"table {path} cannot be read ({error}); delete it and rerun.") from None
