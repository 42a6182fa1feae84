"""The command line's manners: one sentence and an exit status for what users and disks do wrong."""

from __future__ import annotations

import errno
import json

import pytest

from saeworks import cli
from saeworks.store.errors import Interrupted, UserError


def _raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def stage(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "_load", lambda *_: stage)


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (UserError("key `a` is wrong; mend it."), 2, "saeworks: key `a` is wrong; mend it.\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "x.npy"),
            2,
            "saeworks: the disk is full while writing x.npy; free some space",
        ),
        (MemoryError("3 GiB"), 2, "saeworks: out of memory (3 GiB); lower the batch size"),
        (Interrupted("run a stopped at step 3; the same command continues."), 130, "saeworks: run a stopped at step 3"),
        (KeyboardInterrupt(), 130, "saeworks: interrupted"),
    ],
)
def test_a_fault_of_the_outside_world_is_one_sentence_and_a_status(monkeypatch, capsys, error, status, sentence):
    _raising(monkeypatch, error)
    assert cli.main(["prepare", "--spec", "{}", "--out", "x"]) == status
    shown = capsys.readouterr().err
    assert shown.startswith(sentence)
    assert shown.count("\n") == 1


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch):
    _raising(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        cli.main(["prepare", "--spec", "{}", "--out", "x"])


def test_an_unknown_figure_is_named(capsys, tmp_path):
    assert cli.main(["figure", "--name", "paretto", "--spec", "{}", "--tables", str(tmp_path), "--out", str(tmp_path / "x")]) == 2
    assert "there is no figure 'paretto'" in capsys.readouterr().err


def test_every_command_s_stage_exists_and_takes_its_options():
    import importlib
    import inspect

    for name, command in cli.COMMANDS.items():
        module = importlib.import_module(f"saeworks.{command.module.format(name='pareto')}")
        parameters = set(inspect.signature(getattr(module, command.function)).parameters)
        options = {option.replace("-", "_") for option in (*command.options, *command.flags)}
        assert parameters == options - ({"name"} if "{name}" in command.module else set()), name


def test_the_number_of_threads_reaches_torch(monkeypatch, tmp_path):
    import torch

    seen = []
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    cli.main(
        ["prepare", "--spec", json.dumps({"source": "path", "name": "x", "path": str(tmp_path)}), "--out", "x", "--threads", "3"]
    )
    assert seen == [3]
