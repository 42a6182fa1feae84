"""What the files of `sae/architectures` declare, read without importing them: they need torch, a configuration must not.

Of each file the class `Options` and a few literal constants are compiled, and nothing else of it.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from .base import Frozen

_FOLDER = Path(__file__).resolve().parents[1] / "sae" / "architectures"
_REQUIRED = ("LABEL", "PENALTIES", "Options")
_OPTIONAL = ("KEPT", "INITIAL", "ADDS_ERROR", "SAVED_AS", "NESTED")
_MODULES = ("typing", "pydantic")  # that `Options` may use, beside `Frozen`


@dataclass(frozen=True)
class Architecture:
    """The declarations of one file.

    Attributes:
        label: its name in figures.
        penalties: sparsity penalties that it admits, the default first; none where k sets the sparsity.
        options: its own keys of the `training` block.
        kept: of these, those that a run which continues another takes from it.
        initial: of these, those that only the initialisation reads.
        adds_error: of these, those that add a term with the reconstruction error to the loss.
        saved_as: the architecture that a trained SAE is saved as and loaded again, where that is another.
        nested: whether it has several outputs, of nested prefixes of its dictionary.
    """

    label: str
    penalties: tuple[str, ...]
    options: type[Frozen]
    kept: tuple[str, ...] = ()
    initial: tuple[str, ...] = ()
    adds_error: tuple[str, ...] = ()
    saved_as: str = ""
    nested: bool = False

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


_IN_FIGURES = (
    "relu",
    "topk",
    "batch_topk",
    "matryoshka_batch_topk",
    "gated",
    "jumprelu",
)  # first, in this order; then the others


def _place(path: Path) -> tuple[int, str]:
    return (_IN_FIGURES.index(path.stem) if path.stem in _IN_FIGURES else len(_IN_FIGURES), path.stem)


ARCHITECTURES: dict[str, Architecture] = {
    path.stem: read_architecture(path) for path in sorted(_FOLDER.glob("*.py"), key=_place) if path.stem != "__init__"
}
