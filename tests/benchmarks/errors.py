"""Study `errors`: all interventions of a run against the ideal of one from-hook forward pass for each of them.

`make bench`, or `python tests/benchmarks/errors.py --out results/benchmarks/errors.json`

The forward passes alone run the model from the hook point to logits (`continue_from`, `logits`) for each intervention and batch, and
nothing else. The ideal is what any implementation must do: these, log-softmax of the logits, and the pass without an intervention
once. The study's pass also draws and makes the vectors, runs the SAE, and computes KL and loss of every token. On the default model,
SAEs of random weights at some layers. All are timed in turn, several times; ratios are those of the medians of processor time, which
a busy machine changes less than that of the clock.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from machine import describe

from saeworks.config.model import OwnModel
from saeworks.lm.bridge import boot, extract_decoder
from saeworks.lm.sites import Site
from saeworks.sae.architectures.relu import ReluSAE
from saeworks.store.files import write_json
from saeworks.studies.errors.measure import Batch, HookPoint
from saeworks.studies.errors.settings import INTERVENTIONS, OF_POST, ErrorsConfig

TOKENS = 200_000  # of the projection
KINDS = {"those of the post": list(OF_POST), "all": [name for name in INTERVENTIONS if name != "other_seed"]}


def sae(d_in: int, d_sae: int) -> ReluSAE:
    """An SAE with about a tenth of its features active."""
    generator = torch.Generator().manual_seed(0)
    made = ReluSAE(d_in, d_sae)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.1, generator=generator)
        made.b_enc -= 0.1 * d_in**0.5
    return made.requires_grad_(False)


@torch.no_grad()
def forwards(point: HookPoint, batch: Batch, n: int, probabilities: bool = False) -> None:
    """One forward pass from the hook point to logits, or log-probabilities, for each of `n` interventions."""
    for _ in range(n):
        last, _ = point.model.continue_from(point.site, batch.x, batch.x, batch.stream)
        for some in last.flatten(0, 1).split(point.logits_at_once):
            logits = point.model.logits(some)
            if probabilities:
                logits.log_softmax(dim=-1)


def ideal(point: HookPoint, n: int) -> None:
    """The pass without an intervention, once, and one from the hook point to log-probabilities for it and each of `n` interventions."""
    for batch in point.batches():
        forwards(point, batch, n, probabilities=True)
        for some in batch.last.flatten(0, 1).split(point.logits_at_once):
            point.model.logits(some).log_softmax(dim=-1)


@torch.no_grad()
def study(point: HookPoint, saes: dict[str, ReluSAE], names: dict[str, list[str]], pool_errors: dict[str, torch.Tensor]) -> None:
    """What the study does with the rows, from the tokens on, every position replaced."""
    for batch in point.batches():
        list(point._batch(batch, saes, names, {}, [], pool_errors))


def main() -> None:
    """Every layer, for the interventions of the post and for all; one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="novels-1m")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--saes", type=int, default=3, help="SAEs at a hook point, which share the pass without one")
    parser.add_argument("--d-sae", type=int, default=1024)
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 2, 4, 6, 7])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load = os.getloadavg()
    model = extract_decoder(boot(OwnModel(source="own", name=options.model)))
    rows = np.random.default_rng(0).integers(model.arch.d_vocab, size=(options.rows, model.arch.n_ctx)).astype(np.uint16)
    saes, results = {f"run {i}": sae(model.arch.d_model, options.d_sae) for i in range(options.saes)}, []
    for layer in options.layers:
        point = HookPoint(
            model, Site.parse(f"blocks.{layer}.hook_resid_pre", model.arch), rows, ErrorsConfig(batch_rows=options.rows)
        )
        batch = next(iter(point.batches()))
        for what, interventions in KINDS.items():
            names = dict.fromkeys(saes, interventions)
            n = sum(name not in ("zero", "mean") for name in interventions) * len(saes) + 2  # those two are the same for all SAEs
            pool_errors = point.errors_of_pool(saes, names)
            timed = {
                "forwards": partial(forwards, point, batch, n),
                "ideal": partial(ideal, point, n),
                "study": partial(study, point, saes, names, pool_errors),
            }
            seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in timed}
            for _ in range(options.rounds + 1):
                for name, run in timed.items():
                    started = time.perf_counter(), time.process_time()
                    run()
                    seconds[name].append((time.perf_counter() - started[0], time.process_time() - started[1]))
            wall, cpu = ({name: statistics.median(t[i] for t in times[1:]) for name, times in seconds.items()} for i in (0, 1))
            row = {"layer": layer, "interventions": what, "forward_passes": n, "seconds": wall, "cpu_seconds": cpu}
            row |= {f"over_{name}": cpu["study"] / cpu[name] for name in ("ideal", "forwards")}
            row |= {"tokens_per_s": rows.size * n / wall["study"]}
            results.append(row)
            print(row, flush=True)
    together = {
        what: {
            f"over_{name}": sum(row["cpu_seconds"]["study"] for row in results if row["interventions"] == what)
            / sum(row["cpu_seconds"][name] for row in results if row["interventions"] == what)
            for name in ("ideal", "forwards")
        }
        for what in KINDS
    }
    of_post = [row for row in results if row["interventions"] == "those of the post"]
    minutes = TOKENS * len(OF_POST) * model.arch.n_layers * statistics.mean(1 / row["tokens_per_s"] for row in of_post) / 60
    setting = {
        "rows": options.rows,
        "positions": model.arch.n_ctx,
        "saes": options.saes,
        "d_sae": options.d_sae,
        "model": options.model,
    }
    write_json(
        options.out,
        {
            "command": " ".join(["python", "tests/benchmarks/errors.py", "--out", str(options.out)]),
            "machine": describe(options.threads),
            "load_average": {"before": load, "after": os.getloadavg()},
            "setting": setting,
            "rounds": options.rounds,
            "results": results,
            "all_layers_together": together,
            f"minutes_for_{TOKENS}_tokens_at_every_layer": minutes,
        },
    )


if __name__ == "__main__":
    main()
