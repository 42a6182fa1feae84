"""What the studies of one hook point share: the runs they look at, held-out rows, and how their tables are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..config.measures import AgreementConfig, EmbeddingConfig, FiringConfig, PcaConfig, StudyConfig
from ..lm.corpus import load_rows
from ..store.errors import UserError
from ..store.files import read_json, write_json
from .tables import read_table, write_table

STUDIES: dict[str, type[StudyConfig]] = {
    "pca": PcaConfig,
    "firing": FiringConfig,
    "agreement": AgreementConfig,
    "embedding": EmbeddingConfig,
}


def selected_runs(tables: Path, hook_point: str, *criteria: str) -> list[str]:
    """The runs of the table `selection` at `hook_point` by any of `criteria`, each once."""
    selection = read_table(tables / "selection.parquet")
    chosen = selection[(selection["hook_point"] == hook_point) & selection["criterion"].isin(criteria)]
    return list(dict.fromkeys(chosen["run"]))


def held_out_rows(corpus: Path, n_tokens: int | None, key: str) -> np.ndarray:
    """The first held-out rows with `n_tokens` tokens, rounded down to whole rows; all of them where that is None.

    Raises:
        UserError: so many are not held out; `key` is the setting that asked for them.
    """
    rows = load_rows(corpus, "eval")
    wanted = len(rows) if n_tokens is None else max(1, n_tokens // rows.shape[1])
    if wanted > len(rows):
        raise UserError(
            f"`{key}` asks for {n_tokens:,} tokens, but the corpus holds out {rows.size:,}; lower it or raise `corpus.eval_tokens`."
        )
    return np.asarray(rows[:wanted])


def write_study(study: str, out: Path, tables: dict[str, pd.DataFrame], corpus: Path, facts: dict[str, Any]) -> None:
    """Write the tables of one hook point and, last, the record `<study>.json` of what they were made from."""
    for name in STUDIES[study].tables:
        write_table(tables[name], out / f"{name}.parquet", csv=False)
    sources = read_json(corpus / "manifest.json")["sources"] | facts.pop("sources", {})
    write_json(out / f"{study}.json", {"sources": sources, **facts})


def join(study: str, hook_points: list[str], experiment: str) -> None:
    """Entry point of the stage that makes one table of all hook points, for each table of `study`."""
    tables = Path("results") / experiment / "tables"
    for name in STUDIES[study].tables:
        parts = [read_table(tables / study / hook_point / f"{name}.parquet") for hook_point in hook_points]
        filled = [part for part in parts if len(part)] or parts[:1]
        write_table(pd.concat(filled, ignore_index=True), tables / f"{name}.parquet")
