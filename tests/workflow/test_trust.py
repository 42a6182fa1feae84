"""Nothing stale, nothing lost, nothing executed: Snakemake on a finished folder after what goes wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from .conftest import HOOK, REPOSITORY, TINY, assert_same_results, edited, planned, rules, snakemake, tiny_plan

_RUN = f"{HOOK}/e2e-c0.01-s0"


def _tree(*folders: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


def test_a_missing_source_is_an_error_only_where_a_result_is_not_current(workplace, variant):
    (workplace / "model").rename(workplace / "moved")
    assert planned(snakemake(workplace, "-n")) == {}
    output = snakemake(workplace, "-n", config=variant(**{"training.lr": 0.004}), check=False)
    assert "saeworks: model/config.json is missing; correct its path in the configuration.\n" in output
    assert "Nothing to be done" not in output and "Traceback" not in output


def test_a_file_that_is_not_the_one_that_was_made_is_made_again(workplace, variant):
    figures, saes = workplace / "results/tiny/figures", workplace / "results/tiny/saes"
    shutil.copyfile(figures / "cross_seed.png", figures / "within_dictionary.png")
    assert planned(snakemake(workplace, "-n")) == {"within_dictionary": 1, "braun2024": 1}
    (saes / _RUN / "manifest.json").write_text("{")  # cannot be read
    red = {"figures.residual_mse.width": 5}  # and at the end of the same chain of jobs
    plan = tiny_plan(workplace, **red)
    jobs = planned(snakemake(workplace, "-n", config=variant(**red)))
    assert jobs == rules(plan.stale()) and jobs["train"] == jobs["residual_mse"] == jobs["within_dictionary"] == 1


@pytest.mark.slow
def test_after_files_were_replaced_one_call_brings_the_same_results_back(finished, workplace):
    results = workplace / "results" / "tiny"
    (results / "tables" / "matching.parquet").write_bytes(b"")
    shutil.copyfile(results / "saes" / HOOK / "e2e_ds-c0.1-s0/cfg.json", results / "saes" / _RUN / "cfg.json")
    snakemake(workplace)
    assert_same_results(finished, workplace, at_least=100)
    assert planned(snakemake(workplace, "-n")) == {}


@pytest.mark.slow
def test_a_job_that_fails_leaves_the_last_result(workplace, variant):
    folders = [workplace / "results/tiny" / name for name in ("saes", "identities", "figures", "notebooks", "tables")]
    before = _tree(*folders)
    output = snakemake(
        workplace, "--", "saes", config=variant(**{"runs.e2e.training": {"penalty": "lp", "lp_p": 100}}), check=False
    )
    assert "lower `lp_p` (now 100) to 1 or below" in output
    shutil.rmtree(workplace / "data" / "prepared")  # so that a measurement fails, too
    measure = tiny_plan(workplace).jobs[f"measure/fidelity/{_RUN}"].outputs[0]
    snakemake(workplace, "--forcerun", measure, "--", measure, check=False)
    assert _tree(*folders) == before
    assert planned(snakemake(workplace, "-n")) == {}


@pytest.mark.slow
def test_names_of_files_are_not_executed(tmp_path):
    hostile = "a b;touch pwned;$(touch pwned)`touch pwned`'\"&|>pwned #*"
    folder = tmp_path / hostile
    shutil.copytree(_model(tmp_path), folder / hostile)
    text = "\n<|endoftext|>\n".join(f"This is story {n}, and it is a short one about {n + 1}." for n in range(400))
    (folder / f"{hostile}.txt").write_text(text)
    values = edited(yaml.safe_load(TINY.read_text()), **{"model.path": hostile, "draw": ["pareto"]})
    corpus = {"source": "text", "files": [f"{hostile}.txt"], "context": 16, "n_tokens": 8192, "eval_tokens": 1024}
    values |= {"corpus": corpus, "runs": {"local": values["runs"]["local"] | {"sparsity_coeffs": [1]}}}
    config = tmp_path / f"{hostile}.yaml"
    config.write_text(yaml.safe_dump(values))
    snakemake(folder, config=config)
    assert (folder / "results/tiny/notebooks/braun2024.html").exists()
    assert planned(snakemake(folder, "-n", config=config)) == {}
    assert not [path for path in tmp_path.rglob("*") if "pwned" in path.name and hostile not in path.name]
    assert not (REPOSITORY / "pwned").exists()


def _model(tmp_path: Path) -> Path:
    from tests.tiny.model import write_model

    write_model(tmp_path / "model")
    return tmp_path / "model"
