"""The command line: commands are what their functions say, and faults are one sentence and an exit status."""

from __future__ import annotations

import errno
import hashlib
import importlib
import inspect
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
import yaml

from saeworks import cli
from saeworks.cli import process
from saeworks.cli.application import application, first_line
from saeworks.cli.commands import COMMANDS, Command
from saeworks.cli.derive import command, read_docstring
from saeworks.config.base import Json
from saeworks.config.experiment import parse_experiment
from saeworks.store.errors import Interrupted, UserError
from tests.each import each
from tests.tiny.model import write_model
from tests.workflow.conftest import planned, snakemake

from .tiny_pipeline import run_spec

PREPARE = ["prepare", "--spec", "{}", "--out", "x"]

PLAIN = Command("", stage=False, computes=False)


def example(
    place: str,
    also: list[str],
    /,
    spec: Json,
    whole_number: int,
    folder: Path,
    more: list[Json] | None = None,
    number: float = 0.5,
    kind: Literal["a", "b"] = "a",
    quick: bool = False,
    careful: bool = True,
    sizes: list[int] | None = None,
    note: str | None = None,
) -> None:
    """Do something, whose options have every type.

    More about it.

    Args:
        place: Where,
            over two lines.
        also: And where else.
        spec: A block.

    Raises:
        UserError: never.
    """


@pytest.fixture
def run(capsys, monkeypatch):
    """Call `function` as a command with these words; returns its exit status, what it printed, and the values that it was called with."""

    def call(words: str | list[str], function=example, kind: Command = PLAIN, stdin: str = ""):
        seen = {}

        def recording(*values, **options):
            seen.update(inspect.signature(function).bind(*values, **options).arguments)

        recording.__signature__, recording.__doc__ = inspect.signature(function, eval_str=True), function.__doc__
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as end:
            command("example", recording, kind).main(words.split() if isinstance(words, str) else words)
        shown = capsys.readouterr()
        return SimpleNamespace(status=end.value.code, out=shown.out, err=shown.err, values=seen)

    return call


def test_every_type_of_parameter_becomes_an_option(run):
    done = run(
        'here one two --spec {"a":1} --whole-number 3 --folder f/g --more=[1] [2] --more [3] --number 1e-3 --kind b --quick --no-careful'
        " --sizes 1 2 --note n"
    )
    assert done.status == 0, done.err
    assert done.values == {
        "place": "here",
        "also": ["one", "two"],
        "spec": '{"a":1}',
        "whole_number": 3,
        "folder": Path("f/g"),
        "more": ["[1]", "[2]", "[3]"],
        "number": 1e-3,
        "kind": "b",
        "quick": True,
        "careful": False,
        "sizes": [1, 2],
        "note": "n",
    }


def test_options_left_out_have_the_defaults_of_the_function(run):
    values = run("here one --spec {} --whole-number 3 --folder f").values
    defaults = {name: p.default for name, p in inspect.signature(example).parameters.items() if p.default is not p.empty}
    assert {name: values[name] for name in defaults} == defaults


def test_help_comes_from_the_docstring(run):
    text = " ".join(run("--help").out.split())
    assert "Do something, whose options have every type. More about it. Arguments:" in text
    assert "Where, over two lines." in text and "And where else." in text and "UserError" not in text
    for words in (
        "--number <float> [default: 0.5]",
        "--kind <a|b> [default: a]",
        "--spec JSON A block. [required]",
        "--more JSON...",
    ):
        assert words in text
    assert "--quick" in text and "--no-quick" not in text and "--sizes <int>..." in text


