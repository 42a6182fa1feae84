"""Random-row reads from the activation cache, page cache warm, one thread.

`make bench`, or `python tests/benchmarks/activation_reads.py --out results/benchmarks/activation_reads.json`
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from machine import describe

from saeworks.activations.cache import ActivationCache
from saeworks.activations.order import sequence_order, token_order
from saeworks.store.files import sha256_file, write_json


def make_cache(folder: Path, n_rows: int, context: int, d_in: int, shards: int) -> None:
    """A cache of random float32 activations in `shards` files, in the layout of the writer."""
    hook = "blocks.0.hook_resid_pre"
    (folder / hook).mkdir(parents=True)
    rows_per_shard = -(-n_rows // shards)
    generator = np.random.default_rng(0)
    files = []
    for shard in range(shards):
        rows = min(rows_per_shard, n_rows - shard * rows_per_shard)
        path = folder / hook / f"{shard:05d}.npy"
        np.save(path, generator.standard_normal((rows * context, d_in), dtype=np.float32))
        files.append({"file": f"{hook}/{path.name}", "sha256": sha256_file(path)})
    order = sequence_order(n_rows, 0)
    np.save(folder / "sequence_order.npy", order.numpy())
    np.save(folder / "token_order.npy", token_order(order, context, None, 0).numpy())
    manifest = {
        "identity": {"context": context, "n_rows": n_rows},
        "dtype": "float32",
        "rows_per_shard": rows_per_shard,
        "orders": {name: sha256_file(folder / f"{name}.npy") for name in ("sequence_order", "token_order")},
        "hook_points": {hook: {"layer": 0, "d_in": d_in, "mean": [0.0] * d_in, "rms_norm": d_in**0.5, "shards": files}},
    }
    write_json(folder / "manifest.json", manifest)


def measure(d_in: int, batch: int, shards: int, n_rows: int = 8192, context: int = 128, repeats: int = 5) -> dict:
    """Tokens per second of `ActivationCache.tokens`, median over `repeats` passes of 100 batches."""
    with tempfile.TemporaryDirectory() as folder:
        make_cache(Path(folder), n_rows, context, d_in, shards)
        cache = ActivationCache(Path(folder), "blocks.0.hook_resid_pre")
        for shard in cache._shards:
            shard.sum()  # into the page cache
        rates = []
        for repeat in range(repeats):
            started = time.perf_counter()
            for step in range(100):
                cache.tokens((repeat * 100 + step) * batch, batch)
            rates.append(100 * batch / (time.perf_counter() - started))
    gib = n_rows * context * d_in * 4 / 2**30
    return {
        "d_in": d_in,
        "batch": batch,
        "shards": shards,
        "cache_gib": gib,
        "tokens_per_s": statistics.median(rates),
        "lowest": min(rates),
        "highest": max(rates),
    }


def main() -> None:
    """Measure and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    results = [measure(d_in, batch, shards) for d_in in (64, 256, 768) for batch in (1024, 4096) for shards in (1, 8)]
    write_json(out, {"command": "make bench", "machine": describe(1), "results": results})
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
