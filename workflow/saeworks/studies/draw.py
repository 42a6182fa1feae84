"""The stage that shows: one figure or display table from its tables."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

from matplotlib.figure import Figure

from ..config.base import Json, parse
from ..config.figures import FigureStyle, TableStyle
from ..store.errors import UserError, did_you_mean
from . import caption, figures
from .display import DisplayTable
from .plot import naming, save, theme
from .reading import place_names


def figure(name: str, /, spec: Json, tables: str, out: str) -> None:
    """Draw one figure from the tables, as SVG and PNG, or write one display table, as HTML, LaTeX and CSV.

    Args:
        name: name of the figure or display table
        spec: its settings as JSON
        tables: folder of tables
        out: path without suffix

    Raises:
        UserError: there is no such figure, or its settings or tables are not valid.
    """
    if name not in figures():
        raise UserError(f"there is no figure {name!r}{did_you_mean(name, list(figures()))}; there are {', '.join(figures())}.")
    config = parse(figures()[name][1], json.loads(spec), f"figures.{name}")
    if isinstance(config, TableStyle):
        displayed(name, Path(tables), config).write(out, config.label, caption(name), config.kinds)
    else:
        save(drawn(name, Path(tables), config), out, config.dpi)


def drawn(name: str, tables: Path, config: FigureStyle) -> Figure:
    """The figure `name` in the common theme; the caller's matplotlib settings stay as they are."""
    with theme(), naming(place_names(Path(tables))):
        return _module(name).draw(Path(tables), config)


def displayed(name: str, tables: Path, config: TableStyle) -> DisplayTable:
    """The display table `name`."""
    return _module(name).table(Path(tables), config)


def _module(name: str) -> ModuleType:
    study, _ = figures()[name]
    return importlib.import_module(f".{study.name}.{name}", __package__)
