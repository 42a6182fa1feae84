"""Comparing dictionaries of 46,080 directions in 768 dimensions: nearest neighbours, one-to-one matching, bootstrap.

`make bench`, or `python tests/benchmarks/geometry.py --out results/benchmarks/geometry.json`

Each measure runs in a process of its own, so that its peak memory is its own. Pairs of dictionaries: `random` directions, where
every feature has many partners that are hardly worse than the best, and `permuted`, one dictionary in another order with noise
(cosine about 0.7 with the true partner), where the matching is known and the share of partners found is told.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from machine import describe

from saeworks.store.files import write_json
from saeworks.studies.geometry.measure import nearest_cosine
from saeworks.studies.geometry.settings import GeometryConfig
from saeworks.studies.matching import one_to_one
from saeworks.studies.resampling import mean_interval

CASES = [("nearest", "random"), ("matching", "random"), ("matching", "permuted"), ("bootstrap", "features")]
RESAMPLES = 10_000


def dictionaries(kind: str, n: int, d: int) -> tuple[torch.Tensor, torch.Tensor, np.ndarray | None]:
    """Two dictionaries and, for each row of the first, its true partner in the second."""
    generator = torch.Generator().manual_seed(0)
    a, noise = (torch.nn.functional.normalize(torch.randn(n, d, generator=generator), dim=1) for _ in range(2))
    if kind == "random":
        return a, noise, None
    order = torch.randperm(n, generator=generator)
    return a, (a + noise)[order], order.argsort().numpy()


def measure(case: str, kind: str, n: int, d: int) -> dict:
    """Seconds of one measure and what it found."""
    if case == "bootstrap":
        sample = np.random.default_rng(0).random(n)
        started = time.perf_counter()
        interval = mean_interval((sample,), GeometryConfig(n_resamples=RESAMPLES), "benchmark")
        return {"seconds": time.perf_counter() - started, "resamples": RESAMPLES, "interval": interval}
    a, b, truth = dictionaries(kind, n, d)
    started = time.perf_counter()
    if case == "nearest":
        found = {"mean_cosine": nearest_cosine(a, b)[0].mean().item()}
    else:
        matching = one_to_one(a, b)
        found = {"mean_cosine": float(matching.cosine.mean())}
        if truth is not None:
            found["true_partners"] = float((matching.partner == truth).mean())
    return {"seconds": time.perf_counter() - started, **found}


def main() -> None:
    """All cases one after another; one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--features", type=int, default=46_080)
    parser.add_argument("--d", type=int, default=768)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.case:
        row = measure(*options.case, options.features, options.d)
        row["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps(row))
        return
    load, rows = os.getloadavg(), []
    for case in CASES:
        done = subprocess.run([sys.executable, *sys.argv, "--case", *case], check=True, stdout=subprocess.PIPE, text=True)
        rows.append({"measure": case[0], "dictionaries": case[1], **json.loads(done.stdout.splitlines()[-1])})
        print(rows[-1], flush=True)
    write_json(
        options.out,
        {
            "command": " ".join(["python", *sys.argv]),
            "machine": describe(options.threads),
            "load_average": {"before": load, "after": os.getloadavg()},
            "setting": {"features": options.features, "d": options.d},
            "results": rows,
        },
    )


if __name__ == "__main__":
    main()
