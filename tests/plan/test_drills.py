"""The drills of CONTRIBUTING.md and other edits, on a copy of the package: each makes stale what it must, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from saeworks.plan.code import PACKAGE, Code

REPOSITORY = Path(__file__).resolve().parents[2]
_STALE = """
import json, sys
from saeworks.plan.opening import open_plan
from tests.plan.experiment import experiment
print(json.dumps(open_plan(experiment(), sys.argv[1]).stale()))
"""
_FIGURE = '''

class SquareFigure(FigureStyle):
    """Nothing but a square."""

    label = "A square"
    reads = ("runs",)
'''
_STUDY = """
from ..study import Column, Study, Table

STUDY = Study(
    title="Counting",
    description="How many features there are.",
    scope="run",
    needs=frozenset({"saes"}),
    always=True,
    tables={"counts": Table("One row per run.", {"run": Column("name of the run"), "features": Column("how many", "features")})},
)
"""
_MEASURE = """
import pandas as pd


def measure(place, settings):
    return {"counts": pd.DataFrame({"features": [place.sae(place.at).d_sae]})}
"""
_ARCHITECTURE = """
import torch.nn.functional as F

from ...config.base import Frozen
from ..base import SAE, PerFeature

LABEL = "Half"
PLACE = 0
PENALTIES = ("l1",)


class Options(Frozen):
    pass


class HalfSAE(SAE):
    options_type = Options
    per_feature = {"b_enc": PerFeature("b_enc")}

    def activate(self, pre):
        return pre.replaced(F.relu(pre.values) / 2)
"""
_OBJECTIVE = """
    "hidden": Objective("hidden", "the last residual", "#000000", "v", (Term("hidden", 2.0, None, "hidden_mse", "output"),)),
"""
_LOSS = """

def hidden_mse(hidden, original_hidden):
    return F.mse_loss(hidden, original_hidden)
