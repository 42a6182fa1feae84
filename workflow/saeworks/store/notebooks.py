"""The source of a notebook, and what counts of it."""

from __future__ import annotations

import json
from pathlib import Path

from .files import content_hash

_FOLDER = Path(__file__).resolve().parents[2] / "notebooks"


def notebook_path(name: str) -> Path:
    """Where the source of notebook `name` is."""
    return _FOLDER / f"{name}.ipynb"


def notebook_hash(name: str) -> str:
    """Hash of a notebook's cells: their kind, source and tags, not their outputs."""
    cells = json.loads(notebook_path(name).read_text(encoding="utf-8"))["cells"]
    kept = [[cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags", [])] for cell in cells]
    return content_hash(kept, 16)
