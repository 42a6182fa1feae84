"""Running Snakemake for real, in folders of its own.

A launch that runs jobs takes seconds for each of them: tests share the folder `finished` where they only look, and a test of what a
change makes stale asks the plan.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.once import once
from tests.tiny.model import write_model

from saeworks.plan.code import Code
from saeworks.plan.experiment import ExperimentPlan
from saeworks.plan.opening import open_plan
from saeworks.plan.pretrain import PretrainPlan

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = REPOSITORY / "tests" / "tiny" / "config.yaml"
HOOK = "blocks.1.hook_resid_pre"
PRINTED = "printed.txt"  # in `finished`: what Snakemake printed
_CODE = Code()  # the package as it is, read once
_RULES = {
    "measure": "measure_{}",
    "gather": "{}_tables",
    "figure": "{}",
    "notebook": "{}",
}  # of the other stages: the stage's name


def call(*command: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess:
    """Run a command with this environment's programs first on the path, and with compiled modules; output is one text."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    left_out = ("GIT_", "PYTHONDONTWRITEBYTECODE")  # without compiled modules each job takes a tenth longer
    environment = {k: v for k, v in os.environ.items() if not k.startswith(left_out)} | {"PATH": path}
    done = subprocess.run(command, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-6000:]}")
    return done


def snakemake(folder: Path, *arguments: str, config: Path = TINY, check: bool = True) -> str:
    """Run the repository's workflow in `folder`; returns what it printed. With `check=False`, it has to fail."""
    command = ["snakemake", "--cores", "2", "--directory", str(folder), "--configfile", str(config), *arguments]
    done = call(*command, cwd=REPOSITORY, check=check)
    assert check or done.returncode, done.stdout
    return done.stdout


def planned(output: str) -> dict[str, int]:
    """Jobs per rule that Snakemake runs, or would run, from what it printed."""
    if "Nothing to be done" in output:
        return {}
    tables = re.findall(r"^job +count\n[- ]+\n((?:\S+ +\d+\n)+)", output, flags=re.MULTILINE)
    assert tables, output
    jobs = {name: int(count) for name, count in (line.split() for line in tables[-1].splitlines())}
    return {name: count for name, count in jobs.items() if name not in ("total", "default", "all")}


def rules(jobs: Iterable[str]) -> dict[str, int]:
    """How many of a plan's jobs each rule runs."""
    parts = [job.split("/") for job in jobs]
    return Counter(_RULES.get(stage, stage).format(*rest[:1]) for stage, *rest in parts)


def edited(values: dict[str, Any], **changes: object) -> dict[str, Any]:
    """An experiment file with some keys (dotted paths) set to other values, in place."""
    for dotted, value in changes.items():
        *parents, last = dotted.split(".")
        block = values
        for key in parents:
            block = block.setdefault(key, {})
        block[last] = value
    return values


def plan_of(config: Path, folder: Path, **changes: object) -> ExperimentPlan | PretrainPlan:
    """The plan of a configuration file, with some keys set to other values, for the results in `folder`."""
    return open_plan(edited(yaml.safe_load(config.read_text()), **changes), folder, _CODE)


def tiny_plan(folder: Path, **changes: object) -> ExperimentPlan:
    """`plan_of` the tiny experiment."""
    return plan_of(TINY, folder, **changes)


def times(folder: Path) -> dict[str, int]:
    """When each result was written."""
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in (folder / "results").rglob("*") if p.is_file()}


def assert_same_results(folder: Path, other: Path, at_least: int) -> None:
    """All results but the timings are the same, byte by byte, and there are `at_least` so many."""
    relative = [{p for p in map(Path, times(place)) if not {"benchmarks", "timing"} & set(p.parts)} for place in (folder, other)]
    assert relative[0] == relative[1] and len(relative[0]) >= at_least
    for path in sorted(relative[0]):
        assert (folder / path).read_bytes() == (other / path).read_bytes(), path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the tiny experiment was run from nothing (read only)."""

    def run(folder: Path) -> None:
        write_model(folder / "model")
        (folder / PRINTED).write_text(snakemake(folder))

    return once(tmp_path_factory, "tiny", run)


@pytest.fixture
def workplace(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished folder to change."""
    folder = tmp_path / "work"
    shutil.copytree(finished, folder, symlinks=True)
    return folder


@pytest.fixture
def empty(finished: Path, tmp_path: Path) -> Path:
    """A folder with the language model alone."""
    folder = tmp_path / "empty"
    shutil.copytree(finished / "model", folder / "model")
    return folder


@pytest.fixture
def variant(tmp_path: Path) -> Callable[..., Path]:
    """Write the tiny experiment with some keys (dotted paths) set to other values."""

    def write(**changes: object) -> Path:
        path = tmp_path / f"variant{len(list(tmp_path.glob('variant*')))}.yaml"
        values = edited(yaml.safe_load(TINY.read_text()), **changes)
        path.write_text(yaml.safe_dump(values, sort_keys=False))  # the order of the runs counts
        return path

    return write
