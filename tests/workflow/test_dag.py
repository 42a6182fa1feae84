"""What runs when: the whole DAG on the tiny experiment, and what a change reruns."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from saeworks.config.experiment import parse_experiment

from .conftest import REPOSITORY, TINY, assert_same_results, call, planned, snakemake

EXPERIMENT = parse_experiment(yaml.safe_load(TINY.read_text()))
FIGURES = sorted(set(EXPERIMENT.figure_names()) - {"wall_clock"})  # for every figure and study: `test_every_key`
OF_GEOMETRY = ["within_dictionary", "cross_seed"]
AFTER_TABLES = {"geometry": 2, **dict.fromkeys(["geometry_tables", "braun2024", "timing", "wall_clock", *FIGURES], 1)}
for study in EXPERIMENT.studies():
    AFTER_TABLES |= {study: 2, f"{study}_tables": 1}


def test_the_whole_pipeline_gives_every_artefact(finished):
    results = finished / "results" / "tiny"
    for name in FIGURES:
        assert (results / "figures" / f"{name}.png").stat().st_size > 5000
        assert "<svg" in (results / "figures" / f"{name}.svg").read_text()[:500]
    assert (results / "timing" / "wall_clock.png").stat().st_size > 5000
    timing = pd.read_parquet(results / "timing" / "timing.parquet")
    assert set(timing["job"]) == {"alone"} and (timing["seconds"] > 0).all()
    for name in ("runs", "fidelity", "selection", "geometry", "matching"):
        table = pd.read_parquet(results / "tables" / f"{name}.parquet")
        assert len(table) == len(pd.read_csv(results / "tables" / f"{name}.csv")) > 0
    for name in ("features", "nearest", "matches", "tokens"):
        assert len(pd.read_parquet(results / "tables" / f"{name}.parquet")) > 0
        assert not (results / "tables" / f"{name}.csv").exists()
    assert "data:image/png;base64" in (results / "notebooks" / "braun2024.html").read_text()
    runs = pd.read_parquet(results / "tables" / "runs.parquet")
    assert set(runs["objective"]) == {"local", "e2e", "e2e_ds", "finetune"}
    assert set(runs["architecture"]) == {"relu", "topk"}
    for run in runs["run"]:
        assert {p.name for p in (results / "saes" / run).iterdir()} == {
            "cfg.json",
            "log.jsonl",
            "manifest.json",
            "sae_weights.safetensors",
        }


def test_a_second_call_has_nothing_to_do_even_without_what_is_not_stored(workplace):
    assert planned(snakemake(workplace, "-n")) == {}
    shutil.rmtree(workplace / "data" / "prepared")
    shutil.rmtree(workplace / "data" / "activations")
    assert planned(snakemake(workplace, "-n")) == {}


def test_a_figure_s_setting_redraws_that_figure_and_the_notebook_that_shows_it(workplace, variant):
    changed = variant(**{"figures.within_dictionary.bins": 20})
    assert planned(snakemake(workplace, "-n", config=changed)) == {"within_dictionary": 1, "braun2024": 1}


def test_a_sparsity_coefficient_trains_that_run_alone_and_redoes_what_follows(workplace, variant):
    changed = variant(**{"runs.e2e.sparsity_coeffs": [0.02]})
    shutil.rmtree(workplace / "data" / "prepared")
    shutil.rmtree(workplace / "data" / "activations")
    expected = {"language_model": 1, "activation_cache": 1, "train": 1, "evaluate": 1, "tables": 1, **AFTER_TABLES}
    assert planned(snakemake(workplace, "-n", config=changed)) == expected
    weights = workplace / "results/tiny/saes/blocks.1.hook_resid_pre/local-c1-s0/sae_weights.safetensors"
    before = weights.stat().st_mtime_ns
    snakemake(workplace, config=changed)
    assert weights.stat().st_mtime_ns == before
    assert planned(snakemake(workplace, "-n", config=changed)) == {}
    runs = pd.read_parquet(workplace / "results/tiny/tables/runs.parquet")
    assert sorted(runs.loc[runs["group"] == "e2e", "sparsity_coeff"]) == [0.02]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("training.lr", 0.004, {"train": 7, "evaluate": 7, "tables": 1, **AFTER_TABLES}),
        ("training.kl_coeff", 0.7, {"train": 3, "evaluate": 3, "tables": 1, **AFTER_TABLES}),
        # a run that continues another depends on the settings of that one, also on those that it does not use itself
        ("runs.local.training", {"encoder_bias_init": "zero"}, {"train": 3, "evaluate": 3, "tables": 1, **AFTER_TABLES}),
        ("runs.finetune.training", {"n_tokens": 2048}, {"train": 1, "evaluate": 1, "tables": 1, **AFTER_TABLES}),
        ("runs.topk.training", {"architecture": "topk"}, {"train": 1, "evaluate": 1, "tables": 1, **AFTER_TABLES}),
        ("evaluation.batch_rows", 16, {"evaluate": 7, "tables": 1, **AFTER_TABLES}),
        (
            "geometry.seed",
            3,
            {"geometry": 2} | dict.fromkeys(["geometry_tables", "braun2024", *OF_GEOMETRY], 1),
        ),
        ("activations.seed", 5, {"activation_cache": 1, "train": 7, "evaluate": 7, "tables": 1, **AFTER_TABLES}),
        ("figures.pareto.x_scale", "log", {"pareto": 1, "braun2024": 1}),
    ],
)
def test_a_setting_reruns_what_depends_on_it_and_nothing_else(finished, variant, key, value, expected):
    assert planned(snakemake(finished, "-n", config=variant(**{key: value}))) == expected


def test_the_coefficient_of_a_start_trains_it_and_what_starts_from_it(finished, variant):
    changed = variant(**{"runs.local.sparsity_coeffs": [0.1, 2], "runs.finetune.sparsity_coeffs": [2]})
    jobs = planned(snakemake(finished, "-n", config=changed))
    assert (jobs["train"], jobs["evaluate"]) == (2, 2)


def test_the_same_experiment_gives_the_same_bytes(finished, tmp_path):
    folder = tmp_path / "again"
    folder.mkdir()
    shutil.copytree(finished / "model", folder / "model")
    snakemake(folder)
    assert_same_results(finished, folder, at_least=60)


def test_a_second_experiment_leaves_the_first_alone(workplace, variant):
    second = variant(experiment="other", **{"runs.local.sparsity_coeffs": [0.5, 1]})
    before = {p: p.stat().st_mtime_ns for p in (workplace / "results" / "tiny").rglob("*") if p.is_file()}
    assert "train" in planned(snakemake(workplace, "-n", config=second))
    snakemake(workplace, "--", "saes", config=second)
    assert {p: p.stat().st_mtime_ns for p in (workplace / "results" / "tiny").rglob("*") if p.is_file()} == before
    assert planned(snakemake(workplace, "-n")) == {}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"training.d_saee": 3}, "unknown configuration key `training.d_saee` (did you mean 'd_sae'?)"),
        ({"training.d_sae": "many"}, "configuration key `training.d_sae` is 'many'"),
        ({"runs.e2e.hook_points": ["blocks.9.hook_resid_pre"]}, "blocks.2.hook_resid_pre"),
        ({"runs.e2e.hook_points": ["block.1.hook_resid_pre"]}, "`runs.e2e.hook_points.0` is 'block.1.hook_resid_pre'"),
        ({"evaluation.n_tokens": 4096}, "`evaluation.n_tokens` is 4,096, but `corpus.eval_tokens` holds out 1,024"),
        ({"model.path": "nowhere"}, "nowhere"),
        (
            {"corpus": {"source": "text", "files": ["few.txt"], "context": 16, "n_tokens": 10_000}},
            "`corpus.n_tokens` asks for 10,000",
        ),
        ({"corpus": {"source": "text", "files": ["none.txt"], "context": 16}}, "none.txt"),
    ],
)
def test_bad_input_stops_with_a_sentence(tmp_path, finished, variant, changes, sentence):
    folder = tmp_path / "bad"
    folder.mkdir()
    shutil.copytree(finished / "model", folder / "model")
    (folder / "few.txt").write_text("Once upon a time there was very little text.")
    done = call(
        "snakemake",
        "--cores",
        "2",
        "--directory",
        str(folder),
        "--configfile",
        str(variant(**changes)),
        cwd=REPOSITORY,
        check=False,
    )
    assert done.returncode != 0
    assert sentence in done.stdout
    assert "Traceback" not in done.stdout
    assert not list(folder.glob("results/**/manifest.json"))


@pytest.mark.slow
def test_an_edited_text_file_redoes_everything_that_depends_on_it(tmp_path, finished, variant):
    folder = tmp_path / "text"
    folder.mkdir()
    shutil.copytree(finished / "model", folder / "model")
    story = "\n<|endoftext|>\n".join(
        f"This is story {number}, and it is a short one about {number + 1}." for number in range(400)
    )
    (folder / "stories.txt").write_text(story)
    corpus = {"source": "text", "files": ["stories.txt"], "context": 16, "n_tokens": 8192, "eval_tokens": 1024}
    config = variant(corpus=corpus)
    snakemake(folder, config=config)
    assert planned(snakemake(folder, "-n", config=config)) == {}
    (folder / "stories.txt").write_text(story.replace("short", "brief"))
    jobs = planned(snakemake(folder, "-n", config=config))
    assert (jobs["corpus"], jobs["activation_cache"], jobs["train"], jobs["evaluate"]) == (1, 1, 7, 7)


def test_a_forced_job_without_its_inputs_says_to_run_again_and_then_runs(workplace):
    shutil.rmtree(workplace / "data" / "prepared")
    run = "results/tiny/saes/blocks.1.hook_resid_pre/e2e-c0.01-s0/manifest.json"
    output = snakemake(workplace, "--forcerun", run, "--", run, check=False)
    assert "is missing; run the same snakemake command again" in output
    snakemake(workplace, "--", run)
    assert (workplace / run).exists()


def test_runs_that_left_the_configuration_are_named(workplace, variant):
    output = snakemake(workplace, "-n", config=variant(**{"runs.e2e.sparsity_coeffs": [0.02]}))
    assert "not in the configuration any more, delete before `dvc commit`: blocks.1.hook_resid_pre/e2e-c0.01-s0" in output


def test_a_damaged_shard_stops_the_run_that_reads_it(workplace, variant):
    shard = next((workplace / "data" / "activations").rglob("blocks.1.hook_resid_pre/*.npy"))
    content = bytearray(shard.read_bytes())
    content[-7] ^= 1
    shard.write_bytes(content)
    output = snakemake(workplace, config=variant(**{"runs.e2e.sparsity_coeffs": [0.02]}), check=False)
    assert f"{shard.relative_to(workplace)} is damaged" in output
    assert not (workplace / "results/tiny/saes/blocks.1.hook_resid_pre/e2e-c0.02-s0/manifest.json").exists()


def test_the_report_builds(finished, tmp_path):
    report = tmp_path / "report.zip"
    snakemake(finished, "--report", str(report))
    assert report.stat().st_size > 100_000


@pytest.mark.parametrize(
    "name", ["config", "seeds", "sweeps", "agreement", "gpt2-small", "gpt2-small-sweeps", "tinystories-1m", "novels-1m"]
)
def test_every_configuration_file_passes_a_dry_run(tmp_path, name):
    model = tmp_path / "data" / "models" / "novels-1m"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    jobs = planned(snakemake(tmp_path, "-n", config=REPOSITORY / "config" / f"{name}.yaml"))
    assert jobs["pretrain" if name == "novels-1m" else "braun2024"] == 1
    if name == "config":
        assert jobs["train"] == 12


def test_the_slurm_profile_passes_a_dry_run(tmp_path):
    account = ["--default-resources", "slurm_account=x", "slurm_partition=gpu"]
    config = REPOSITORY / "config" / "gpt2-small.yaml"
    output = call(
        *(
            "snakemake",
            "-n",
            "--profile",
            "profiles/slurm",
            "--jobs",
            "10",
            "--directory",
            str(tmp_path),
            "--configfile",
            str(config),
        ),
        *account,
        cwd=REPOSITORY,
    ).stdout
    assert planned(output)["train"] > 30


def test_manifests_name_no_folder_of_this_computer(finished):
    for path in Path(finished / "results").rglob("*"):
        if path.suffix in (".json", ".csv", ".svg", ".html", ".ipynb", ".jsonl"):
            assert str(finished) not in path.read_text(), path
    for path in (finished / ".snakemake" / "metadata").iterdir():
        assert str(finished) not in json.dumps(json.loads(path.read_text())["input"]), path