@each(
    "change, sentence",
    [
        ({"--whole-number": "three"}, "Invalid value for '--whole-number'"),
        ({"--kind": "c"}, "'c' is not one of 'a', 'b'."),
        ({"--spec": "{"}, "Invalid value for '--spec': not valid JSON: Expecting property name"),
        ({"--spec": "@missing.json"}, "Invalid value for '--spec': missing.json cannot be read (No such file or directory)."),
        ({"--spec": None}, "Missing option '--spec'."),
        ({"--colour": "red"}, "No such option: --colour"),
    ],
)
def test_a_wrong_option_is_named(run, change, sentence):
    given = {"--spec": "{}", "--whole-number": "3", "--folder": "f"} | change
    done = run(["here", "one", *(part for pair in given.items() if pair[1] is not None for part in pair)])
    assert done.status == 2 and not done.values
    assert sentence in done.err and "Usage: " in done.err
    assert "╭" not in done.err


def test_json_may_come_from_a_file_or_from_standard_input(run, tmp_path):
    (tmp_path / "spec.json").write_text('{"a": "ä"}', encoding="utf-8")
    rest = "here one --whole-number 3 --folder f --spec"
    assert run(f"{rest} @{tmp_path}/spec.json").values["spec"] == '{"a": "ä"}'
    assert run(f"{rest} -", stdin='{"b": 2}').values["spec"] == '{"b": 2}'
    assert run(f"{rest} -", stdin="b: 2").status == 2


def test_a_docstring_without_sections_has_no_entries():
    assert read_docstring("Only this.") == ("Only this.", {})
    assert read_docstring(None) == ("", {})


@each("name", COMMANDS)
def test_every_command_shows_the_parameters_of_its_function(name, capsys):
    module, function = COMMANDS[name].target.split(":")
    assert cli.main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    found = getattr(importlib.import_module(f"saeworks.{module}"), function)
    for parameter in inspect.signature(found).parameters.values():
        if parameter.name == "fingerprint":  # that of `--identity`
            continue
        positional = parameter.kind is parameter.POSITIONAL_ONLY
        assert (f"{{{parameter.name}}}" if positional else f"--{parameter.name.replace('_', '-')} ") in shown
    for option in ("--record", "--identity"):
        assert (option in shown) == COMMANDS[name].stage
    assert ("--threads" in shown) == COMMANDS[name].computes


@each("name", COMMANDS)
def test_every_option_says_what_it_is(name):
    for parameter in application().commands[name].params:
        assert parameter.help, parameter.name


def test_the_list_of_commands_is_read_without_importing_what_they_need():
    heavy = ["torch", "transformers", "pandas", "matplotlib", "scipy", "seaborn", "rich", "snakemake"]
    code = (
        f"import sys; from saeworks import cli; cli.main(sys.argv[1:]); print('loaded', [m for m in {heavy} if m in sys.modules])"
    )
    for option, shown in (("--help", "train      "), ("--version", "0.1.0")):
        done = subprocess.run([sys.executable, "-c", code, option], capture_output=True, text=True, check=True)
        assert shown in done.stdout and done.stdout.endswith("loaded []\n"), done


def test_every_command_is_listed_with_the_first_line_of_its_docstring(capsys):
    assert cli.main(["--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, kind in COMMANDS.items():
        assert f"{name} {first_line(kind.target)}".strip() in text


def test_an_unknown_command_is_answered_with_those_like_it(capsys):
    assert cli.main(["exprot"]) == 2
    assert "No such command 'exprot'. Did you mean 'export'?" in capsys.readouterr().err


def _raising(monkeypatch: pytest.MonkeyPatch, error: BaseException | None) -> None:
    def stage(spec: Json, out: str) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr("saeworks.lm.prepare.main", stage)


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (UserError("key `a` is wrong; mend it."), 2, "saeworks: key `a` is wrong; mend it.\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "x.npy"),
            2,
            "saeworks: the disk is full while writing x.npy; free some space",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 2, "saeworks: the disk is full; free some space"),
        (MemoryError("3 GiB"), 2, "saeworks: out of memory (3 GiB); lower the batch size"),
        (
            RuntimeError("can't allocate memory: you tried\nto"),
            2,
            "saeworks: out of memory (can't allocate memory: you tried to); lower",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "x.npy"),
            2,
            "saeworks: x.npy cannot be used (Permission denied); correct",
        ),
        (Interrupted("run a stopped at step 3; the same command continues."), 130, "saeworks: run a stopped at step 3"),
        (KeyboardInterrupt(), 130, "saeworks: interrupted"),
    ],
)
def test_a_fault_of_the_outside_world_is_one_sentence_and_a_status(monkeypatch, capsys, error, status, sentence):
    _raising(monkeypatch, error)
    assert cli.main(PREPARE) == status
    shown = capsys.readouterr().err
    assert shown.startswith(sentence)
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("no rows\nat all"), EOFError(), FileNotFoundError(errno.ENOENT, "No such file", process.__file__)]
)
def test_a_fault_of_the_program_is_a_sentence_and_a_file_with_the_traceback(monkeypatch, capsys, tmp_path, error):
    _raising(monkeypatch, error)
    monkeypatch.chdir(tmp_path)
    Path("logs").mkdir()
    assert cli.main(PREPARE) == 70
    (kept,) = Path("logs").iterdir()
    shown = capsys.readouterr().err
    assert shown.startswith(f"saeworks: {type(error).__name__}")
    assert shown.endswith(f"; this is a fault of saeworks, please report it with the log file {kept}.\n")
    assert shown.count("\n") == 1
    assert "raise error" in kept.read_text()


