"""Results on processors of other kinds: the kernels that torch and oneDNN choose there round differently."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

# torch's kernels and oneDNN's: those of any x86-64, and of newer ones
_LEVELS = {"default": "SSE41", "avx2": "AVX2", "avx512": "AVX512_CORE"}
_TOLERANCE = 1e-4  # of a measure, relative to its largest value over the runs; as in docs/reference/promises.md

_PROGRAM = """
import sys
from pathlib import Path

import torch
from tests.faults.place import HOOK, Place, experiment_made
from tests.tiny.model import write_model

torch.set_num_threads(1)
place = Place(Path(sys.argv[1]))
write_model(place / "model")
stories = (f"This is story {n}, and it is a short one about {n + 1}." for n in range(400))
place.write("texts/book.txt", "\\n<|endoftext|>\\n".join(stories))
group = {"hook_points": [HOOK], "seeds": [0, 1, 2]}
place.values |= {
    "corpus": {"source": "text", "files": ["texts/book.txt"], "n_tokens": 8192, "eval_tokens": 1024, "context": 16},
    "runs": {name: {"objective": name, "sparsity_coeffs": [c], **group} for name, c in {"local": 1.0, "e2e": 0.01, "e2e_ds": 0.1}.items()},
    "studies": {"geometry": {"n_resamples": 100}},
    "draw": ["pareto", "cross_seed"],
}
place.set("training.n_tokens", 8192)
experiment_made(place)
print(torch.backends.cpu.get_cpu_capability())
"""


def _levels() -> list[str]:
    """Those that this processor has."""
    flags = set(Path("/proc/cpuinfo").read_text().split()) if Path("/proc/cpuinfo").exists() else set()
    return ["default", *(name for name, flag in {"avx2": "avx2", "avx512": "avx512f"}.items() if flag in flags)]


def _made(folder: Path, level: str) -> dict[str, pd.DataFrame]:
    (folder / level).mkdir()
    environment = os.environ | {"ATEN_CPU_CAPABILITY": level, "ONEDNN_MAX_CPU_ISA": _LEVELS[level]}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(folder / level)], env=environment, capture_output=True, text=True, cwd=os.getcwd()
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1].lower() == level  # what torch says that it uses
    return {path.stem: pd.read_parquet(path) for path in (folder / level / "results/tiny/tables").glob("*.parquet")}


@pytest.mark.slow
def test_tables_and_verdicts_agree_across_kinds_of_processor(tmp_path):
    levels = _levels()
    if len(levels) == 1:
        pytest.skip("this processor has no AVX2, so there is nothing to compare")
    first, *others = (_made(tmp_path, level) for level in levels)
    assert first["fidelity"]["run"].nunique() == 9 and set(first["claims"]["verdict"]) > {"no difference"}
    weights = [path.read_bytes() for path in sorted(tmp_path.glob("*/results/tiny/saes/*/local*-s0/sae_weights.safetensors"))]
    assert len(weights) == len(levels) and len(set(weights)) > 1  # else the levels have no effect, and nothing is shown
    for other in others:
        claims = [tables["claims"][["hook_point", "claim", "verdict", "ours", "low", "high"]] for tables in (other, first)]
        pd.testing.assert_frame_equal(*claims, rtol=0, atol=_TOLERANCE)
        for metric, values in first["fidelity"].groupby("metric"):
            same = values.merge(other["fidelity"], on=["run", "metric", "layer", "positions"])
            assert len(same) == len(values)
            largest = values["value"].abs().max()
            np.testing.assert_allclose(same["value_y"], same["value_x"], rtol=0, atol=_TOLERANCE * largest, err_msg=metric)
