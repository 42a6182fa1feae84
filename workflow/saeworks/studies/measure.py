"""The stage that measures: one study at one place."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import pandas as pd

from ..config.base import Json, parse
from ..store.errors import UserError
from . import Study, Table, study_that_measures
from .place import Place
from .tables import TableWriter, write_table

_LABEL = {"run": ("run",), "hook_point": ("hook_point",), "experiment": ()}  # column that says where, by scope


def measure(
    study: str,
    /,
    spec: Json,
    experiment: str,
    out: str,
    at: str = "",
    model: str = "",
    corpus: str = "",
    device: str = "cpu",
    runs: list[str] | None = None,
) -> None:
    """Measure one study at one place and write its part of each table.

    Args:
        study: name of the study
        spec: its settings as JSON, `{}` where it has none
        experiment: experiment name
        out: folder for the parts of its tables
        at: the place: hook point and run (`<hook point>/<run>`), a hook point, or nothing for a study of the whole experiment
        model: prepared model, for a study that needs it
        corpus: corpus folder, for a study that needs it
        device: torch device, for a study that needs the model
        runs: names of all runs in the order of the experiment file, for study `runs`

    Raises:
        UserError: there is no such study, or its settings or inputs are not valid.
    """
    declared = study_that_measures(study)
    _check_place(declared, at, model, corpus, runs)
    settings = None if declared.settings is None else parse(declared.settings, json.loads(spec), f"studies.{study}")
    on = device if "model" in declared.needs else "cpu"
    place = Place(Path("results") / experiment, at, Path(model), Path(corpus), on, tuple(runs or ()), declared.reads)
    found = _module(declared).measure(place, settings)
    label = dict.fromkeys(_LABEL[declared.scope], at)
    paths = {name: Path(out) / f"{name}.parquet" for name in declared.tables}
    if not isinstance(found, dict):
        _write_parts(found, declared, label, paths)
        return
    for name, table in declared.tables.items():
        write_table(_labelled(found[name], table, label), paths[name], csv=False)


def _write_parts(
    parts: Iterable[dict[str, pd.DataFrame]], declared: Study, label: dict[str, str], paths: dict[str, Path]
) -> None:
    """Write tables that are measured some rows at a time: those that are streamed as the rows come, the others at the end."""
    kept: dict[str, list[pd.DataFrame]] = {name: [] for name, table in declared.tables.items() if not table.streamed}
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(TableWriter(paths[name], list(table.columns)))
            for name, table in declared.tables.items()
            if table.streamed
        }
        for part in parts:
            for name, rows in part.items():
                rows = _labelled(rows, declared.tables[name], label)
                writers[name].write(rows) if name in writers else kept[name].append(rows)
    for name, frames in kept.items():
        found = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(declared.tables[name].columns))
        write_table(found, paths[name], csv=False)


def without_torch(study: str) -> bool:
    """Whether a study reads nothing but tables and records, so that its module does not load torch."""
    _module(study_that_measures(study))
    return "torch" not in sys.modules


def _module(study: Study) -> ModuleType:
    return importlib.import_module(f".{study.name}.measure", __package__)


def _check_place(study: Study, at: str, model: str, corpus: str, runs: list[str] | None) -> None:
    """Check that a study is given what it measures.

    Raises:
        UserError: something is missing, or given in vain.
    """
    parts = {"run": 2, "hook_point": 1, "experiment": 0}[study.scope]
    if len(at.split("/")) != parts if at else parts:
        places = {
            "run": "a run, `<hook point>/<run>`",
            "hook_point": "a hook point",
            "experiment": "the whole experiment, with no `--at`",
        }
        raise UserError(f"`--at` is {at!r}, but study {study.name!r} is measured on {places[study.scope]}.")
    for option, given in (("model", model), ("corpus", corpus)):
        if option in study.needs and not given:
            raise UserError(f"study {study.name!r} needs `--{option}`, the folder that the workflow makes under data/.")
    if study.scope == "experiment" and "saes" in study.needs and not runs:
        raise UserError(f"study {study.name!r} needs `--runs`, the names of the runs in their order.")


def _labelled(frame: pd.DataFrame, table: Table, label: dict[str, str]) -> pd.DataFrame:
    """The part of a table with the column that says where it was measured; one without rows has no types."""
    columns = list(table.columns)
    if frame.empty:
        return pd.DataFrame(columns=columns)
    labelled = frame.assign(**label)
    if odd := set(labelled) ^ set(columns):
        raise ValueError(f"a table has other columns than its study declares: {', '.join(sorted(odd))}")
    return labelled[columns]