"""
_KEY = '    noise: float = Field(0.0, description="Something new, which 0 leaves as it is.")\n'


@pytest.fixture
def copy(tmp_path) -> Path:
    """A copy of the workflow to edit."""
    shutil.copytree(PACKAGE.parent, tmp_path / "workflow", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return tmp_path / "workflow" / "saeworks"


def _insert(path: Path, before: str, text: str) -> None:
    source = path.read_text()
    assert source.count(before) == 1, before
    path.write_text(source.replace(before, text + before))


def _replace(path: Path, old: str, new: str) -> None:
    source = path.read_text()
    assert old in source, old
    path.write_text(source.replace(old, new))


def _append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def _new_figure(copy: Path) -> None:
    folder = copy / "studies" / "runs"
    _append(folder / "settings.py", _FIGURE)
    (folder / "square.py").write_text("def draw(tables, config):\n    return None\n")
    (folder / "square.rst").write_text("A square.\n")
    _replace(folder / "__init__.py", "import SeedPairsFigure, ", "import SeedPairsFigure, SquareFigure, ")
    _replace(folder / "__init__.py", "figures={", 'figures={"square": SquareFigure, ')


def _new_study(copy: Path) -> None:
    (copy / "studies" / "counting").mkdir()
    (copy / "studies" / "counting" / "__init__.py").write_text(_STUDY)
    (copy / "studies" / "counting" / "measure.py").write_text(_MEASURE)


def _new_architecture(copy: Path) -> None:
    (copy / "sae" / "architectures" / "half.py").write_text(_ARCHITECTURE)


def _new_objective(copy: Path) -> None:
    _insert(copy / "config" / "objectives.py", '    "local": Objective(', _OBJECTIVE)
    _append(copy / "losses.py", _LOSS)


def _new_key(copy: Path) -> None:
    _insert(copy / "config" / "training.py", "    # loss\n", _KEY)


def _new_claim(copy: Path) -> None:
    _append(copy / "studies" / "fidelity" / "claims.py", "\n\ndef another(hook_point, tables):\n    return []\n")


_DRILLS = {
    "a figure": (_new_figure, {"figure/square", "notebook/braun2024"}),
    "a claim": (_new_claim, {"claims", "notebook/braun2024", "notebook/gurnee2024"}),
    "an architecture": (_new_architecture, set()),
    "an objective": (_new_objective, set()),
    "a training key": (_new_key, set()),
    "a figure's drawing": (
        lambda copy: _replace(copy / "studies" / "fidelity" / "pareto.py", "def draw(", "OTHER = 1\n\n\ndef draw(other=OTHER, *"),
        {"figure/pareto", "notebook/braun2024"},
    ),
    "a figure's caption": (lambda copy: _append(copy / "studies" / "fidelity" / "pareto.rst", "More.\n"), set()),
    "estimates, exports, the command line": (
        lambda copy: (
            [
                _append(path, "\n\nMORE = 1\n")
                for path in (
                    copy / "training" / "estimate.py",
                    copy / "export.py",
                    copy / "sae" / "interop.py",
                    copy / "cli" / "runs.py",
                )
            ]
            and _replace(copy / "training" / "estimate.py", "_PROBE = 512", "_PROBE = 256")
        ),
        set(),
    ),
}


def _stale(copy: Path, finished: Path) -> set[str]:
    paths = os.pathsep.join([str(copy.parent), str(REPOSITORY)])
    command = [sys.executable, "-c", _STALE, str(finished)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, cwd=copy.parent)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("name", _DRILLS)
def test_a_drill_makes_stale_what_it_should_and_nothing_else(copy, finished, name):
    edit, expected = _DRILLS[name]
    edit(copy)
    assert _stale(copy, finished) == expected


def test_a_study_makes_no_run_and_no_other_study_stale(copy, finished):
    _new_study(copy)
    found = _stale(copy, finished)
    measured = {job for job in found if job.startswith("measure/")}
    assert measured and all(job.startswith("measure/counting/") for job in measured)
    assert found - measured == {"gather/counting", "claims", "notebook/braun2024", "notebook/gurnee2024"}


@pytest.mark.parametrize(
    ("module", "old", "new", "groups"),
    [
        ("sae/architectures/gated.py", "pre.values > 0", "pre.values > 1", ("gated",)),
        ("sae/architectures/jumprelu.py", "z > threshold", "z >= threshold", ("jumprelu",)),
        ("losses.py", "values.abs() * norms", "values * norms", ("gated",)),
        ("losses.py", "size > 0, size, 1.0", "size > 0, size, 2.0", ("local", "finetune")),
    ],
)
def test_code_of_one_kind_of_run_makes_runs_of_that_kind_stale(copy, finished, code, module, old, new, groups):
    _replace(copy / module, old, new)
    found = _stale(copy, finished)
    trained = {job for job in found if job.startswith("train/")}
    assert {job.split("/")[2].split("-")[0] for job in trained} == set(groups)
    assert {job.split("/")[0] for job in found - trained} == {"measure", "gather", "figure", "claims", "notebook"}


def test_figures_do_not_depend_on_training_nor_training_on_studies(code: Code):
    from saeworks.studies import figures

    for name, (study, style) in figures().items():
        entry = "table" if "html" in style.kinds else "draw"
        rooms = {
            key.split(".")[0].split(":")[0] for key in code.closure(f"studies.{study.name}.{name}:{entry}", "studies.draw:figure")
        }
        assert not rooms & {"training", "activations", "sae", "lm", "losses"}, name
    closure = code.closure("training.run:train_together")
    assert not any(key.startswith(("studies", "cli", "plan", "sae.interop", "sae.architectures")) for key in closure)
    for known in ("training.objective", "sae.base", "sae.init", "activations.cache", "lm.decoder", "store.seeds"):
        assert any(key.startswith(f"{known}:") for key in closure), known
