"""Sets of SAEs that one job trains together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from saeworks.plan.experiment import ExperimentPlan
from saeworks.plan.opening import open_plan

from .conftest import finish
from .experiment import HOOK, SOURCES, experiment

_LATER = "blocks.2.hook_resid_pre"
_PAIR = {
    "objective": "e2e",
    "hook_points": [HOOK, _LATER],
    "sparsity_coeffs": [0.1, 0.2],
    "spliced": "together",
}
_FIRST, _SECOND = [f"{HOOK}/pair-c0.1-s0", f"{_LATER}/pair-c0.1-s0"], [f"{HOOK}/pair-c0.2-s0", f"{_LATER}/pair-c0.2-s0"]


@pytest.fixture
def root(tmp_path, code) -> Path:
    """A working directory with a finished experiment that has two sets, and runs at both hook points that train alone."""
    for name, text in SOURCES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    plan = _plan(tmp_path, code)
    finish(plan)
    return tmp_path


def _plan(root: Path, code, **changes: object) -> ExperimentPlan:
    values = experiment({"runs.pair": _PAIR | changes})
    values["runs"] = {name: values["runs"][name] for name in ("pair", "topk")}
    values["studies"]["rates"]["choose"] = False
    values["draw"] = ["spliced_table"]
    for key in ("agreement", "texts", "rates", "errors"):
        del values["studies"][key]
    return open_plan(values, root, code)


def _trained(plan: ExperimentPlan) -> set[str]:
    return {name.removeprefix("train/") for name in plan.stale() if name.startswith("train/")}


def test_one_job_trains_a_set_and_each_run_depends_on_all_of_it(root, code):
    plan = _plan(root, code)
    assert plan.stale() == []
    assert plan.spliced == plan.trained_together == {"pair-c0.1-s0": _FIRST, "pair-c0.2-s0": _SECOND}
    for sets, changes in (
        (_FIRST + _SECOND, {"sparsity_factors": {_LATER: 2.0}}),  # at the first hook point λ is as it was
        (_FIRST + _SECOND, {"spliced": "alone"}),
        ([f"{at}/pair-c0.3-s0" for at in (HOOK, _LATER)], {"sparsity_coeffs": [0.1, 0.2, 0.3]}),
        (
            [f"{at}/pair-c{c}-s0" for at in (HOOK, _LATER, "blocks.3.hook_resid_pre") for c in (0.1, 0.2)],
            {"hook_points": [HOOK, _LATER, "blocks.3.hook_resid_pre"]},
        ),
    ):
        assert _trained(_plan(root, code, **changes)) == set(sets), changes
    assert _plan(root, code, spliced="alone").trained_together == {}


def test_its_code_is_that_of_joint_training_and_of_others_is_not(root, code):
    plan = _plan(root, code)
    joint, alone = (plan.recorded(f"train/{run}")["definitions"] for run in (_FIRST[0], f"{HOOK}/topk-k4-s0"))
    assert "training.joint:JointMember" in joint and "lm.several:continue_through" in joint
    assert not [name for name in alone if name.startswith(("training.joint", "lm.several", "sae.execution.through"))]
    assert "training.run:train_together" in alone and "training.run:train_together" not in joint


def test_a_record_from_before_there_were_sets_counts_as_of_a_run_that_was_trained_alone(root, code):
    path = root / _plan(root, code).jobs[f"train/{HOOK}/topk-k4-s0"].record
    record = json.loads(path.read_text())
    assert record["settings"].pop("run.spliced") is None
    path.write_text(json.dumps(record))
    assert _trained(_plan(root, code)) == set()


def test_a_run_that_is_missing_is_taken_from_a_job_that_trains_its_whole_set(root, code):
    (root / _plan(root, code).run_files(_FIRST[1])[0]).unlink()
    plan = _plan(root, code)
    assert plan.trained_together["pair-c0.1-s0"] == _FIRST
    left = plan.files_from_together(_FIRST[1])
    assert [Path(path).name for path in left] == [
        "cfg.json",
        "sae_weights.safetensors",
        "log.jsonl",
        "manifest.json",
        "identity.json",
    ]
    assert set(left) <= set(plan.inputs(f"train/{_FIRST[1]}")[0])
    assert f"{plan.cache}/manifest.json" in plan.inputs("together/pair-c0.1-s0")[0]
    assert f"{plan.cache}/manifest.json" not in plan.inputs("together/pair-c0.2-s0")[0]  # current
    for path in left:  # what a finished job has left
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(json.dumps({"fingerprint": plan.fingerprint(f"train/{_FIRST[1]}")}))
    plan = _plan(root, code)
    assert list(plan.trained_together) == ["pair-c0.2-s0"]
    assert plan.files_from_together(_FIRST[1]) == left and plan.taking(_FIRST[1]).startswith("cp ")
