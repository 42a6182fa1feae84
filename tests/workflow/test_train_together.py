"""Runs that train in one job: the same results, and the same reasons to run again, as when each trains alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import yaml

from .conftest import HOOK, REPOSITORY, TINY, assert_same_results, planned, snakemake, tiny_plan

pytestmark = pytest.mark.slow
TOGETHER = f"train_together_{HOOK}"


def test_a_second_time_and_together_gives_the_same_bytes_and_records(finished, empty, variant):
    together = variant(train_together=True)
    jobs = planned(snakemake(empty, config=together))
    assert (jobs[TOGETHER], jobs["train"]) == (1, 7)  # and each run is taken over
    assert_same_results(finished, empty, at_least=100)
    assert not [path for path in (empty / "scratch" / "tiny" / "together").rglob("*") if path.is_file()]
    for folder in ("data/prepared", "data/activations", "scratch"):  # what a clone does not have
        shutil.rmtree(empty / folder)
    assert planned(snakemake(empty, "-n", config=together)) == {}
    assert tiny_plan(empty).stale() == ["language_model", "activation_cache"]
    assert tiny_plan(finished, train_together=True).stale() == []


def test_runs_that_were_trained_but_not_taken_over_do_not_train_again(finished, empty, variant):
    together = variant(train_together=True)
    snakemake(empty, "--notemp", "--until", TOGETHER, config=together)
    assert (empty / "scratch/tiny/together" / HOOK / "e2e-c0.01-s0/manifest.json").exists()
    plan = tiny_plan(empty, train_together=True)
    assert plan.trained_together == {}
    run = f"{HOOK}/e2e-c0.01-s0"
    manifest = f"{plan.saes}/{run}/manifest.json"
    assert planned(snakemake(empty, "--", manifest, config=together)) == {"train": 1}
    assert not (empty / f"logs/tiny/train/{run}.log").read_text()  # taken, not trained
    for path in (*plan.run_files(run), plan.jobs[f"train/{run}"].record):
        assert (empty / path).read_bytes() == (finished / path).read_bytes(), path


def test_after_a_killed_snakemake_the_next_call_continues_and_gives_the_same_bytes(empty, tmp_path):
    values = yaml.safe_load(TINY.read_text()) | {"train_together": True}
    values |= {"runs": {"local": values["runs"]["local"]}, "draw": ["pareto"]}
    values["training"] |= {"n_tokens": 2_000_000, "checkpoint_every": 50}
    config = tmp_path / "long.yaml"
    config.write_text(yaml.safe_dump(values))
    checkpoint = empty / "scratch/tiny" / HOOK / "local-c1-s0" / "checkpoint.safetensors"
    command = ["snakemake", "--cores", "2", "--directory", str(empty), "--configfile", str(config), "--", "saes"]
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    job = subprocess.Popen(
        command, cwd=REPOSITORY, env=os.environ | {"PATH": path}, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 120
        while not checkpoint.exists():
            assert job.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(job.pid, signal.SIGSTOP)  # a living one is named; what it started goes on
        refused = snakemake(empty, "--", "saes", config=config, check=False)
        assert f"another Snakemake is at work here: process {job.pid} on" in refused
    finally:
        os.kill(job.pid, signal.SIGKILL)  # it alone: its job notices, saves what it has and ends
        job.wait()
    assert list((empty / ".snakemake" / "locks").iterdir())
    snakemake(empty, "--", "saes", config=config)
    assert not list((empty / ".snakemake" / "presence").iterdir())
    log = (empty / f"logs/tiny/train/{HOOK}/together.log").read_text()
    assert "resuming local-c0.1-s0 at step" in log and "resuming local-c1-s0 at step" in log
    alone = tmp_path / "alone"
    shutil.copytree(empty / "model", alone / "model")
    config.write_text(yaml.safe_dump(values | {"train_together": False}))
    snakemake(alone, "--", "saes", config=config)
    assert_same_results(alone, empty, at_least=10)


def test_a_set_trains_in_one_job_and_each_of_its_runs_is_taken_from_there(empty, variant):
    later = "blocks.2.hook_resid_pre"
    pair = {"objective": "e2e", "hook_points": [HOOK, later], "sparsity_coeffs": [0.01], "spliced": "together"}
    config = variant(runs={"pair": pair}, draw=["spliced_table", "wall_clock"], **{"studies.spliced": {"sets": [[HOOK, later]]}})
    joint = "train_together_pair-c0.01-s0"
    jobs = planned(snakemake(empty, config=config))
    assert (jobs[joint], jobs["train"], jobs["measure_spliced"]) == (1, 2, 1)
    assert not [path for path in (empty / "scratch" / "tiny" / "together").rglob("*") if path.is_file()]
    assert planned(snakemake(empty, "-n", config=config)) == {}
    table = pd.read_parquet(empty / "results/tiny/tables/spliced.parquet")
    assert table["trained"].tolist() == ["together"] and table["name"].tolist() == ["pair-c0.01-s0"]
    timing = pd.read_parquet(empty / "results/tiny/timing/timing.parquet")
    assert timing["job"].tolist() == ["together", "together"]
    for folder in ("data/prepared", "data/activations", "scratch"):  # what a clone does not have
        shutil.rmtree(empty / folder)
    assert planned(snakemake(empty, "-n", config=config)) == {}
    run = empty / "results/tiny/saes" / later / "pair-c0.01-s0"
    before = (run / "sae_weights.safetensors").read_bytes()
    shutil.rmtree(run)
    jobs = planned(snakemake(empty, "--", "saes", config=config))
    assert (jobs[joint], jobs["train"]) == (1, 2) and planned(snakemake(empty, "-n", config=config)) == {}
    assert (run / "sae_weights.safetensors").read_bytes() == before
    assert planned(snakemake(empty, "--forcerun", "train", "-n", "--", "saes", config=config))[joint] == 1
    alike = variant(runs={"j-a": pair, "j_a": pair}, draw=["pareto"])
    jobs = planned(snakemake(empty, "-n", "--", "saes", config=alike))
    assert [jobs[f"train_together_{group}-c0.01-s0"] for group in ("j-a", "j_a")] == [1, 1]
