"""A closure holds the definitions that an entry point reaches, and a hash reacts to the code of each, and to nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from saeworks.plan.code import Code

_TOP = '''"""Module docstring."""
import os
from math import (
    ceil,
    floor,
)
from typing import TYPE_CHECKING
from ..low import terms
from ..low.base import thing

if TYPE_CHECKING:
    from ..low.other import Unused

LIMIT = 3  # why three
FIRST, SECOND = thing, os.sep


class Box:
    """A box."""

    size = "# not a comment"

    def grow(self, by: int = 1) -> Unused:
        """Grow.

        And say so.
        """
        from .lazy import helper  # slow import

        if by < 0:
            raise UserError(f"{by} {describe(by)}")
        return helper(by) + LIMIT + ceil(by)


def describe(by):
    return str(by)


def known(name):
    return getattr(terms, name)


def named(x: Box) -> Box:
    return terms.one(x)


def whole():
    return vars(terms)
'''
_FILES = {
    "__init__.py": "",
    "high/__init__.py": "",
    "high/top.py": _TOP,
    "high/lazy.py": "from pack.low import other\n\ndef helper(x):\n    return other.f(x)\n",
    "low/__init__.py": "",
    "low/base.py": "import warnings\nwarnings.simplefilter('error')\n\nthing = 1\nunused = 2\n",
    "low/terms.py": "def one(x):\n    return x\n\ndef two(x):\n    return one(x)\n",
    "low/other.py": "from ..high import top\n\nclass Unused:\n    pass\n\ndef f(x):\n    return top.Box\n",
    "aside.py": "def f():\n    pass\n",
}


@pytest.fixture
def package(tmp_path) -> Path:
    """A package `pack` of a few modules."""
    for name, text in _FILES.items():
        path = tmp_path / "pack" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "pack"


_BOX = {"high.top:Box", "high.top:LIMIT", "high.lazy:helper", "low.other:f"}


def test_names_are_followed_through_imports_attributes_and_cycles(package):
    code = Code(package, ())
    assert set(code.closure("high.top:Box")) == _BOX
    assert set(code.closure("low.other:f")) == _BOX
    assert set(code.closure("high.top:named")) == {"high.top:named", "low.terms:one"}
    assert set(code.closure("high.top:whole")) == {"high.top:whole", "low.terms:one", "low.terms:two"}


def test_what_is_looked_up_by_name_is_for_the_caller_to_list(package):
    code = Code(package, ())
    assert set(code.closure("high.top:known")) == {"high.top:known"}
    assert set(code.closure("high.top:known", "low.terms:two")) == {"high.top:known", "low.terms:one", "low.terms:two"}


def test_a_module_s_statements_belong_to_all_that_it_defines(package):
    assert set(Code(package, ()).closure("high.top:FIRST")) == {"high.top:FIRST", "low.base:thing", "low.base:(statements)"}


def test_a_module_stands_for_all_that_it_defines(package):
    assert set(Code(package, ()).closure("low.terms")) == {"low.terms:one", "low.terms:two"}


def test_modules_can_be_left_out_with_all_below_them(package):
    assert set(Code(package, ("low",)).closure("high.top:Box")) == {"high.top:Box", "high.top:LIMIT", "high.lazy:helper"}
    assert "low.terms:one" in Code(package, ("lo", "low.term")).closure("high.top:named")


@pytest.mark.parametrize("entry", ["high.missing", "high.top:missing", "high.missing:x", "high.top:"])
def test_an_unknown_entry_is_a_programming_error(package, entry):
    if entry.endswith(":"):  # a module, as without the colon
        assert Code(package, ()).closure(entry) == Code(package, ()).closure("high.top")
        return
    with pytest.raises(ValueError, match=f"does not define '{entry}'"):
        Code(package, ()).closure(entry)


def _changed(package: Path, old: str, new: str, name: str = "high/top.py") -> set[str]:
    """Definitions of the closure of `Box` that an edit changes, adds or takes away."""
    path = package / name
    before = Code(package, ()).closure("high.top:Box")
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    after = Code(package, ()).closure("high.top:Box")
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Module docstring.", "Another text."),
        ('"""Module docstring."""\n', ""),
        ("  # why three", "  # because"),
        ("A box.", "A crate."),
        ("        And say so.\n", "        And say so,\n        at length.\n"),
        ("LIMIT = 3  # why three\n", "\n\n# a comment of its own\nLIMIT = 3\n\n"),
        ("import os\n", "import os\nimport sys\n"),
        ("    floor,\n", "    floor,\n    trunc,\n"),
        ('f"{by} {describe(by)}"', '"no"'),
        ('raise UserError(f"{by} {describe(by)}")', 'raise UserError(\n                "no"\n            )'),
        ("return str(by)", "return repr(by)"),
        ("class Box", "def more():\n    return 1\n\n\nclass Box"),
    ],
)
def test_words_imports_and_other_definitions_do_not_count(package, old, new):
    assert _changed(package, old, new) == set()


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("LIMIT = 3", "LIMIT = 4", {"high.top:LIMIT"}),
        ("# not a comment", "# not a commend", {"high.top:Box"}),
        ("by: int = 1", "by: int = 2", {"high.top:Box"}),
        ("+ LIMIT", "- LIMIT", {"high.top:Box"}),
        ("from math import (\n    ceil,", "from cmath import (\n    ceil,", {"high.top:Box"}),
        ("        return helper(by)", "    return helper(by)", {"high.top:Box"}),
    ],
)
def test_code_counts(package, old, new, what):
    assert _changed(package, old, new) == what


def test_code_elsewhere_counts(package):
    assert _changed(package, "return top.Box", "return [top.Box]", "low/other.py") == {"low.other:f"}
