"""The command line's manners: one sentence and an exit status for what users and disks do wrong."""

from __future__ import annotations

import errno
import json

import pytest

from saeworks import cli
from saeworks.store.errors import Interrupted, UserError

from .tiny_pipeline import run_spec


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


@pytest.fixture
def train(tmp_path, tiny_model, tiny_corpus):
    """Run `train` with these specs; `changes` add options or, where None, leave them out."""

    def call(specs: list, **changes: object) -> int:
        names = [spec.name for spec in specs]
        options = {
            "spec": [spec.model_dump_json() for spec in specs],
            "out": [str(tmp_path / name) for name in names],
            "scratch": [str(tmp_path / "scratch" / name) for name in names],
            "activations": ['{"source": "stream"}'],
            "cache": ["none"],
            "model": [str(tiny_model)],
            "corpus": [str(tiny_corpus)],
            "device": ["cpu"],
            "threads": ["1"],
        } | {key.replace("_", "-"): value for key, value in changes.items()}
        return cli.main(["train", *(part for key, values in options.items() for part in (f"--{key}", *values))])

    return call


def test_several_specs_train_together_and_have_their_own_bytes(train, tmp_path):
    specs = [run_spec(name="a"), run_spec("e2e", name="b", architecture="topk")]
    assert train(specs, fingerprint=["f1", "f2"]) == 0
    for spec, fingerprint in zip(specs, ("f1", "f2"), strict=True):
        assert json.loads((tmp_path / spec.name / "manifest.json").read_text())["fingerprint"] == fingerprint
        assert train([spec], fingerprint=[fingerprint], out=[str(tmp_path / "alone")]) == 0
        for name in ("sae_weights.safetensors", "log.jsonl", "manifest.json", "cfg.json"):
            assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / spec.name / name).read_bytes()


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("out", "2 --spec need as many --out, --scratch and --fingerprint; 1, 2 and 2 are given."),
        ("scratch", "2 --spec need as many --out, --scratch and --fingerprint; 2, 1 and 2 are given."),
        ("fingerprint", "2 --spec need as many --out, --scratch and --fingerprint; 2, 2 and 1 are given."),
    ],
)
def test_as_many_folders_as_specs_are_needed(train, tmp_path, capsys, option, sentence):
    assert train([run_spec(name="a"), run_spec(name="b")], **{option: [str(tmp_path / "one")]}) == 2
    assert capsys.readouterr().err == f"saeworks: {sentence}\n"


def test_a_run_that_starts_from_another_trains_alone(train, tmp_path, capsys):
    tuned = [run_spec("finetune", name=name, start_from="a") for name in ("b", "c")]
    assert train([run_spec(name="a")]) == 0
    assert train(tuned[:1], start_from=[str(tmp_path / "a")]) == 0
    assert json.loads((tmp_path / "b" / "cfg.json").read_text())["metadata"]["saeworks"]["start_from"] == "a"
    capsys.readouterr()
    assert train(tuned, start_from=[str(tmp_path / "a")]) == 2
    assert capsys.readouterr().err == (
        "saeworks: --start-from is given for 2 --spec; runs that start from another train one at a time.\n"
    )
