"""What an SAE costs when it is trained together with others: `train_together` with 1, 4 and 8 runs, in turns.

`make bench`, or `python tests/benchmarks/together.py --out results/benchmarks/together.json`

A random GPT of 6 layers (d_model 128, 1,024 tokens in the vocabulary), SAEs of 1,024 features at blocks.4.hook_resid_pre,
1,024 tokens a step. The runs are equal but for their names, so that each computes the same: what is left is what they share,
the activations (read from the cache, or computed by the stream) and, end to end, the pass of the model without an SAE.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from machine import describe
from workers import HERE, ratio

from saeworks.activations.cache import write_cache
from saeworks.config.activations import ActivationsConfig
from saeworks.config.training import RunSpec, TrainingConfig
from saeworks.lm.decoder import Architecture, Decoder
from saeworks.store.files import sha256_file, write_json
from saeworks.training import run

sys.path.insert(0, str(HERE))
import random_gpt  # noqa: E402
from worker import keep_freed_memory  # noqa: E402

SHAPE = random_gpt.shape(n_layers=6, d_model=128, n_heads=4, d_vocab=1024, n_ctx=128)
PROCESSING = dict.fromkeys(("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases"), True)
MODEL = {"source": "path", "name": "random", "path": "nowhere", "processing": PROCESSING}
HOOK = "blocks.4.hook_resid_pre"
D_SAE, BATCH = 1024, 1024
ROWS, BLOCK_ROWS = 512, 64  # of the corpus; that a stream shuffles and holds at once, eight batches of single tokens
OBJECTIVES = {"local": 1.2, "e2e": 0.5}  # sparsity coefficients
COUNTS = (1, 4, 8)
WARM = 8  # steps that are not measured


def write_model(folder: Path) -> Path:
    """The folder of a prepared model."""
    folder.mkdir()
    decoder = Decoder(Architecture(**SHAPE), random_gpt.weights(SHAPE, torch.Generator().manual_seed(0)))
    decoder.save(folder / "decoder.safetensors")
    record = {
        "model": MODEL,
        "special_tokens": {"bos": 0, "eos": 0},
        "sources": {},
        "engine": "decoder",
        **decoder.describe(),
        "sha256": sha256_file(folder / "decoder.safetensors"),
    }
    write_json(folder / "manifest.json", record)
    return folder


def write_corpus(folder: Path) -> Path:
    """The folder of a corpus of random tokens."""
    folder.mkdir()
    np.save(
        folder / "train.npy", np.random.default_rng(0).integers(SHAPE["d_vocab"], size=(ROWS, SHAPE["n_ctx"]), dtype=np.uint16)
    )
    manifest = {
        "model": MODEL,
        "corpus": {"source": "sampled"},
        "sources": {},
        "context": SHAPE["n_ctx"],
        "train_rows": ROWS,
        "sha256": {"train": sha256_file(folder / "train.npy")},
    }
    write_json(folder / "manifest.json", manifest)
    return folder


class Clock:
    """Stands in for the progress bar of the loop: what time it is at the start and after each step."""

    def __init__(self, *_: object, **__: object) -> None:
        self.wall, self.cpu = [time.perf_counter()], [time.process_time()]

    def __enter__(self) -> Clock:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def set_postfix_str(self, *_: object, **__: object) -> None:
        """Nothing to show."""

    def update(self) -> None:
        """A step is done."""
        self.wall.append(time.perf_counter())
        self.cpu.append(time.process_time())

    def per_step(self) -> tuple[float, float]:
        """Seconds and CPU seconds of a measured step, in the mean: a stream works ahead in some steps and rests in others."""
        steps = len(self.wall) - 1 - WARM
        return (self.wall[-1] - self.wall[WARM]) / steps, (self.cpu[-1] - self.cpu[WARM]) / steps


def train(folder: Path, objective: str, source: str, count: int, steps: int) -> tuple[float, float]:
    """Seconds and CPU seconds of one step of one of `count` SAEs."""
    settings = TrainingConfig(d_sae=D_SAE, batch_tokens=BATCH, n_tokens=steps * BATCH, lr=5e-3, checkpoint_every=steps)
    common = {"group": objective, "hook_point": HOOK, "objective": objective, "sparsity_coeff": OBJECTIVES[objective], "seed": 0}
    clocks = []
    with tempfile.TemporaryDirectory(dir=folder) as out, contextlib.redirect_stdout(io.StringIO()):
        jobs = [
            run.Job(RunSpec(name=f"run{i}", training=settings, **common), Path(out) / f"run{i}", Path(out) / f"scratch{i}")
            for i in range(count)
        ]
        activations = ActivationsConfig(source=source, block_rows=BLOCK_ROWS)
        with patch.object(run, "tqdm", lambda **_: clocks.append(Clock()) or clocks[-1]):
            run.train_together(jobs, activations, folder / "cache", folder / "model", folder / "corpus")
    seconds, cpu_seconds = clocks[0].per_step()
    return seconds / count, cpu_seconds / count


def measure(folder: Path, objective: str, source: str, rounds: int, steps: int) -> list[dict]:
    """One row for each number of SAEs."""
    seconds: dict[int, list[tuple[float, float]]] = {count: [] for count in COUNTS}
    for _ in range(rounds):
        for count in COUNTS:
            seconds[count].append(train(folder, objective, source, count, steps))
    rows = []
    for count in COUNTS:
        wall, cpu = zip(*seconds[count], strict=True)
        solo_wall, solo_cpu = zip(*seconds[1], strict=True)
        rows.append(
            {
                "objective": objective,
                "activations": source,
                "saes": count,
                "ms_per_sae_step": 1e3 * statistics.median(wall),
                "cpu_ms_per_sae_step": 1e3 * statistics.median(cpu),
                "tokens_per_s_and_sae": BATCH / statistics.median(wall),
                "cost_over_solo": ratio(wall, solo_wall),
                "cost_over_solo_by_cpu_time": ratio(cpu, solo_cpu),
                "seconds": wall,
                "cpu_seconds": cpu,
            }
        )
        row = rows[-1]
        print(
            f"{objective:<9} {source:<6} {count:>4} {row['ms_per_sae_step']:>15.1f} {row['cpu_ms_per_sae_step']:>13.1f} "
            f"{row['cost_over_solo']:>14.2f} {row['cost_over_solo_by_cpu_time']:>7.2f}",
            flush=True,
        )
    return rows


def main() -> None:
    """Both objectives, from the cache and from the stream; one table, one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=24, help="measured steps of a run, a multiple of 8")
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    load = os.getloadavg()
    print(f"{D_SAE} features at {HOOK}, {BATCH} tokens a step, 1 thread")
    print(f"{'objective':<9} {'source':<6} {'SAEs':>4} {'ms per SAE step':>15} {'CPU ms':>13} {'x a solo run':>14} {'by CPU':>7}")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, corpus = write_model(folder / "model"), write_corpus(folder / "corpus")
        with contextlib.redirect_stdout(io.StringIO()):
            write_cache(ActivationsConfig(block_rows=BLOCK_ROWS), [HOOK], model, corpus, folder / "cache")
        for source in ("cache", "stream"):
            for objective in OBJECTIVES:
                rows += measure(folder, objective, source, options.rounds, WARM + options.steps)
    write_json(
        options.out,
        {
            "command": " ".join(["python", *sys.argv]),
            "machine": describe(1),
            "load_average": {"before": load, "after": os.getloadavg()},
            "setting": {"model": SHAPE, "hook_point": HOOK, "d_sae": D_SAE, "batch": BATCH, "block_rows": BLOCK_ROWS},
            "rounds": options.rounds,
            "steps": options.steps,
            "results": rows,
        },
    )


if __name__ == "__main__":
    main()
