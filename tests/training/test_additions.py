"""A new architecture is one new file, and a new objective one entry and its loss: tried in a copy of the package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import saeworks

_ARCHITECTURE = '''
"""ReLU of a pre-activation that is moved down by a shift of each feature."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat
from torch import nn

from ...config.base import Frozen
from ..base import SAE, PerFeature

LABEL = "Shifted"
PENALTIES = ("l1", "tanh")
INITIAL = ("shifted_start",)


class Options(Frozen):
    """Options of Shifted."""

    shifted_start: PositiveFloat = Field(0.01, description="`shifted`: initial shift.")


class ShiftedSAE(SAE):
    """c = ReLU(pre - s), s not negative."""

    options_type = Options
    per_feature = {"b_enc": PerFeature("b_enc"), "shift": PerFeature("shift")}

    def __init__(self, d_in, d_sae, k=None, **options):
        super().__init__(d_in, d_sae, k, **options)
        self.shift = nn.Parameter(torch.zeros(d_sae))

    def initialise(self):
        self.shift.fill_(self.options.shifted_start)

    def activate(self, pre):
        return pre.replaced(F.relu(pre.values - pre.at(self.shift)))

    @torch.no_grad()
    def after_step(self):
        super().after_step()
        self.shift.clamp_(min=0)
'''
_OBJECTIVE = """
    "hidden": Objective(
        "hidden",
        "the residual before the unembedding",
        "#000000",
        "v",
        (Term("hidden_mse", 2.0, None, "hidden_mse", "output"), _reconstruction(0.0)),
    ),
"""
_LOSS = """

def hidden_mse(hidden, original_hidden):
    return F.mse_loss(hidden, original_hidden)
"""
_TRIAL = """
import json, sys
from pathlib import Path
import torch
from tests.saes import ARCHITECTURES, inputs, trained_sae
from tests.tiny_pipeline import HOOK, run_spec
from saeworks.activations.cache import write_cache
from saeworks.config.activations import ActivationsConfig
from saeworks.config.document import readme
from saeworks.config.experiment import parse_experiment
from saeworks.config.objectives import OBJECTIVES
from saeworks.sae.formats import load_sae, save_sae
from saeworks.training.run import train

torch.set_num_threads(1)
model, corpus, root = map(Path, sys.argv[1:])
assert "shifted" in ARCHITECTURES and "hidden" in OBJECTIVES
group = {"objective": "hidden", "hook_points": [HOOK], "sparsity_coeffs": [1.0]}
group["training"] = {"architecture": "shifted", "shifted_start": 0.02}
experiment = {"experiment": "x", "model": {"source": "own", "name": "novels-1m"}, "runs": {"a": group}}
(spec,) = parse_experiment(experiment).run_specs()
assert spec.training.shifted_start == 0.02
assert "`training.shifted_start`" in readme() and "the residual before the unembedding" in readme()

trained = trained_sae("shifted")
save_sae(trained, root / "saved", {})
loaded = load_sae(root / "saved")
assert loaded.architecture == "shifted" and torch.equal(loaded.encode(inputs()), trained.encode(inputs()))

settings = ActivationsConfig()
write_cache(settings, [HOOK], model, corpus, root / "cache")
for objective, facts in OBJECTIVES.items():
    changes = {"architecture": "shifted", "dead_features": "resample"}
    start = root / "local" if facts.starts_from_run else None
    spec = run_spec(objective, name=objective, **changes)
    train(spec, settings, root / "cache", model, corpus, root / objective, root / "scratch", progress=False, start_from=start)
    sae = load_sae(root / objective)
    assert type(sae).__name__ == "ShiftedSAE" and sae.encode(inputs(d_in=16)).any()
    assert json.loads((root / objective / "cfg.json").read_text())["architecture"] == "shifted"
    log = [json.loads(line) for line in (root / objective / "log.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < log[0]["loss"], objective
    assert ("hidden_mse" in log[0]) == (objective == "hidden")
print("trained", *OBJECTIVES)
"""


def test_a_copy_with_one_more_architecture_and_objective_trains_every_combination(tmp_path, tiny_model, tiny_corpus):
    package = tmp_path / "workflow" / "saeworks"
    shutil.copytree(Path(saeworks.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "sae" / "architectures" / "shifted.py").write_text(_ARCHITECTURE)
    objectives, losses = package / "config" / "objectives.py", package / "losses.py"
    entries = objectives.read_text().replace('    "finetune": Objective(', f'{_OBJECTIVE}    "finetune": Objective(', 1)
    assert _OBJECTIVE in entries
    objectives.write_text(entries)
    losses.write_text(losses.read_text() + _LOSS)
    repository = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(package.parent), str(repository)])}
    command = [sys.executable, "-c", _TRIAL, str(tiny_model), str(tiny_corpus), str(tmp_path)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "trained local e2e e2e_ds hidden finetune continued"
