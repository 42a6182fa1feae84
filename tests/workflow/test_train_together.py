"""Runs that train in one job: the same results, and the same reasons to run again, as when each trains alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from .conftest import REPOSITORY, TINY, assert_same_results, planned, snakemake

TOGETHER = "train_together_blocks_1_hook_resid_pre"
HOOK = "blocks.1.hook_resid_pre"


@pytest.fixture
def empty(finished: Path, tmp_path: Path) -> Path:
    """A folder with the language model alone."""
    folder = tmp_path / "empty"
    folder.mkdir()
    shutil.copytree(finished / "model", folder / "model")
    return folder


@pytest.mark.slow
def test_the_results_and_the_records_are_those_of_separate_jobs(finished, empty, variant):
    together = variant(train_together=True)
    jobs = planned(snakemake(empty, "-n", config=together))
    assert (jobs[TOGETHER], jobs["train"]) == (1, 7)  # and each run is taken over
    snakemake(empty, config=together)
    assert_same_results(finished, empty, at_least=60)
    assert not [path for path in (empty / "scratch").rglob("*") if path.is_file()]
    for folder in ("data/prepared", "data/activations", "scratch"):  # what a clone does not have
        shutil.rmtree(empty / folder)
    assert planned(snakemake(empty, "-n", config=together)) == {}
    assert planned(snakemake(empty, "-n")) == {}
    assert planned(snakemake(finished, "-n", config=together)) == {}


def test_only_runs_that_are_missing_or_out_of_date_train_together(finished, variant):
    def jobs(**changes: object) -> tuple[int, int]:
        found = planned(snakemake(finished, "-n", config=variant(train_together=True, **changes)))
        assert not any(name.startswith("train_together") and name != TOGETHER for name in found)
        return found.get(TOGETHER, 0), found["train"]

    assert jobs(**{"runs.local.sparsity_coeffs": [0.1, 1, 3]}) == (0, 1)  # one alone is no reason for a job of its own
    assert jobs(**{"runs.local.sparsity_coeffs": [0.1, 1, 3, 9]}) == (1, 2)
    assert jobs(**{"training.lr": 0.004}) == (1, 7)
    assert jobs(**{"runs.finetune.training": {"n_tokens": 2048}}) == (0, 1)


@pytest.mark.slow
def test_runs_that_were_trained_but_not_taken_over_do_not_train_again(finished, empty, variant):
    together = variant(train_together=True)
    snakemake(empty, "--notemp", "--until", TOGETHER, config=together)
    assert (empty / "scratch/tiny/together" / HOOK / "e2e-c0.01-s0/manifest.json").exists()
    jobs = planned(snakemake(empty, "-n", config=together))
    assert TOGETHER not in jobs and jobs["train"] == 7
    snakemake(empty, "--", "saes", config=together)
    assert not (empty / "logs/tiny/train" / HOOK / "e2e-c0.01-s0.log").read_text()  # taken, not trained
    weights = f"results/tiny/saes/{HOOK}/e2e-c0.01-s0/sae_weights.safetensors"
    assert (empty / weights).read_bytes() == (finished / weights).read_bytes()


@pytest.mark.slow
def test_a_killed_job_continues_and_gives_the_same_bytes(empty, tmp_path):
    values = yaml.safe_load(TINY.read_text()) | {"train_together": True}
    values["runs"] = {"local": values["runs"]["local"]}
    values["training"] |= {"n_tokens": 400_000, "checkpoint_every": 50}
    config = tmp_path / "long.yaml"
    config.write_text(yaml.safe_dump(values))
    checkpoint = empty / "scratch/tiny" / HOOK / "local-c1-s0" / "checkpoint.safetensors"
    command = ["snakemake", "--cores", "2", "--directory", str(empty), "--configfile", str(config), "--", "saes"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    job = subprocess.Popen(
        command, cwd=REPOSITORY, env=os.environ | {"PATH": path}, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 120
        while not checkpoint.exists():
            assert job.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
    assert not (empty / "results/tiny/saes").exists()
    snakemake(empty, "--unlock", config=config)
    snakemake(empty, "--", "saes", config=config)
    log = (empty / f"logs/tiny/train/{HOOK}/together.log").read_text()
    assert "resuming local-c0.1-s0 at step" in log and "resuming local-c1-s0 at step" in log
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copytree(empty / "model", alone / "model")
    config.write_text(yaml.safe_dump(values | {"train_together": False}))
    snakemake(alone, "--", "saes", config=config)
    assert_same_results(alone, empty, at_least=8)
