"""Every configuration file has a plan that fits together, and one with a fault stops with a sentence, all without Snakemake."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tests.each import each

from saeworks.store.errors import UserError

from .conftest import REPOSITORY, TINY, plan_of, tiny_plan

_FILES = sorted((REPOSITORY / "config").glob("*.yaml")) + [TINY, REPOSITORY / "tests" / "stories260k" / "config.yaml"]
_BENCHMARKS = "benchmarks/train/"  # a second result of rule `train`


@pytest.mark.parametrize("path", _FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_file_has_a_plan_in_which_each_job_s_inputs_are_made_or_given(tmp_path, path):
    plan = plan_of(path, tmp_path)
    assert plan.stale() == list(plan.jobs)
    made = [output for job in plan.jobs.values() for output in (*job.outputs, job.record)]
    assert len(made) == len(set(made))
    together = [run for runs in getattr(plan, "trained_together", {}).values() for run in runs]
    known = {*made, *(path for job in plan.jobs.values() for path in job.files)}
    fetched = ("data/agreement/", "data/texts/novels/")  # by rules of their own
    known |= {path for job in plan.jobs for path in plan.needs(job) if path.startswith(fetched)}
    known |= {path for run in together for path in plan.files_from_together(run)}
    for job in plan.jobs:
        assert {name for name in plan.needs(job) if _BENCHMARKS not in name} <= known, job
    assert plan.targets() and set(plan.targets()) <= set(made)


def test_a_plan_has_the_runs_the_figures_and_the_notebook_that_its_file_asks_for(tmp_path):
    plan = tiny_plan(tmp_path)
    assert len(plan.specs) == 7
    assert plan.figures == ["pareto", "residual_mse", "within_dictionary", "cross_seed", "wall_clock"]
    assert {"results/tiny/notebooks/braun2024.html", "results/tiny/tables/claims.html"} <= set(plan.targets())
    default = plan_of(REPOSITORY / "config" / "config.yaml", tmp_path)
    assert len(default.specs) == 12


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("training.d_saee", 3, "unknown configuration key `training.d_saee` (did you mean 'd_sae'?)"),
        ("training.d_sae", "many", "configuration key `training.d_sae` is 'many'"),
        ("runs.e2e.hook_points", ["block.1.hook_resid_pre"], "`runs.e2e.hook_points.0` is 'block.1.hook_resid_pre'"),
        ("studies.fidelity.n_tokens", 4096, "`studies.fidelity.n_tokens` is 4,096, but `corpus.eval_tokens` holds out 1,024"),
        ("runs.e2e.training", {"k": 3}, "unknown configuration key `runs.e2e.training.k`"),
        ("draw", ["paretto"], "`draw` names the figure 'paretto', which does not exist (did you mean 'pareto'?)"),
        (
            "draw",
            ["samples_sweep"],
            "`draw` names the figure 'samples_sweep', but no runs of this experiment differ in, or have,",
        ),
        ("draw", ["agreement_table"], "but the study that it shows has nothing to measure; set the keys of `studies.agreement`"),
    ],
)
def test_a_fault_is_a_sentence(tmp_path, key, value, sentence):
    with pytest.raises(UserError) as fault:
        tiny_plan(tmp_path, **{key: value})
    assert sentence in str(fault.value)


@each(
    "key,value,sentence",
    [
        ("model.path", "nowhere", "nowhere/config.json is missing; correct its path in the configuration."),
        ("corpus", {"source": "text", "files": ["none.txt"], "context": 16}, "none.txt is missing; correct its path"),
        (
            "model",
            {"source": "own", "name": "mine"},
            "is missing; fetch it with `dvc pull data/models/mine`, or all that is stored",
        ),
        (
            "model",
            {"source": "own", "name": "other"},
            "DVC does not store data/models/other; train that model, or correct `model.name`",
        ),
    ],
)
def test_a_source_that_is_missing_is_named_when_a_job_wants_it(tmp_path, key, value, sentence):
    (tmp_path / "model").mkdir(exist_ok=True)
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"stages": {"mine": {"outs": [{"path": "data/models/mine"}]}}}))
    assert tiny_plan(tmp_path).inputs("corpus")[1]
    with pytest.raises(UserError) as fault:
        tiny_plan(tmp_path, **{key: value}).inputs("corpus")
    assert sentence in str(fault.value)


def test_results_of_another_configuration_are_named(tmp_path):
    left = ["saes/blocks.1.hook_resid_pre/old-c1-s0/manifest.json", "figures/old.png", "tables/old.csv", "figures/pareto.png"]
    for name in left:
        path = Path(tmp_path, "results", "tiny", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    notes = "\n".join(tiny_plan(tmp_path).notes())
    assert "delete before `dvc commit`: blocks.1.hook_resid_pre/old-c1-s0" in notes
    assert "delete before `dvc commit`: results/tiny/figures/old.png, results/tiny/tables/old.csv" in notes
    assert "pareto" not in notes
