"""A finished experiment of two small runs, made by the commands that the rules call, and what happens when it is used wrongly."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from safetensors.torch import load_file, save_file
from tests.tiny.model import write_model

from saeworks import cli
from saeworks.cli.process import report
from saeworks.plan.code import Code
from saeworks.plan.experiment import ExperimentPlan
from saeworks.plan.opening import open_plan

HOOK = "blocks.1.hook_resid_pre"
CONFIG = "config/tiny.yaml"
EXPERIMENT: dict[str, Any] = {
    "experiment": "tiny",
    "model": {"source": "path", "name": "small", "path": "model"},
    "corpus": {"source": "sampled", "n_tokens": 512, "eval_tokens": 128, "context": 16, "batch_rows": 64},
    "training": {"d_sae": 32, "n_tokens": 512, "batch_tokens": 64, "lr": 3e-3, "log_every": 2},
    "runs": {
        "local": {"objective": "local", "hook_points": [HOOK], "sparsity_coeffs": [0.5]},
        "topk": {"objective": "e2e", "hook_points": [HOOK], "k": [4], "training": {"architecture": "topk"}},
    },
    "draw": ["pareto"],
}
RELU, TOPK = (f"results/tiny/saes/{HOOK}/{name}" for name in ("local-c0.5-s0", "topk-k4-s0"))
TEXT = "\n<|endoftext|>\n".join(f"Page {i} of a short book, which says little and says it {i} times." for i in range(40))
# as in the repository's dvc.yaml
_STORED = {
    "stages": {
        stage: {"foreach": {key: {}}, "do": {"cmd": "snakemake", "outs": [{out: {"persist": True}}]}}
        for stage, key, out in [
            ("own-model", "own", "data/models/${key}"),
            ("corpus", "tiny", "data/corpora/${key}"),
            ("saes", "tiny", "results/${key}/saes"),
            ("tables", "tiny", "results/${key}/tables"),
        ]
    }
}
_CODE = Code()  # the package as it is, read once
_MADE_FOR_PEOPLE = re.compile(r"`((?:dvc|snakemake|saeworks) [^`]+)`")
_MAY_CHANGE = ("logs/", "scratch/", ".snakemake/")  # by a command that fails


@dataclass(frozen=True)
class Outcome:
    """How a use of saeworks ended: the exit status of the command, or the one that an exception would end it with, and its words."""

    status: int
    words: str


@dataclass
class Place:
    """A working directory with a finished experiment, whose configuration is `values`."""

    root: Path
    values: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(EXPERIMENT))
    said: str = ""  # by the use that failed

    # the configuration

    def set(self, key: str, value: Any) -> None:
        """Set a dotted key of the configuration, or remove it where the value is `...`."""
        *parents, last = key.split(".")
        block = self.values
        for parent in parents:
            block = block.setdefault(parent, {})
        if value is ...:
            block.pop(last)
        else:
            block[last] = value
        self.write_config()

    def write_config(self) -> None:
        self.write(CONFIG, yaml.safe_dump(self.values, sort_keys=False, allow_unicode=True))

    # files

    def __truediv__(self, name: str) -> Path:
        return self.root / name

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def edit_json(self, name: str, **changes: Any) -> None:
        """Set keys of a JSON object, or remove those whose value is `...`."""
        values = json.loads((self.root / name).read_text()) | changes
        self.write(name, json.dumps({key: value for key, value in values.items() if value is not ...}))

    def edit_tensors(self, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
        """Rewrite a safetensors file after `change` of its tensors in place."""
        tensors = load_file(self.root / name)
        change(tensors)
        save_file({key: value.contiguous() for key, value in tensors.items()}, self.root / name)

    def delete(self, name: str) -> None:
        path = self.root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    # use

    def saeworks(self, *words: str) -> int:
        """Run a command; its exit status."""
        return cli.main([str(word) for word in words])

    def plan(self) -> ExperimentPlan:
        return open_plan(self.values, self.root, _CODE)

    def command(self, job: str) -> list[str]:
        """The words of the command that the rule of a job calls."""
        plan, (stage, _, rest) = self.plan(), job.partition("/")
        data = ["--model", plan.model, "--corpus", plan.corpus]
        words = {
            "language_model": lambda: ["prepare", "--spec", plan.spec(job, "model"), "--out", plan.model],
            "corpus": lambda: [
                *("corpus", "--spec", plan.spec(job, "corpus"), "--model", plan.model, "--out", plan.corpus),
            ],
            "activation_cache": lambda: [
                *("cache", "--spec", plan.spec(job, "activations"), "--hook-points", *plan.experiment.hook_points()),
                *(*plan.end_to_end_options(), *data, "--out", plan.cache),
            ],
            "train": lambda: [
                *("train", "--spec", plan.spec(job, "run"), "--activations", plan.spec(job, "activations")),
                *("--cache", plan.cache, *data, "--out", f"{plan.saes}/{rest}"),
                *("--scratch", f"{plan.scratch}/{rest}", *plan.start_option(rest)),
            ],
            "measure": lambda: [
                *("measure", rest.split("/")[0], "--spec", plan.spec(job, rest.split("/")[0])),
                *(("--at", rest.split("/", 1)[1]) if "/" in rest else ()),
                *("--experiment", plan.name, *data, *plan.runs_option(rest.split("/")[0])),
                *("--out", str(Path(plan.jobs[job].outputs[0]).parent)),
            ],
            "gather": lambda: [
                *("gather", rest, "--parts", *plan.part_folders(rest)),
                *("--out", str(Path(plan.jobs[job].outputs[0]).parent)),
            ],
            "figure": lambda: [
                *("figure", rest, "--spec", plan.spec(job, "figure"), "--tables", plan.tables),
                *("--out", str(Path(plan.jobs[job].outputs[0]).with_suffix(""))),
            ],
            "claims": lambda: ["test-claims", "--experiment", plan.name, "--studies", *plan.studies],
        }[stage]()
        return [*words, "--record", plan.jobs[job].record, "--identity", plan.identity_json(job)]

    def run(self, job: str) -> int:
        """Run the command of a job, as its rule would; its exit status."""
        return self.saeworks(*self.command(job))

    def run_missing(self) -> int:
        """Run all jobs that are not current, but for notebooks; the first exit status that is not 0."""
        jobs = self.plan().jobs
        for job in TopologicalSorter({name: job.inputs for name, job in jobs.items()}).static_order():
            if not job.startswith("notebook") and not self.plan().is_current(job) and (status := self.run(job)):
                return status
        return 0

    def named_command(self) -> None:
        """Run the first command that the sentence names in backticks."""
        command = _MADE_FOR_PEOPLE.search(self.said)
        assert command, f"no command is named in {self.said!r}"
        program, *words = command[1].split()
        if program == "saeworks":
            assert self.saeworks(*words) == 0
        elif program == "dvc":
            from dvc.cli import main as dvc  # slow import

            assert dvc([*words, "-q"]) == 0
        else:
            forced = words[words.index("--forcerun") + 1 :] if "--forcerun" in words else []
            for job in forced:
                assert self.run(job) == 0
            assert self.run_missing() == 0

    def outcome(self, use: Callable[[Place], Any]) -> Outcome:
        """How `use`, which returns an exit status or raises, ends in this working directory."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.chdir(self.root), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _as_in_one_process():
            try:
                status = use(self)
            except (Exception, SystemExit) as error:
                status = report(error)
        lines = [line for line in err.getvalue().strip().split("\n") if "step/s" not in line]  # of the progress bar
        return Outcome(status if isinstance(status, int) else 0, "\n".join(lines))

    def files(self) -> dict[str, tuple[int, int]]:
        """Size and time of every file that a command which fails has to leave alone."""
        found = ((str(path.relative_to(self.root)), path) for path in self.root.rglob("*") if path.is_file())
        return {
            name: (path.stat().st_size, path.stat().st_mtime_ns)
            for name, path in found
            if not name.startswith(_MAY_CHANGE) and path.name != "verified.json"
        }


