"""The source of a notebook, and what counts of it."""

from __future__ import annotations

import ast
import functools
import json
from pathlib import Path

from .files import content_hash

_PACKAGE = Path(__file__).resolve().parents[1]
_FOLDER = _PACKAGE.parent / "notebooks"


def notebook_path(name: str) -> Path:
    """Where the source of notebook `name` is."""
    return _FOLDER / f"{name}.ipynb"


def notebook_title(name: str) -> str:
    """The heading of a notebook."""
    first = json.loads(notebook_path(name).read_text(encoding="utf-8"))["cells"][0]
    return "".join(first["source"]).splitlines()[0].removeprefix("# ")


def notebook_hash(name: str) -> str:
    """Hash of a notebook's cells: their kind, source and tags, not their outputs."""
    cells = json.loads(notebook_path(name).read_text(encoding="utf-8"))["cells"]
    kept = [[cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags", [])] for cell in cells]
    return content_hash(kept, 16)


def notebook_imports(name: str) -> list[str]:
    """What the cells of a notebook import from the package, as `module` or `module:name`, without the package's name."""
    cells = json.loads(notebook_path(name).read_text(encoding="utf-8"))["cells"]
    return list(_imports("\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")))


@functools.cache
def _imports(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == _PACKAGE.name:
            module = node.module.removeprefix(_PACKAGE.name).lstrip(".")
            for alias in node.names:
                own = ".".join(filter(None, [module, alias.name]))
                found.append(own if _PACKAGE.joinpath(*own.split(".")).with_suffix(".py").exists() else f"{module}:{alias.name}")
    return sorted(set(found))
