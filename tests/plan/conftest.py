"""An experiment that is finished as far as a plan can tell: every output is there, with a record of what it was made from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from saeworks.plan.code import Code
from saeworks.plan.opening import open_plan
from saeworks.plan.record import begin_record, end_record
from saeworks.plan.state import State
from saeworks.store.files import write_json

from .experiment import SOURCES, experiment


def finish(state: State, *names: str) -> None:
    """Leave outputs and records of the jobs `names`, by default all, as if they had run."""
    for name in names or state.jobs:
        outputs = [state.root / path for path in state.jobs[name].outputs]
        record = begin_record(state.identity_json(name, map(str, outputs)), state.code)
        for path in outputs:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"made by {name}")
        write_json(state.root / state.jobs[name].record, end_record(record))


@pytest.fixture(scope="session")
def code() -> Code:
    """The package as it is, read once."""
    return Code()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, code: Code) -> Path:
    """A working directory in which `experiment()` was finished (read only)."""
    root = tmp_path_factory.mktemp("finished")
    for name, text in SOURCES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    finish(open_plan(experiment(), root, code))
    return root


@pytest.fixture
def stale(finished: Path, code: Code) -> Callable[..., set[str]]:
    """Names of the jobs that are not current when the experiment is changed in these places (dotted paths to values)."""

    def names(changes: dict[str, Any]) -> set[str]:
        return set(open_plan(experiment(changes), finished, code).stale())

    return names
