"""Questions asked of trained SAEs, a folder each: what is measured, its tables, figures and claims.

The folders are the register: one with a `STUDY` in its `__init__.py` is a study. Importing those loads no torch, pandas or matplotlib.
"""

from __future__ import annotations

import dataclasses
import importlib
from functools import cache
from pathlib import Path

from ..config.figures import Exhibit
from ..store.errors import UserError, did_you_mean
from .study import Column, Study, Table

__all__ = ["Column", "Study", "Table", "caption", "figures", "studies", "study_of_table", "study_that_measures"]


@cache
def studies() -> dict[str, Study]:
    """All studies by name, in the order of lists."""
    folders = sorted(path.parent.name for path in Path(__file__).parent.glob("*/__init__.py"))
    found = [dataclasses.replace(importlib.import_module(f".{folder}", __package__).STUDY, name=folder) for folder in folders]
    return {study.name: study for study in sorted(found, key=lambda study: (study.order, study.name))}


def study_that_measures(name: str) -> Study:
    """The study `name`, which has tables.

    Raises:
        UserError: there is none.
    """
    measured = [known for known, study in studies().items() if study.tables]
    if name not in measured:
        raise UserError(
            f"there is no study {name!r} that measures{did_you_mean(name, measured)}; there are {', '.join(measured)}."
        )
    return studies()[name]


@cache
def figures() -> dict[str, tuple[Study, type[Exhibit]]]:
    """All figures and display tables by name: the study each belongs to and its settings."""
    return {name: (study, settings) for study in studies().values() for name, settings in study.figures.items()}


@cache
def study_of_table() -> dict[str, Study]:
    """The study that writes each table, by the table's name."""
    return {table: study for study in studies().values() for table in study.tables}


def caption(name: str) -> str:
    """The caption of a figure or display table, in one line; that of a display table stands in its files too."""
    study, _ = figures()[name]
    return " ".join((Path(__file__).parent / study.name / f"{name}.rst").read_text(encoding="utf-8").split())
