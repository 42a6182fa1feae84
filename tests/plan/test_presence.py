"""Processes that are there, were killed, or lost the one that started them."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.each import each

from saeworks.cli import workflow
from saeworks.plan import presence
from saeworks.store.errors import UserError

_PROCESS = """
import sys, time
from pathlib import Path
from saeworks.plan.presence import announce, follow
{}
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start(tmp_path) -> Callable[..., subprocess.Popen]:
    """Start a process that does something and then waits for the end of its input."""
    started = []

    def begin(what: str, **environment: str) -> subprocess.Popen:
        command = [sys.executable, "-c", _PROCESS.format(what)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, cwd=tmp_path, env=os.environ | environment, **pipes))
        assert started[-1].stdout.readline() == "ready\n"
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def _locks(folder: Path) -> Path:
    (folder / "locks").mkdir()
    (folder / "locks" / "0.output.lock").write_text("results\n")
    return folder / "locks"


def _take_over(folder: Path, locks: Path, wait: float = 10) -> list[str]:
    return presence.take_over(folder / presence.FOLDER, locks, wait)


def test_the_locks_of_a_killed_process_are_removed_and_those_of_a_living_one_are_not(start, tmp_path):
    locks = _locks(tmp_path)
    assert _take_over(tmp_path, locks) == [] and list(locks.iterdir())  # of somebody else
    process = start("announce('snakemake', 'snakemake --cores 2')")
    assert _take_over(tmp_path, locks) == [f"process {process.pid} on {presence.socket.gethostname()}, `snakemake --cores 2`"]
    assert list(locks.iterdir())
    process.kill()
    process.wait()
    assert _take_over(tmp_path, locks) == []
    assert not locks.exists() and not list((tmp_path / presence.FOLDER).iterdir())


def test_who_only_looks_is_told_and_changes_nothing(start, tmp_path):
    folder, locks = tmp_path / presence.FOLDER, _locks(tmp_path)
    assert not presence.were_left(folder, locks)  # of somebody else
    process = start("announce('snakemake', 'x')")
    assert not presence.were_left(folder, locks)
    process.kill()
    process.wait()
    before = sorted(tmp_path.rglob("*"))
    (announced,) = (tmp_path / presence.FOLDER).iterdir()
    with announced.open() as another:
        fcntl.flock(another, fcntl.LOCK_SH)  # who looks at the same time
        assert presence.were_left(folder, locks)
    assert presence.were_left(folder, locks) and sorted(tmp_path.rglob("*")) == before
    assert _take_over(tmp_path, locks) == [] and not presence.were_left(folder, locks)


@each("words, looks", [
    ("-n", True), ("-np --cores 2", True), ("--lint", True), ("--unlock", True), ("--summary", True), ("--dag", True), ("--list-rules", True),
    ("--cores 2", False), ("--cores 2 -- pareto", False), ("--cores 2 --unlok", False), ("--cores 2 --forcerun train", False),
])  # fmt: skip
def test_an_option_with_which_nothing_runs_is_known(monkeypatch, tmp_path, words, looks):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["snakemake", *words.split()])
    assert workflow._only_looks() is looks


def test_equal_process_numbers_have_files_of_their_own(start, tmp_path):
    start("import os; os.getpid = lambda: 1; announce('snakemake', 'x')")
    start("import os; os.getpid = lambda: 1; announce('snakemake', 'y')")
    living, dead = presence.others(tmp_path / presence.FOLDER)
    assert len(living) == 2 and not dead


def test_a_process_that_ends_leaves_nothing(start, tmp_path):
    process = start("announce('snakemake', 'x')\nimport os; os.chdir('/')")
    assert len(list((tmp_path / presence.FOLDER).iterdir())) == 1
    process.communicate()
    assert not list((tmp_path / presence.FOLDER).iterdir())


def test_a_job_ends_with_the_snakemake_that_started_it(start, tmp_path):
    locks, snakemake = _locks(tmp_path), start("announce('snakemake', 'x')")
    (announced,) = (tmp_path / presence.FOLDER).iterdir()
    job = start("follow('saeworks train')", **{presence.VARIABLE: str(announced)})
    assert job.poll() is None
    snakemake.kill()
    assert job.wait(timeout=10) == -signal.SIGTERM
    assert _take_over(tmp_path, locks) == [] and not locks.exists()


def test_a_job_that_does_not_end_is_named(start, tmp_path):
    locks, snakemake = _locks(tmp_path), start("announce('snakemake', 'x')")
    (announced,) = (tmp_path / presence.FOLDER).iterdir()
    ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\nfollow('saeworks train')"
    job = start(ignore, **{presence.VARIABLE: str(announced)})
    snakemake.kill()
    snakemake.wait()
    with pytest.raises(UserError, match=f"still runs here .process {job.pid} on .*, `saeworks train`.; wait for it, or end it"):
        _take_over(tmp_path, locks, wait=0.3)


def test_a_job_of_another_machine_or_of_nobody_follows_none(start, tmp_path):
    for starter in ("", str(tmp_path / "elsewhere-1.snakemake")):
        job = start("follow('saeworks train')", **{presence.VARIABLE: starter})
        assert job.communicate()[0] == "" and job.returncode == 0
