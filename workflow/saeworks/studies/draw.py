"""The stage that draws: one figure from its tables."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

from matplotlib.figure import Figure

from ..config.base import parse
from ..config.figures import FigureStyle
from ..store.errors import UserError, did_you_mean
from . import figures
from .plot import save, theme


def figure(name: str, spec: str, tables: str, out: str) -> None:
    """Draw one figure from the tables, as SVG and PNG.

    Args:
        name: name of the figure
        spec: its settings as JSON
        tables: folder of tables
        out: path without suffix

    Raises:
        UserError: there is no such figure, or its settings or tables are unfit.
    """
    if name not in figures():
        raise UserError(f"there is no figure {name!r}{did_you_mean(name, list(figures()))}; there are {', '.join(figures())}.")
    config = parse(figures()[name][1], json.loads(spec), f"figures.{name}")
    save(drawn(name, Path(tables), config), out, config.dpi)


def drawn(name: str, tables: Path, config: FigureStyle) -> Figure:
    """The figure `name` in the common theme; the caller's matplotlib settings stay as they are."""
    study, _ = figures()[name]
    module = importlib.import_module(f".{study.name}.{name}", __package__)
    with theme():
        return module.draw(Path(tables), config)
