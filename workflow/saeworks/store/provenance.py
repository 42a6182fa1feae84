"""Content hashes of code: what a step's result depends on besides its inputs and settings."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import platform
import tokenize
from functools import cache
from importlib.metadata import version
from pathlib import Path

from .files import content_hash

_PACKAGE_ROOT = Path(__file__).resolve().parents[1]
_PACKAGE = _PACKAGE_ROOT.name


@cache
def code_hash(*modules: str) -> str:
    """Hash of the named modules and of every saeworks module they import, directly or not.

    Comments, docstrings, messages and blank lines do not count, so that explaining things better reruns nothing. `modules` are
    names such as `"training.run"`, relative to the package.

    Raises:
        ValueError: a module does not exist.
    """
    digest = hashlib.sha256()
    for name in sorted(import_closure(*modules)):
        digest.update(f"{name}\n{_code_only(_path(name).read_text())}\n".encode())
    return digest.hexdigest()[:16]


def notebook_path(name: str) -> Path:
    """Where the source of notebook `name` is."""
    return _PACKAGE_ROOT.parent / "notebooks" / f"{name}.ipynb"


def notebook_hash(name: str) -> str:
    """Hash of a notebook's cells: their kind, source and tags, not their outputs."""
    cells = json.loads(notebook_path(name).read_text())["cells"]
    kept = [[cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags", [])] for cell in cells]
    return content_hash(kept, 16)


def import_closure(*modules: str) -> set[str]:
    """Names (relative to the package) of the modules reachable from `modules` through imports inside the package."""
    seen: set[str] = set()
    queue = list(modules)
    while queue:
        name = queue.pop()
        if name in seen:
            continue
        seen.add(name)
        queue.extend(_imports(name))
    return seen


def _path(name: str) -> Path:
    stem = _PACKAGE_ROOT.joinpath(*name.split("."))
    for candidate in (stem.with_suffix(".py"), stem / "__init__.py"):
        if candidate.exists():
            return candidate
    raise ValueError(f"no module {name!r} in {_PACKAGE}")


def _exists(name: str) -> bool:
    try:
        return bool(name) and _path(name).exists()
    except ValueError:
        return False


def _imports(name: str) -> set[str]:
    path = _path(name)
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            parts = (node.module or "").split(".") if node.module else []
            if not node.level:
                if not parts or parts[0] != _PACKAGE:
                    continue
                parts = parts[1:]
            prefix = ".".join(base + parts)
            found |= {candidate for alias in node.names if _exists(candidate := f"{prefix}.{alias.name}".strip("."))} or (
                {prefix} if _exists(prefix) else set()
            )
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix(f"{_PACKAGE}.") for a in node.names if a.name.startswith(f"{_PACKAGE}.")}
    return found


def environment() -> dict[str, str]:
    """Versions of what results may depend on besides the code; recorded, not a reason to run again."""
    packages = ("torch", "numpy", "transformers", "transformer_lens")
    return {"python": platform.python_version()} | {name: version(name).split("+")[0] for name in packages}


def _code_only(source: str) -> str:
    """The source without comments, docstrings, words for users, blank lines and trailing space.

    Words for users are the arguments of `UserError` and `print`, and every `description=`. The result is the same on every
    Python version.
    """
    lines = [line.encode() for line in source.splitlines()]  # the parser counts columns in bytes
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][: len(source.splitlines()[row - 1][:column].encode())]
    for node in ast.walk(ast.parse(source)):
        for words in _words(node):
            _blank(lines, words)
    return "\n".join(line.decode().rstrip() for line in lines if line.strip())


def _words(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return [node.body[0].value] if ast.get_docstring(node) is not None else []
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("UserError", "print"):
        return node.args
    if isinstance(node, ast.keyword) and node.arg == "description":
        return [node.value]
    return []


def _blank(lines: list[bytes], words: ast.expr) -> None:
    first, last = words.lineno - 1, words.end_lineno - 1
    for row in range(first, last + 1):
        start = words.col_offset if row == first else 0
        stop = words.end_col_offset if row == last else len(lines[row])
        lines[row] = lines[row][:start] + b" " * (stop - start) + lines[row][stop:]
