"""What the files of `sae/architectures` declare, read without importing them: they need torch, a configuration must not.

Of each file the class `Options` and a few literal constants are compiled, and nothing else of it.
"""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass
from pathlib import Path

from .base import Frozen

_FOLDER = Path(__file__).resolve().parents[1] / "sae" / "architectures"
_REQUIRED = ("LABEL", "PENALTIES", "Options")
_OPTIONAL = ("PLACE", "KEPT", "INITIAL", "ADDS_ERROR", "SAVED_AS")
_MODULES = ("typing", "pydantic")  # that `Options` may use, beside `Frozen`


@dataclass(frozen=True)
class Architecture:
    """The declarations of one file.

    Attributes:
        label: its name in figures.
        penalties: sparsity penalties that it admits, the default first; none where k sets the sparsity.
        options: its own keys of the `training` block.
        place: where it stands in lists and figures, smaller numbers first; those without one come last, by name.
        kept: of these, those that a run which continues another takes from it.
        initial: of these, those that only the initialisation reads.
        adds_error: of these, those that add a term with the reconstruction error to the loss.
        saved_as: the architecture that a trained SAE is saved as and loaded again, where that is another.
    """

    label: str
    penalties: tuple[str, ...]
    options: type[Frozen]
    place: float = math.inf
    kept: tuple[str, ...] = ()
    initial: tuple[str, ...] = ()
    adds_error: tuple[str, ...] = ()
    saved_as: str = ""

    @property
    def by_k(self) -> bool:
        """Whether sparsity is set by k, not by a coefficient."""
        return not self.penalties


def read_architecture(path: Path) -> Architecture:
    """The declarations of a file of `sae/architectures`.

    Raises:
        TypeError: one is missing.
    """
    wanted = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if _is_declaration(node)]
    # annotations are evaluated as the class is made, since there is no module in which they could be looked up later
    names = {"__name__": f"{__name__}.{path.stem}", "Frozen": Frozen}
    exec(compile(ast.Module(wanted, type_ignores=[]), str(path), "exec", dont_inherit=True), names)
    if missing := [name for name in _REQUIRED if name not in names]:
        raise TypeError(f"{path} declares no {missing[0]}; see sae/architectures/__init__.py.")
    return Architecture(**{name.lower(): names[name] for name in (*_REQUIRED, *_OPTIONAL) if name in names})


def _is_declaration(node: ast.stmt) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.level == 0 and node.module in _MODULES
    if isinstance(node, ast.Assign):
        return getattr(node.targets[0], "id", None) in (*_REQUIRED, *_OPTIONAL)
    return isinstance(node, ast.ClassDef) and node.name == "Options"


_FOUND = {path.stem: read_architecture(path) for path in _FOLDER.glob("*.py") if path.stem != "__init__"}
ARCHITECTURES: dict[str, Architecture] = dict(sorted(_FOUND.items(), key=lambda item: (item[1].place, item[0])))