def test_a_traceback_that_cannot_be_kept_is_shown(monkeypatch, capsys):
    _raising(monkeypatch, ZeroDivisionError("no rows"))
    monkeypatch.setattr("saeworks.cli.process.tempfile.gettempdir", lambda: "/proc/nowhere")
    monkeypatch.chdir("/")
    assert cli.main(PREPARE) == 70
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_an_unknown_figure_is_named(capsys, tmp_path):
    assert cli.main(["figure", "paretto", "--spec", "{}", "--tables", str(tmp_path), "--out", str(tmp_path / "x")]) == 2
    assert "there is no figure 'paretto' (did you mean 'pareto'?)" in capsys.readouterr().err


def test_the_number_of_threads_reaches_torch(monkeypatch):
    import torch

    seen = []
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    _raising(monkeypatch, UserError("enough"))
    cli.main([*PREPARE, "--threads", "3"])
    assert seen == [3]


@pytest.mark.parametrize(("wanted", "there", "taken"), [("auto", False, "cpu"), ("auto", True, "cuda"), ("cpu", True, "cpu")])
def test_a_function_is_given_the_device_that_there_is(run, monkeypatch, wanted, there, taken):
    import torch

    def stage(device: str) -> None:
        """Compute."""

    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(process, "usable", lambda device: device)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda *_, **__: None)
    assert run(["--device", wanted], stage, Command("")).values == {"device": taken}


_IDENTITY = json.dumps(
    {"settings": {"b.x": 1}, "entries": ["store.seeds:derive_seed"], "code": "", "inputs": {}, "files": {}, "facts": {}}
)


def test_a_stage_that_succeeds_leaves_a_record_for_each_identity(monkeypatch, tmp_path):
    _raising(monkeypatch, None)
    paths = [str(tmp_path / "a.json"), str(tmp_path / "deep" / "b.json")]
    (tmp_path / "made.txt").write_text("made")
    identity = json.dumps(json.loads(_IDENTITY) | {"outputs": [str(tmp_path / "made.txt")]})
    assert cli.main([*PREPARE, "--record", *paths, "--identity", _IDENTITY, identity]) == 0
    for path, outputs in zip(paths, [{}, {"made.txt": hashlib.sha256(b"made").hexdigest()}], strict=True):
        record = json.loads(Path(path).read_text())
        assert record["outputs"] == outputs
        assert record["settings"] == {"b.x": 1} and set(record["definitions"]) == {"store.seeds:derive_seed"}
        assert len(record["fingerprint"]) == 16


def test_a_stage_that_fails_leaves_none(monkeypatch, tmp_path):
    _raising(monkeypatch, UserError("no"))
    assert cli.main([*PREPARE, "--record", str(tmp_path / "a.json"), "--identity", _IDENTITY]) == 2
    assert not list(tmp_path.iterdir())


