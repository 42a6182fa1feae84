"""The whole DAG on the tiny experiment: what it makes, and that Snakemake runs what the plan finds stale and nothing else."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from .conftest import HOOK, PRINTED, REPOSITORY, call, plan_of, planned, rules, snakemake, times, tiny_plan

_NOT_STORED = ("data/prepared", "data/activations", ".snakemake", "scratch", "logs")


def test_the_whole_pipeline_gives_every_artefact_and_a_record_of_each(finished):
    plan = tiny_plan(finished)
    for job in plan.jobs.values():
        for path in (*job.outputs, job.record):
            assert (finished / path).stat().st_size > 0, path
    tables = finished / plan.tables
    for name in ("runs", "fidelity", "selection", "geometry", "matching", "claims"):
        assert len(pd.read_parquet(tables / f"{name}.parquet")) == len(pd.read_csv(tables / f"{name}.csv")) > 0
    for name in ("features", "nearest", "matches", "tokens"):
        assert len(pd.read_parquet(tables / f"{name}.parquet")) > 0
        assert not (tables / f"{name}.csv").exists()
    runs = pd.read_parquet(tables / "runs.parquet")
    assert set(runs["objective"]) == {"local", "e2e", "e2e_ds", "finetune"}
    assert set(runs["architecture"]) == {"relu", "topk"}
    assert set(runs["run"]) == set(plan.specs)
    timing = pd.read_parquet(finished / plan.results / "timing" / "timing.parquet")
    assert set(timing["job"]) == {"alone"} and (timing["seconds"] > 0).all()


def test_artefacts_are_what_their_names_say(finished):
    results = finished / "results" / "tiny"
    for name in ("pareto", "residual_mse", "within_dictionary", "cross_seed"):
        assert (results / "figures" / f"{name}.png").stat().st_size > 5000
        assert "<svg" in (results / "figures" / f"{name}.svg").read_text()[:500]
    for table in (results / "tables" / "claims", results / "timing" / "wall_clock"):
        assert "<table" in table.with_suffix(".html").read_text()
        assert r"\toprule" in table.with_suffix(".tex").read_text()
    assert "data:image/png;base64" in (results / "notebooks" / "braun2024.html").read_text()


def test_results_name_no_folder_of_this_computer(finished):
    for path in (finished / "results").rglob("*"):
        if path.suffix in (".json", ".csv", ".svg", ".html", ".tex", ".ipynb", ".jsonl"):
            assert str(finished) not in path.read_text(), path


def test_a_run_prints_its_progress_and_where_to_look(finished):
    printed = (finished / PRINTED).read_text()
    assert planned(printed) == rules(tiny_plan(finished).jobs)
    assert "33 of 33 steps (100%) done" in printed
    assert "Figures   results/tiny/figures\n" in printed and "Logs      logs/tiny\n" in printed
    assert "reason:" not in printed.lower() and "saeworks train" not in printed


def test_a_second_call_has_nothing_to_do(finished):
    assert planned(snakemake(finished, "-n")) == {}


def test_a_copy_without_what_is_not_stored_and_with_other_times_has_nothing_to_do(workplace):
    for folder in _NOT_STORED:
        shutil.rmtree(workplace / folder)
    draw = random.Random(0)
    for path in sorted(path for path in workplace.rglob("*") if path.is_file()):
        os.utime(path, (draw.randrange(1_000_000_000, 1_700_000_000),) * 2)
    assert planned(snakemake(workplace, "-n")) == {}


def test_a_figure_s_setting_redraws_that_figure_and_the_notebook_that_shows_it(workplace, variant):
    bins = {"figures.within_dictionary.bins": 20}
    assert rules(tiny_plan(workplace, **bins).stale()) == {"within_dictionary": 1, "braun2024": 1}
    before = times(workplace)
    assert planned(snakemake(workplace, config=variant(**bins))) == {"within_dictionary": 1, "braun2024": 1}
    after, plan = times(workplace), tiny_plan(workplace, **bins)
    made = [plan.jobs[name] for name in ("figure/within_dictionary", "notebook/braun2024")]
    assert {path for path in after if after[path] != before.get(path)} == {f for job in made for f in (*job.outputs, job.record)}
    assert plan.stale() == []


def test_a_sparsity_coefficient_trains_that_run_alone(workplace, variant):
    for folder in _NOT_STORED:
        shutil.rmtree(workplace / folder)
    coefficient = {"runs.e2e.sparsity_coeffs": [0.02]}
    assert rules(tiny_plan(workplace, **coefficient).stale())["train"] == 1
    before = times(workplace)
    output = snakemake(workplace, "--", "saes", config=variant(**coefficient))
    assert planned(output) == {"language_model": 1, "activation_cache": 1, "train": 1, "saes": 1}
    left = f"not in the configuration any more, delete before `dvc commit`: {HOOK}/e2e-c0.01-s0"
    assert left in output
    after, plan = times(workplace), tiny_plan(workplace, **coefficient)
    job = plan.jobs[f"train/{HOOK}/e2e-c0.02-s0"]
    benchmark = f"results/tiny/benchmarks/train/{HOOK}/e2e-c0.02-s0.tsv"
    assert {path for path in after if after[path] != before.get(path)} == {*job.outputs, job.record, benchmark}
    assert not [name for name in plan.stale() if name.startswith("train")]


def test_a_fault_of_the_configuration_stops_with_a_sentence(tmp_path, variant):
    path = variant()
    path.write_text(f"draw: [pareto]\n{path.read_text()}\ndraw: [pareto]\n")
    output = snakemake(tmp_path, config=path, check=False)
    assert f"{path} has the key `draw` in line 1 and again in line " in output
    assert "Traceback" not in output
    assert not (tmp_path / "results").exists()


def test_the_report_builds(finished, tmp_path):
    report = tmp_path / "report.zip"
    snakemake(finished, "--report", str(report))
    assert report.stat().st_size > 100_000


def test_the_default_experiment_passes_a_dry_run_on_a_cluster(tmp_path):
    model = tmp_path / "data" / "models" / "novels-1m"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    config = REPOSITORY / "config" / "config.yaml"
    account = ["--default-resources", "slurm_account=x", "slurm_partition=gpu"]
    where = ["--directory", str(tmp_path), "--configfile", str(config)]
    output = call("snakemake", "-n", "--profile", "profiles/slurm", "--jobs", "10", *where, *account, cwd=REPOSITORY).stdout
    plan = plan_of(config, tmp_path)
    assert planned(output) == rules(plan.jobs)
    assert planned(output)["train"] == 12


def test_only_runs_that_are_missing_or_out_of_date_train_together(finished):
    def jobs(**changes: object) -> tuple[dict[str, int], int]:
        plan = tiny_plan(finished, train_together=True, **changes)
        return {at: len(runs) for at, runs in plan.trained_together.items()}, sum(n.startswith("train/") for n in plan.stale())

    assert jobs() == ({}, 0)
    assert jobs(**{"runs.local.sparsity_coeffs": [0.1, 1, 3]}) == ({}, 1)  # one alone is no reason for a job of its own
    assert jobs(**{"runs.local.sparsity_coeffs": [0.1, 1, 3, 9]}) == ({HOOK: 2}, 2)
    assert jobs(**{"training.lr": 0.004}) == ({HOOK: 5}, 7)  # without the run that continues another and the one at another place
    assert jobs(**{"runs.finetune.training": {"n_tokens": 2048}}) == ({}, 1)


@pytest.mark.slow
def test_what_follows_from_a_run_is_made_again(workplace, variant):
    coefficient = {"runs.e2e.sparsity_coeffs": [0.02]}
    stale = tiny_plan(workplace, **coefficient).stale()
    assert planned(snakemake(workplace, config=variant(**coefficient))) == rules(stale)
    runs = pd.read_parquet(workplace / "results/tiny/tables/runs.parquet")
    assert sorted(runs.loc[runs["group"] == "e2e", "sparsity_coeff"]) == [0.02]
    assert tiny_plan(workplace, **coefficient).stale() == []
    assert planned(snakemake(workplace, "-n", config=variant(**coefficient))) == {}


@pytest.mark.slow
def test_a_second_experiment_leaves_the_first_alone(workplace, variant):
    second = variant(experiment="other", **{"runs.local.sparsity_coeffs": [0.5, 1]})
    before = times(workplace)
    manifest = f"results/other/saes/{HOOK}/local-c0.5-s0/manifest.json"
    jobs = planned(snakemake(workplace, "--", manifest, config=second))
    assert jobs == {"corpus": 1, "activation_cache": 1, "train": 1}  # a corpus of its own; the same activations
    after = times(workplace)
    assert manifest in after
    assert {path: time for path, time in after.items() if path.startswith("results/tiny/")} == before
    assert tiny_plan(workplace).stale() == []


@pytest.mark.slow
def test_an_edited_text_makes_everything_stale_that_depends_on_it(empty, variant):
    story = "\n<|endoftext|>\n".join(f"This is story {n}, and it is a short one about {n + 1}." for n in range(400))
    (empty / "stories.txt").write_text(story)
    corpus = {"source": "text", "files": ["stories.txt"], "context": 16, "n_tokens": 8192, "eval_tokens": 1024}
    local = yaml.safe_load(variant().read_text())["runs"]["local"]
    changes = {"corpus": corpus, "runs": {"local": local}, "draw": ["pareto"]}
    snakemake(empty, "--", "saes", config=variant(**changes))
    made = {"language_model", "corpus", "activation_cache", f"train/{HOOK}/local-c0.1-s0", f"train/{HOOK}/local-c1-s0"}
    assert not made & set(tiny_plan(empty, **changes).stale())
    (empty / "stories.txt").write_text(story)  # the same text, later
    assert planned(snakemake(empty, "-n", "--", "saes", config=variant(**changes))) == {}
    (empty / "stories.txt").write_text(story.replace("short", "brief"))
    assert made & set(tiny_plan(empty, **changes).stale()) == made - {"language_model"}
    jobs = planned(snakemake(empty, "-n", "--", "saes", config=variant(**changes)))
    assert jobs == {"corpus": 1, "activation_cache": 1, "train": 2, "saes": 1}


@pytest.mark.slow
def test_too_little_text_stops_with_a_sentence(empty, variant):
    (empty / "few.txt").write_text("Once upon a time there was very little text.")
    corpus = {"source": "text", "files": ["few.txt"], "context": 16, "n_tokens": 10_000}
    output = snakemake(empty, config=variant(corpus=corpus), check=False)
    assert "`corpus.n_tokens` asks for 10,000" in output
    assert "A job failed; its log is named above, and all of them are in logs/tiny." in output
    assert "Traceback" not in output
    assert not (empty / "results").exists()


@pytest.mark.slow
def test_a_forced_job_without_its_inputs_says_to_run_again_and_then_runs(workplace):
    shutil.rmtree(workplace / "data" / "prepared")
    run = Path("results/tiny/saes", HOOK, "e2e-c0.01-s0", "manifest.json")
    output = snakemake(workplace, "--forcerun", str(run), "--", str(run), check=False)
    assert "is missing; run the same snakemake command again" in output
    snakemake(workplace, "--", str(run))
    assert (workplace / run).exists()


@pytest.mark.slow
def test_a_damaged_shard_stops_the_run_that_reads_it(workplace, variant):
    shard = next((workplace / "data" / "activations").rglob(f"{HOOK}/*.npy"))
    content = bytearray(shard.read_bytes())
    content[-7] ^= 1
    shard.write_bytes(content)
    output = snakemake(workplace, "--", "saes", config=variant(**{"runs.e2e.sparsity_coeffs": [0.02]}), check=False)
    assert f"{shard.relative_to(workplace)} is damaged" in output
    assert not (workplace / "results/tiny/saes" / HOOK / "e2e-c0.02-s0" / "manifest.json").exists()


def test_what_is_out_of_date_and_missing_is_made_for_what_follows_from_it(workplace, variant):
    shutil.rmtree(workplace / "results" / "tiny" / "tables" / "geometry")  # parts, whose joined tables are there
    jobs = planned(snakemake(workplace, "-n", config=variant(**{"runs.e2e.sparsity_coeffs": [0.02]})))
    assert jobs["measure_geometry"] == 2 and jobs["geometry_tables"] == jobs["within_dictionary"] == 1