def experiment_made(place: Place) -> None:
    """Run all jobs of the experiment but for notebooks."""
    (place / "logs").mkdir()
    place.write_config()
    with contextlib.chdir(place.root), contextlib.redirect_stdout(io.StringIO()), _as_in_one_process():
        assert place.run_missing() == 0


def finish(root: Path) -> Place:
    """Make the experiment from nothing, and keep its results in DVC."""
    from dvc.cli import main as dvc  # slow import

    place = Place(root)
    write_model(root / "model")
    write_model(root / "data" / "models" / "own", seed=1)
    place.write("texts/book.txt", TEXT)
    place.write("texts/book.jsonl", "".join(f"{json.dumps({'text': text})}\n" for text in TEXT.split("\n<|endoftext|>\n")))
    place.write("workflow/Snakefile", "")
    experiment_made(place)
    with contextlib.chdir(root), contextlib.redirect_stdout(io.StringIO()), _as_in_one_process():
        assert dvc(["init", "--no-scm", "-q"]) == 0
        for key in ("analytics", "check_update"):  # which would start processes
            assert dvc(["config", f"core.{key}", "false", "-q"]) == 0
        assert dvc(["remote", "add", "-d", "stored", "registry", "-q"]) == 0
        place.write("dvc.yaml", yaml.safe_dump(_STORED))
        assert dvc(["commit", "-f", "-q"]) == 0
        assert dvc(["push", "-q"]) == 0
    return place


@contextlib.contextmanager
def _as_in_one_process() -> Iterator[None]:
    """The package does not change while the tests run, nor does the power fail."""
    with (
        mock.patch("saeworks.plan.state.Code", lambda: _CODE),
        mock.patch("saeworks.plan.record.Code", lambda: _CODE),
        mock.patch("os.fsync", lambda file: None),
    ):
        yield


@contextlib.contextmanager
def copy_of(finished: Place, root: Path) -> Iterator[Place]:
    """A copy to spoil."""
    shutil.copytree(finished.root, root, symlinks=True)
    try:
        yield Place(root)
    finally:
        shutil.rmtree(root)
