"""A disk that fills up, simulated by the system's limit on file sizes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .tiny_pipeline import HOOK, run_spec

_LIMITED = """
import resource, sys
from saeworks import cli
from saeworks.cli.process import prepare_torch
prepare_torch("cpu", 1)  # imports write caches of their own
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("stage", ["corpus", "cache", "train"])
def test_a_full_disk_is_one_sentence_and_nothing_lies_under_the_final_name(tiny_model, tiny_corpus, tmp_path, stage):
    places = ["--model", str(tiny_model), "--out", str(tmp_path / "out")]
    sampled = '{"source": "sampled", "n_tokens": 6000, "eval_tokens": 1200, "context": 12, "batch_rows": 64}'
    spec = run_spec().model_dump_json()
    streamed = ["--activations", '{"source": "stream"}', "--cache", "none", "--scratch", str(tmp_path / "scratch")]
    arguments = {
        "corpus": ["--spec", sampled],
        "cache": ["--spec", "{}", "--hook-points", HOOK, "--corpus", str(tiny_corpus)],
        "train": ["--spec", spec, "--corpus", str(tiny_corpus), *streamed],
    }[stage]
    command = [sys.executable, "-c", _LIMITED, stage, *arguments, *places, "--device", "cpu"]
    done = subprocess.run(command, text=True, capture_output=True)
    assert done.returncode == 2, done.stderr
    assert "could not be written" in done.stderr and "it continues" in done.stderr
    assert "Traceback" not in done.stderr
    assert sum(line.startswith("saeworks:") for line in done.stderr.splitlines()) == 1
    assert not (tmp_path / "out" / "manifest.json").exists()
