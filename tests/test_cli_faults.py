"""Whatever a command meets, it ends with one sentence and a documented status."""

from __future__ import annotations

import functools
import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pandas as pd
import pytest

import saeworks
from saeworks import cli
from saeworks.cli.application import application, imported
from saeworks.cli.commands import COMMANDS
from saeworks.cli.process import STATUSES
from saeworks.config.base import Json
from saeworks.store.errors import UserError
from tests.each import each

_RUN = "--activations {} --cache c --model m --corpus c --out o --scratch s"
_IDENTITY = "prepare --spec {} --out o --record r.json --identity"

# the words of a command, and the sentence that it answers with
MISTAKES = [
    ("prepare --spec {} --out o", "configuration key `model.source` is missing; add it (see config/README.md)."),
    ("prepare --spec [] --out o", "configuration block `model` is []; it must be a block of keys (see config/README.md)."),
    ('prepare --spec {"source":"x"} --out o', "configuration key `model.source` is 'x'; it must be one of hub, path, own."),
    ("prepare --spec {} --out o --threads 0", "`--threads` is 0; give a number from 1 to "),
    ("prepare --spec {} --out o --threads 99999", "`--threads` is 99999; give a number from 1 to "),
    ("prepare --spec {} --out o --log .", ". cannot be used (Is a directory); correct the path, or its permissions."),
    ("prepare --spec {} --out o --log file/x", "file cannot be used (File exists); correct the path, or its permissions."),
    (f"{_IDENTITY} {{}}", "`--identity` is not one that the workflow gives ('entries'); leave out both it and `--record`."),
    (f"{_IDENTITY} 5", "`--identity` is not one that the workflow gives ("),
    (f'{_IDENTITY} {{"entries":["a.b:c"]}}', "`--identity` is not one that the workflow gives (the package in "),
    ("pretrain --spec {} --name n --out o --scratch s", "configuration key `pretrain.train_text` is missing; add it"),
    ("corpus --spec {} --model m --out o", "configuration key `corpus.source` is missing; add it (see config/README.md)."),
    ("corpus --spec 5 --model m --out o", "configuration block `corpus` is 5; it must be a block of keys"),
    ("cache --spec {} --hook-points h --model m --corpus c --out o", "the prepared model m is missing; "),
    (f"train --spec {{}} {_RUN}", "configuration key `runs.name` is missing; add it (see config/README.md)."),
    (f"train --spec 5 {_RUN}", "configuration block `runs` is 5; it must be a block of keys"),
    ("measure fidelty --spec {} --experiment e --out o", "there is no study 'fidelty' that measures (did you mean 'fidelity'?); "),
    ("measure sweeps --spec {} --experiment e --out o", "there is no study 'sweeps' that measures; there are runs, "),
    ("measure fidelity --spec [] --experiment e --out o --at h/r --model m --corpus c", "configuration block `studies.fidelity` is []"),
    ("measure fidelity --spec {} --experiment e --out o", "`--at` is '', but study 'fidelity' is measured on a run, `<hook point>/<run>`."),
    ("measure geometry --spec {} --experiment e --out o --at h/r", "`--at` is 'h/r', but study 'geometry' is measured on a hook point."),
    ("measure timing --spec {} --experiment e --out o --at h", "`--at` is 'h', but study 'timing' is measured on the whole experiment"),
    ("measure fidelity --spec {} --experiment e --out o --at h/r", "study 'fidelity' needs `--model`, the folder that "),
    ("measure fidelity --spec {} --experiment e --out o --at h/r --model m", "study 'fidelity' needs `--corpus`, the folder that "),
    ("measure runs --spec {} --experiment e --out o", "study 'runs' needs `--runs`, the names of the runs in their order."),
    ("gather fidelty --parts p --out o", "there is no study 'fidelty' that measures (did you mean 'fidelity'?); "),
    ("gather fidelity --parts p --out o", "table p/fidelity.parquet is missing; "),
    ("test-claims --experiment e --studies rns", "there is no study 'rns' (did you mean 'runs'?); there are runs, "),
    ("test-claims --experiment e --studies runs", "table results/e/tables/runs.parquet is missing; "),
    ("agreement-data --out simple.json", "no template is published as 'simple.json' (did you mean 'simple_train.json'?); "),
    ("figure paretto --spec {} --tables t --out o", "there is no figure 'paretto' (did you mean 'pareto'?); there are "),
    ("figure pareto --spec 5 --tables t --out o", "configuration block `figures.pareto` is 5; it must be a block of keys"),
    ("figure pareto --spec {} --tables t --out o", "table t/runs.parquet is missing; "),
    (
        "notebook --name bruan2024 --tables t --figures f --experiment e --out-ipynb i --out-html h",
        "there is no notebook 'bruan2024' (did you mean 'braun2024' or 'gurnee2024'?); there are braun2024, gurnee2024",
    ),
    ("export nothing --to saelens --out o", "there is no SAE at nothing; correct the path, "),
    ("why nonsense --configfile none.yaml", "configuration file none.yaml is missing; correct its path."),
    ("why nonsense --configfile .", "configuration file . cannot be read ("),
    ("why nonsense --configfile empty", "configuration file empty holds no keys; begin with one that `saeworks new <name>` writes."),
    ("why nonsense --configfile broken.yaml", "configuration file broken.yaml is not valid YAML in line 2 ("),
    ("why nonsense --configfile latin1.yaml", "configuration file latin1.yaml cannot be read ("),
    ("why results/mine/figures/pareto.png", "no file in config is of the experiment 'mine'; name its file with `--configfile`."),
    ("claims nothing", "table results/nothing/tables/claims.parquet is missing; "),
    ("runs nothing", "results/nothing/tables/runs.parquet is missing; no experiment has tables yet: "),
    ("document --root nowhere", "nowhere is not the root of the repository (it has no folder config); name that with `--root`."),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working directory with some files that are none."""
    (tmp_path / "config").mkdir()
    for name in ("file", "empty", "config/empty.yaml"):
        (tmp_path / name).touch()
    for name in ("broken.yaml", "config/broken.yaml"):
        (tmp_path / name).write_text("a: [1,\nb: 2")
    (tmp_path / "latin1.yaml").write_bytes("experiment: größe".encode("latin1"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_mistake_is_answered_with_one_sentence(folder, capsys):
    before, wrong = sorted(folder.rglob("*")), []
    for words, sentence in MISTAKES:
        status, shown = cli.main(words.split()), capsys.readouterr()
        if status != 2 or shown.out or not shown.err.startswith(f"saeworks: {sentence}") or shown.err.count("\n") != 1:
            wrong.append((words, status, shown.err))
    assert not wrong
    assert {words.split()[0] for words, _ in MISTAKES} | {"new", "novels"} == set(
        COMMANDS
    )  # novels has nothing to be given wrongly
    assert sorted(folder.rglob("*")) == before


def _least(name: str) -> list[str]:
    """The shortest words that command `name` takes."""
    values = {Json: "{}", list[Json]: "{}", Literal["saelens", "sparsify"]: "saelens"}
    words = [name]
    for parameter in inspect.signature(imported(COMMANDS[name].target), eval_str=True).parameters.values():
        if parameter.default is parameter.empty and parameter.name not in ("device", "fingerprint"):
            option = [] if parameter.kind is parameter.POSITIONAL_ONLY else [f"--{parameter.name.replace('_', '-')}"]
            words += [*option, "runs" if parameter.name == "study" else values.get(parameter.annotation, "x")]
    return words


@each(
    "error, status, sentence",
    [
        (ZeroDivisionError("no rows"), 70, "saeworks: ZeroDivisionError: no rows; this is a fault of saeworks, please report it with the log"),
        (KeyboardInterrupt(), 130, "saeworks: interrupted; the same command continues."),
        (UserError("key `a` is wrong; mend it."), 2, "saeworks: key `a` is wrong; mend it."),
        (BrokenPipeError(), 141, ""),
    ],
)  # fmt: skip
def test_every_command_ends_with_a_sentence_and_a_status(monkeypatch, capsys, tmp_path, error, status, sentence):
    def failing(target: str):
        function = imported(target)

        @functools.wraps(function)
        def fail(*_, **__) -> None:
            raise error

        fail.__signature__ = inspect.signature(function, eval_str=True)
        return fail

    monkeypatch.setattr(sys.modules["saeworks.cli.application"], "imported", failing)
    monkeypatch.chdir(tmp_path)
    for name in COMMANDS:
        assert cli.main(_least(name)) == status, name
        shown = capsys.readouterr().err
        assert shown.startswith(sentence) and shown.count("\n") == bool(sentence), (name, shown)


def test_the_module_run_by_python_ends_likewise(tmp_path):
    code = (
        "import runpy, sys; from saeworks.cli import runs; runs.run_table = None; sys.argv[1:] = ['runs', 'one'];"
        " runpy.run_module('saeworks', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 70 and done.stderr.count("\n") == 1
    assert "this is a fault of saeworks, please report it with the log file " in done.stderr
    Path(done.stderr.split()[-1].rstrip(".")).unlink()


@pytest.fixture
def tables(tmp_path, monkeypatch) -> Path:
    """A working directory in which experiment `one` has a run and its wall-clock."""
    folder = tmp_path / "results" / "one" / "tables"
    folder.mkdir(parents=True)
    run = {
        "run": "h/a",
        "hook_point": "h",
        "layer": 1,
        "objective": "local",
        "architecture": "relu",
        "seed": 0,
        "d_sae": 8,
        "n_tokens": 9,
    }
    pd.DataFrame([run | {"sparsity_coeff": 0.5, "k": None}]).to_parquet(folder / "runs.parquet")
    values = [("h/a", "l0", -1, "all", 8.0)]
    pd.DataFrame(values, columns=["run", "metric", "layer", "positions", "value"]).to_parquet(folder / "fidelity.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_cannot_be_printed_is_said(tables):
    """On a full disk, to a pipe that nobody reads any more, and with standard output or error closed."""
    show = f"{sys.executable} -m saeworks"
    for line, status, error in [
        (f"{show} runs one >/dev/full", 2, "saeworks: the disk is full; free some space"),
        (f"{show} --help >/dev/full", 2, "saeworks: the disk is full; free some space"),
        (f"{show} --version >&-", 0, ""),
        (f"{show} exprot 2>&-", 2, ""),
        (f"{show} exprot 2>/dev/full", 2, ""),
        (f"{show} new 'a b' 2>/dev/full", 2, ""),
        (f"(sleep 0.3; {show} --help; echo $? >status) | true; exit $(cat status)", 141, ""),
        (f"(sleep 0.3; {show} runs one; echo $? >status) | true; exit $(cat status)", 141, ""),
    ]:
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
        assert (done.returncode, done.stderr.count("\n")) == (status, bool(error)), (line, done)
        assert done.stderr.startswith(error), line


def test_a_study_of_tables_loads_no_torch(tables):
    code = (
        "import sys; from saeworks import cli; from saeworks.studies.measure import without_torch;"
        "status = cli.main('measure timing --spec {} --experiment one --out part --threads 1'.split());"
        "print(status, without_torch('runs'), 'torch' in sys.modules, without_torch('geometry'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "0 True False False\n", done
    assert (tables / "part" / "timing.parquet").exists()


@each("device", ["gpu", "cuda:77", "meta"])
def test_a_device_that_there_is_not_is_named(device):
    for load in (saeworks.load_run, saeworks.load_session):
        with pytest.raises(UserError, match=rf"^device '{device}' cannot be used \(.*\); use cpu"):
            load("anywhere", device=device)


def test_a_cuda_device_is_asked_for_in_vain(monkeypatch, capsys):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert cli.main(["train", "--spec", "{}", *_RUN.split(), "--device", "cuda"]) == 2
    assert capsys.readouterr().err.startswith("saeworks: device 'cuda' cannot be used (")


def test_help_fits_100_columns_and_uses_them(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    widths = []
    for words in ([], *([name] for name in COMMANDS)):
        assert cli.main([*words, "--help"]) == 0
        widths.append(max(len(line) for line in capsys.readouterr().out.splitlines()))
    assert 80 < max(widths) <= 100
    for name in COMMANDS:
        for parameter in application().commands[name].params:
            assert parameter.help[0].isupper() or not parameter.help[0].isalpha(), (name, parameter.name)
            assert parameter.help.endswith("."), (name, parameter.name)


def test_statuses_are_documented():
    page = (Path(__file__).parents[1] / "docs" / "reference" / "cli.md").read_text()
    assert all(f"| {status} | {meaning}" in page for status, meaning in STATUSES.items())
    assert os.EX_SOFTWARE in STATUSES
