"""Sampling from novels-1m with the key-value cache: tokens per second for the default corpus's settings.

`make bench` (after `make figures`, which prepares the model).
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
import yaml
from machine import describe

from saeworks.config.experiment import parse_experiment
from saeworks.lm.prepare import load_model
from saeworks.lm.sample import sample_rows
from saeworks.store.files import write_json


def main() -> None:
    """Measure one and two threads, median of three batches each, and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    experiment = parse_experiment(yaml.safe_load(Path("config/config.yaml").read_text()))
    corpus = experiment.corpus
    folder = Path("data/prepared") / experiment.model_key()
    if not folder.exists():
        print(f"{folder} is not there; `make figures` prepares it, and tests/benchmarks/sampling.py measures nothing without it.")
        return
    model = load_model(folder)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        rates = []
        for seed in range(4):
            generator = torch.Generator().manual_seed(seed)
            started = time.perf_counter()
            sample_rows(model, 0, corpus.batch_rows, corpus.context, corpus.temperature, generator)
            rates.append(corpus.batch_rows * corpus.context / (time.perf_counter() - started))
        rates = rates[1:]  # the first batch warms up
        machine = describe(threads)
        results.append(
            {"machine": machine, "tokens_per_s": statistics.median(rates), "lowest": min(rates), "highest": max(rates)}
        )
        print(results[-1], flush=True)
    write_json(out, {"command": "make bench", "rows": corpus.batch_rows, "context": corpus.context, "results": results})


if __name__ == "__main__":
    main()
