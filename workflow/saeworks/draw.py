"""Figures by name."""

from __future__ import annotations

import importlib
from pathlib import Path

from .config.base import Json
from .store.errors import UserError, did_you_mean


def figure(name: str, /, spec: Json, tables: str, out: str) -> None:
    """Draw one figure from the tables.

    Args:
        name: the figure.
        spec: its configuration block.
        tables: folder of tables.
        out: path of the figure without suffix.

    Raises:
        UserError: there is no such figure, or its settings are wrong.
    """
    known = [path.stem for path in (Path(__file__).parent / "figures").glob("*.py")]
    if name not in known:
        raise UserError(f"there is no figure {name!r}{did_you_mean(name, known)}; see workflow/saeworks/figures.")
    importlib.import_module(f".figures.{name}", __package__).main(spec, tables, out)
