"""Running Snakemake for real, in folders of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tests.tiny.model import write_model

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = REPOSITORY / "tests" / "tiny" / "config.yaml"


def call(*command: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess:
    """Run a command with this environment's programs first on the path; output is one text."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")} | {"PATH": path}
    done = subprocess.run(command, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-6000:]}")
    return done


def snakemake(folder: Path, *arguments: str, config: Path | None = TINY, check: bool = True) -> str:
    """Run the repository's workflow in `folder`; returns what it printed."""
    chosen = [] if config is None else ["--configfile", str(config)]
    command = ["snakemake", "--cores", "2", "--directory", str(folder), *chosen, *arguments]
    return call(*command, cwd=REPOSITORY, check=check).stdout


def planned(output: str) -> dict[str, int]:
    """Jobs per rule of a dry run."""
    if "Nothing to be done" in output:
        return {}
    tables = re.findall(r"^job +count\n[- ]+\n((?:\w+ +\d+\n)+)", output, flags=re.MULTILINE)
    assert tables, output
    jobs = {name: int(count) for name, count in (line.split() for line in tables[-1].splitlines())}
    return {name: count for name, count in jobs.items() if name not in ("total", "default", "all")}


def assert_same_results(folder: Path, other: Path, at_least: int) -> None:
    """All results but the timings are the same, byte by byte, and there are `at_least` so many."""
    relative = [
        {
            p.relative_to(place)
            for p in (place / "results").rglob("*")
            if p.is_file() and not {"benchmarks", "timing"} & set(p.parts)
        }
        for place in (folder, other)
    ]
    assert relative[0] == relative[1] and len(relative[0]) >= at_least
    for path in sorted(relative[0]):
        assert (folder / path).read_bytes() == (other / path).read_bytes(), path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the tiny experiment was run from nothing."""
    folder = tmp_path_factory.mktemp("tiny")
    write_model(folder / "model")
    snakemake(folder)
    return folder


@pytest.fixture
def workplace(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished folder to change."""
    folder = tmp_path / "work"
    shutil.copytree(finished, folder, symlinks=True)
    return folder


@pytest.fixture
def variant(tmp_path: Path) -> Callable[..., Path]:
    """Write the tiny experiment with some keys (dotted paths) set to other values."""

    def write(**changes: object) -> Path:
        values = yaml.safe_load(TINY.read_text())
        for dotted, value in changes.items():
            *parents, last = dotted.split(".")
            block = values
            for key in parents:
                block = block.setdefault(key, {})
            block[last] = value
        path = tmp_path / f"variant{len(list(tmp_path.glob('variant*')))}.yaml"
        path.write_text(yaml.safe_dump(values, sort_keys=False))  # the order of the runs counts
        return path

    return write
