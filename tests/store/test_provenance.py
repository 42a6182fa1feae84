"""A code hash reacts to code in all that a module imports, and to nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from saeworks.store import provenance
from saeworks.store.provenance import code_hash, import_closure, notebook_hash

_SOURCE = '''"""Module docstring."""
import os
from ..low.base import thing

LIMIT = 3  # why three


class Box:
    """A box."""

    size = "# not a comment"

    def grow(self, by: int = 1) -> int:
        """Grow.

        And say so.
        """
        from .lazy import helper  # slow import

        return helper(by) + LIMIT
'''


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A package `pack` of a few modules in the place of saeworks."""
    root = tmp_path / "pack"
    files = {
        "__init__.py": "",
        "high/__init__.py": "",
        "high/top.py": _SOURCE,
        "high/lazy.py": "from pack.low import other\n\ndef helper(x):\n    return other.f(x)\n",
        "high/unrelated.py": "X = 1\n",
        "low/__init__.py": "",
        "low/base.py": "from . import sibling\nimport pack.low.absolute\n\nthing = 1\n",
        "low/sibling.py": "Y = 1\n",
        "low/absolute.py": "Z = 1\n",
        "low/other.py": "from ..high import top\n\ndef f(x):\n    return x\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr(provenance, "_PACKAGE_ROOT", root)
    monkeypatch.setattr(provenance, "_PACKAGE", "pack")
    return root


def _hash(*modules: str) -> str:
    return code_hash.__wrapped__(*modules)  # without the memory of earlier calls


def test_the_closure_follows_relative_absolute_and_late_imports_and_cycles(package):
    everything = {"high.top", "high.lazy", "low.base", "low.sibling", "low.absolute", "low.other"}
    assert import_closure("high.top") == everything
    assert import_closure("low.base") == {"low.base", "low.sibling", "low.absolute"}
    assert import_closure("low.sibling") == {"low.sibling"}
    assert import_closure("low.sibling", "high.unrelated") == {"low.sibling", "high.unrelated"}


def test_an_unknown_module_is_a_programming_error(package):
    with pytest.raises(ValueError, match="no module 'high.missing' in pack"):
        import_closure("high.missing")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Module docstring.", "Another text."),
        ('"""Module docstring."""\n', ""),
        ("  # why three", "  # because"),
        ("  # why three", ""),
        ("A box.", "A crate."),
        ("        And say so.\n", "        And say so,\n        at length.\n"),
        ("LIMIT = 3  # why three\n", "\n\n# a comment of its own\nLIMIT = 3\n\n"),
        ("import os\n", "import os   \n"),
    ],
)
def test_comments_docstrings_and_blank_lines_do_not_count(package, old, new):
    before = _hash("high.top")
    assert old in _SOURCE
    (package / "high" / "top.py").write_text(_SOURCE.replace(old, new))
    assert _hash("high.top") == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LIMIT = 3", "LIMIT = 4"),
        ("# not a comment", "# not a commend"),
        ("by: int = 1", "by: int = 2"),
        ("import os\n", "import os\nimport sys\n"),
        ("+ LIMIT", "- LIMIT"),
        ("        return helper(by) + LIMIT\n", "    return helper(by) + LIMIT\n"),
    ],
)
def test_code_counts(package, old, new):
    before = _hash("high.top")
    assert old in _SOURCE
    (package / "high" / "top.py").write_text(_SOURCE.replace(old, new))
    assert _hash("high.top") != before


@pytest.mark.parametrize("name", ["high/lazy.py", "low/base.py", "low/sibling.py", "low/absolute.py", "low/other.py"])
def test_code_of_everything_imported_counts(package, name):
    before = _hash("high.top")
    (package / name).write_text((package / name).read_text() + "\nNEW = 1\n")
    assert _hash("high.top") != before


def test_code_of_other_modules_does_not_count(package):
    before = _hash("high.top")
    (package / "high" / "unrelated.py").write_text("X = 2\n")
    assert _hash("high.top") == before


def test_the_order_of_modules_does_not_count_but_their_names_do(package):
    assert _hash("low.sibling", "high.unrelated") == _hash("high.unrelated", "low.sibling")
    (package / "low" / "twin.py").write_text("Y = 1\n")
    assert _hash("low.sibling") != _hash("low.twin")
    assert len(_hash("low.sibling")) == 16


def test_a_figure_does_not_depend_on_training_nor_training_on_figures():
    figures = [f"figures.{p.stem}" for p in (provenance._PACKAGE_ROOT / "figures").glob("*.py") if p.stem != "__init__"]
    assert len(figures) > 4
    for figure in figures:
        rooms = {name.split(".")[0] for name in import_closure(figure)}
        assert not rooms & {"training", "activations", "sae", "lm", "losses"}, figure
    closure = import_closure("training.run")
    assert not any(name.startswith(("figures", "measures", "cli")) for name in closure)
    assert {"training.objective", "losses", "sae.base", "sae.init", "activations.cache", "lm.decoder", "store.seeds"} <= closure


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """The hash of a notebook of one cell with some `changes`."""
    monkeypatch.setattr(provenance, "notebook_path", lambda name: tmp_path / f"{name}.ipynb")
    return lambda **changes: _notebook_hash(tmp_path / "it.ipynb", **changes)


def _notebook_hash(path: Path, **changes: object) -> str:
    cell = {
        "cell_type": "code",
        "source": ["x = 1\n", "x"],
        "metadata": {"tags": ["parameters"], "execution": {"a": 1}},
        "outputs": [{"data": 1}],
        "execution_count": 3,
    }
    path.write_text(json.dumps({"cells": [cell | changes], "metadata": {"kernelspec": {}}, "nbformat": 4}))
    return notebook_hash(path.stem)


def test_a_notebook_s_hash_ignores_what_running_it_changes(notebook):
    before = notebook()
    assert notebook(outputs=[], execution_count=None) == before
    assert notebook(source="x = 1\nx") == before
    assert notebook(metadata={"tags": ["parameters"]}) == before


@pytest.mark.parametrize(
    "changes", [{"source": ["x = 2"]}, {"cell_type": "markdown"}, {"metadata": {"tags": []}}, {"metadata": {}}]
)
def test_a_notebook_s_hash_reacts_to_its_cells(notebook, changes):
    assert notebook(**changes) != notebook()


def test_notebooks_lie_beside_the_package():
    assert provenance.notebook_path("paper") == provenance._PACKAGE_ROOT.parent / "notebooks" / "paper.ipynb"
