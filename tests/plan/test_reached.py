"""What training, evaluation and geometry call when they run: an edit of any of it makes the run, or the table, stale."""

from __future__ import annotations

import ast
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from tests.tiny_pipeline import CONTEXT, HOOK, run_spec, write_corpus, write_model

from saeworks.config.activations import ActivationsConfig
from saeworks.config.training import RunSpec
from saeworks.plan.code import NOT_FOLLOWED, PACKAGE, Code
from saeworks.plan.experiment import training_code
from saeworks.studies.gather import gather
from saeworks.studies.measure import measure
from saeworks.training.prepare import Job
from saeworks.training.run import train_together

_SPECS = {
    "local": {"penalty": "lp", "dead_features": "resample", "activation_scale": "norm"},
    "e2e_ds": {"objective": "e2e_ds"},
    "gated": {
        "architecture": "gated",
        "penalty": "tanh",
        "decoder_bias_init": "geometric_median",
        "activation_scale": "layer_norm",
    },
    "jumprelu": {"architecture": "jumprelu", "mse_norm": "variance", "decoder": "renormalised"},
    "topk": {"architecture": "topk", "objective": "e2e", "dead_features": "auxk", "auxk_k": 3, "multi_topk": True},
    "matryoshka": {"architecture": "matryoshka_batch_topk", "weight_ema": 0.9, "encoder_init": "transpose"},
    "ghost": {"dead_features": "ghost_grads", "mse_norm": "input_norm", "dead_window_tokens": 50},
    "finetune": {"objective": "finetune", "start_from": "local", "n_tokens": 6 * 4 * CONTEXT},
    "seed": {"seed": 1, "penalty": "lp", "dead_features": "resample", "activation_scale": "norm"},
}
_COMPARED = ("local", "seed", "e2e_ds")
_Function = tuple[str, int]  # file and first line


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], set[_Function]]:
    """The functions of the package that runs, their evaluation and their comparison call, by the entries of their code."""
    root = tmp_path_factory.mktemp("reached")
    model = write_model(root / "model")
    corpus = write_corpus(root / "corpus", model)
    found: dict[tuple[str, ...], set[_Function]] = {}
    config, saes, tables = (
        ActivationsConfig(source="stream", batch_rows=7),
        Path("results/tiny/saes") / HOOK,
        "results/tiny/tables",
    )
    runs = [f"{HOOK}/{name}" for name in _COMPARED]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for name, changes in _SPECS.items():
            spec = _spec(name, changes)
            job = Job(spec, saes / name, root / "scratch" / name, start_from=saes / spec.start_from if spec.start_from else None)
            with _calls(found.setdefault(training_code(spec), set())):
                train_together([job], config, root / "none", model, corpus, progress=False)
        for run in runs:
            with _calls(found.setdefault(_entries("fidelity"), set())):
                measure("fidelity", spec="{}", experiment="tiny", out=f"part/{run}", at=run, model=str(model), corpus=str(corpus))
        gather("fidelity", parts=[f"part/{run}" for run in runs], out=tables)
        with _calls(found.setdefault(_entries("runs"), set())):
            measure("runs", spec="{}", experiment="tiny", out="part", runs=runs)
        with _calls(found.setdefault(("studies.gather:gather",), set())):
            gather("runs", parts=["part"], out=tables)
        with _calls(found.setdefault(_entries("geometry"), set())):
            measure("geometry", spec='{"n_resamples": 100}', experiment="tiny", out="part", at=HOOK)
    return found


def _spec(name: str, changes: dict[str, Any]) -> RunSpec:
    objective = changes.get("objective", "local")
    others = {"n_tokens": 12 * 4 * CONTEXT} | {key: value for key, value in changes.items() if key != "objective"}
    if objective == "finetune":
        others |= {"activation_scale": "norm", "penalty": "lp"}
    return run_spec(objective, name=name, **others)


def _entries(study: str) -> tuple[str, ...]:
    return (f"studies.{study}.measure:measure", "studies.measure:measure", "sae.architectures.relu")


@contextmanager
def _calls(found: set[_Function]) -> Iterator[None]:
    """Add the functions of the package that are called meanwhile."""
    folder = f"{PACKAGE}/"

    def note(frame: Any, event: str, _: Any) -> None:
        code: CodeType = frame.f_code
        if event == "call" and code.co_filename.startswith(folder) and not code.co_name.startswith("<"):
            found.add((code.co_filename.removeprefix(folder), code.co_firstlineno))

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def _edit(path: Path, lines: set[int]) -> dict[int, str]:
    """Add a statement to the functions of a file that begin in `lines`; return the top-level definition that each is in."""
    source = path.read_text()
    text, found = source.splitlines(keepends=True), {}
    places: list[tuple[int, int]] = []
    for top in ast.parse(source).body:
        for node in ast.walk(top):
            first = min([getattr(node, "lineno", 0), *(d.lineno for d in getattr(node, "decorator_list", []))])
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and first in lines:
                found[first] = top.name
                places.append((node.body[-1].lineno - 1, node.body[-1].col_offset))
    for row, column in sorted(places, reverse=True):
        text.insert(row, f"{' ' * column}edited = True\n")
    path.write_text("".join(text))
    return found


def _left_out(module: str) -> bool:
    return any(":" not in name and (module == name or module.startswith(f"{name}.")) for name in NOT_FOLLOWED)


def _module(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def test_an_edit_of_any_function_that_is_called_counts(called, tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "saeworks", ignore=shutil.ignore_patterns("__pycache__"))
    before = {entries: Code(tmp_path / "saeworks").closure(*entries) for entries in called}
    files = {file for functions in called.values() for file, _ in functions if not _left_out(_module(file))}
    definitions = {
        (file, line): f"{_module(file)}:{name}"
        for file in files
        for line, name in _edit(
            tmp_path / "saeworks" / file, {line for f in called.values() for at, line in f if at == file}
        ).items()
    }
    edited = Code(tmp_path / "saeworks")
    tried, passed_over = set(), set()
    for entries, functions in called.items():
        after = edited.closure(*entries)
        for function in functions & definitions.keys():
            name = definitions[function]
            tried.add(function)
            if name not in after or after[name] == before[entries].get(name):
                passed_over.add(name)
    # called for what is printed, and to check a setting
    assert passed_over == {
        "store.files:human_bytes",
        "training.run:_beginning",
        "sae.architectures.matryoshka_batch_topk:Options",
    }
    assert len(tried) > 150


def test_what_is_called_and_does_not_count_only_checks_records_or_speaks(called):
    modules = {_module(file) for functions in called.values() for file, _ in functions}
    uncounted = {module for module in modules if _left_out(module) and not module.startswith("config.")}
    assert uncounted == {"store.provenance", "training.estimate"}