def test_a_stage_keeps_a_log_and_says_on_the_terminal_too_why_it_failed(tmp_path):
    command = [sys.executable, "-m", "saeworks", "gather", "fidelity", "--parts", "none", "--out", "out"]
    done = subprocess.run([*command, "--log", "deep/it.log"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (tmp_path / "deep" / "it.log").read_text().splitlines()[-1] + "\n"
    assert done.stderr.startswith("saeworks: ")


def test_a_record_without_identity_is_refused_before_anything_is_computed(monkeypatch, capsys):
    _raising(monkeypatch, UserError("computed"))
    assert cli.main([*PREPARE, "--record", "a.json"]) == 2
    assert capsys.readouterr().err == "saeworks: every --record needs an --identity; 1 and 0 are given.\n"


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """An empty folder that looks like the root of the repository, and is the current one."""
    for name in ("workflow", "config"):
        (tmp_path / name).mkdir()
    (tmp_path / "workflow" / "Snakefile").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_new_experiment_can_be_run_as_it_is(repository, capsys):
    assert cli.main(["new", "mine-2"]) == 0
    path = Path("config/mine-2.yaml")
    assert capsys.readouterr().out.endswith(
        f"\n\n  snakemake -n --configfile {path}\n  snakemake --cores all --configfile {path}\n"
    )
    experiment = parse_experiment(yaml.safe_load(path.read_text()))
    assert experiment.experiment == "mine-2"
    assert len(experiment.run_specs()) == 4
    folder = repository / "data" / "models" / "novels-1m"
    write_model(folder)
    sizes = json.loads((folder / "config.json").read_text()) | {"n_layer": 8, "n_positions": 128}  # those of the real one
    (folder / "config.json").write_text(json.dumps(sizes))
    output = snakemake(repository, "-n", "--printshellcmds", "--quiet", "reason", config=repository / path)
    jobs = planned(output)
    assert jobs["train"] == 4 and jobs["pareto"] == 1
    commands = re.findall(r"saeworks [\w-]+ .*--log .*", output)
    assert len(commands) >= sum(jobs.values())
    for line in commands:  # short enough to be read where one fails
        assert len(line) < 1200 and "{" not in line, line
        for given in re.findall(r"@(\S+)", line):
            assert isinstance(json.loads((repository / given).read_text()), dict)


@each(
    "name, sentence",
    [
        ("two words", "an experiment cannot be named 'two words'; use letters"),
        ("../other", "an experiment cannot be named '../other'; use letters"),
        ("here", "config/here.yaml is there already; choose another name than 'here'"),
        ("elsewhere", "config/here.yaml is there already; choose another name than 'elsewhere'"),
    ],
)
def test_a_new_experiment_takes_no_name_that_is_bad_or_taken(repository, capsys, name, sentence):
    text = "experiment: elsewhere # in a file of another name\n"
    Path("config/here.yaml").write_text(text)
    assert cli.main(["new", name]) == 2
    assert capsys.readouterr().err.startswith(f"saeworks: {sentence}")
    assert [path.read_text() for path in repository.rglob("*.yaml")] == [text]


def test_a_new_experiment_belongs_in_the_repository(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["new", "mine"]) == 2
    assert "is not the root of the repository" in capsys.readouterr().err


def test_why_takes_the_name_of_a_rule(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    default = str(Path(__file__).resolve().parents[1] / "config" / "config.yaml")
    assert cli.main(["why", "pareto", "--configfile", default]) == 0
    assert capsys.readouterr().out == "figure/pareto (results/default/figures/pareto.svg and 1 more): not made yet.\n"
    assert cli.main(["why", "paretto", "--configfile", default]) == 2
    assert "did you mean 'pareto'" in capsys.readouterr().err


@pytest.fixture
def tables(tmp_path, monkeypatch) -> Path:
    """Tables of an experiment `one` with two runs, the second never evaluated in KL."""
    import pandas as pd

    folder = tmp_path / "results" / "one" / "tables"
    folder.mkdir(parents=True)
    runs = {"run": ["h/b", "i/a"], "objective": ["local", "e2e"], "architecture": ["relu", "topk"], "seed": [0, 1]}
    pd.DataFrame(runs | {"sparsity_coeff": [0.5, None], "k": pd.array([None, 8], "Int64")}).to_parquet(folder / "runs.parquet")
    rows = [
        ("i/a", "l0", -1, "all", 8.0),
        ("h/b", "l0", -1, "all", 12.34),
        ("h/b", "l0", -1, "first", 99.0),
        ("h/b", "ce_increase", -1, "all", 0.01234),
        ("h/b", "kl", -1, "all", 0.5),
        ("h/b", "explained_variance", -1, "all", 0.9),
        ("h/b", "explained_variance", 2, "all", 0.1),
        ("h/b", "alive_features", -1, "all", 1024.0),
    ]
    pd.DataFrame(rows, columns=["run", "metric", "layer", "positions", "value"]).to_parquet(folder / "fidelity.parquet")
    monkeypatch.chdir(tmp_path)
    return folder


def test_the_runs_of_an_experiment_are_shown_in_its_order(tables, capsys):
    assert cli.main(["runs", "one"]) == 0
    assert capsys.readouterr().out == (
        "h:\n"
        "run  objective  architecture    λ  k  seed    L0  CE increase      KL  explained variance  alive\n"
        "b    local      relu          0.5  –     0  12.3       0.0123  0.5000               0.900  1,024\n"
        "\ni:\n"
        "run  objective  architecture    λ  k  seed    L0  CE increase      KL  explained variance  alive\n"
        "a    e2e        topk            –  8     1   8.0            –       –                   –      –\n"
    )


def test_the_runs_as_csv_keep_their_digits(tables, capsys):
    assert cli.main(["runs", "one", "--csv"]) == 0
    heading, first, second = capsys.readouterr().out.splitlines()
    assert heading == "run,objective,architecture,λ,k,seed,L0,CE increase,KL,explained variance,alive"
    assert first == "h/b,local,relu,0.5,,0,12.34,0.01234,0.5,0.9,1024.0"
    assert second == "i/a,e2e,topk,,8,1,8.0,,,,"


def test_an_experiment_without_tables_says_how_to_make_them(tables, capsys):
    assert cli.main(["runs", "on"]) == 2
    assert capsys.readouterr().err == (
        "saeworks: results/on/tables/runs.parquet is missing (did you mean 'one'?); experiments with tables are one: fetch it with `dvc pull "
        "--force results/on/tables/runs.parquet` if it is stored, or make it with `snakemake --cores all --configfile <its file in config/>`.\n"
    )


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
    identities = [json.dumps(json.loads(_IDENTITY) | {"facts": {"run": spec.name}}) for spec in specs]
    records = [str(tmp_path / f"{spec.name}.json") for spec in specs]
    assert train(specs, identity=identities, record=records) == 0
    for spec, identity, record in zip(specs, identities, records, strict=True):
        recorded = json.loads(Path(record).read_text())["fingerprint"]
        assert json.loads((tmp_path / spec.name / "manifest.json").read_text())["fingerprint"] == recorded
        assert train([spec], identity=[identity], record=[record], out=[str(tmp_path / "alone")]) == 0
        for name in ("sae_weights.safetensors", "log.jsonl", "manifest.json", "cfg.json"):
            assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / spec.name / name).read_bytes()


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("out", "2 --spec need as many --out, --scratch and --identity; 1, 2 and 2 are given."),
        ("scratch", "2 --spec need as many --out, --scratch and --identity; 2, 1 and 2 are given."),
        ("record", "2 --spec need as many --out, --scratch and --identity; 2, 2 and 1 are given."),
    ],
)
def test_as_many_folders_as_specs_are_needed(train, tmp_path, capsys, option, sentence):
    identity = {"identity": [_IDENTITY]} if option == "record" else {}
    assert train([run_spec(name="a"), run_spec(name="b")], **{option: [str(tmp_path / "one")]}, **identity) == 2
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
