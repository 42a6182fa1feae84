"""Training steps per second: saeworks, the public libraries and plain torch, in turns, and the encoder product as the ceiling.

The peers have an environment of their own:
  python3 -m venv .venv-peers
  .venv-peers/bin/pip install torch==2.13.0 -c envs/peers-constraints.txt
  .venv-peers/bin/pip install -c envs/peers-constraints.txt sae-lens eai-sparsify
  .venv-peers/bin/pip install --no-deps -c envs/peers-constraints.txt dictionary-learning e2e_sae
(`make .venv-peers/installed` does that.) Then, from the repository root:
  python tests/benchmarks/training.py --peers .venv-peers/bin/python --out results/benchmarks/training.json --threads 1 2

Each library is a worker process (`peers/`). A round asks every worker for a few steps, one worker after the other; a ratio
is the median over the rounds of ratios within a round, so that a slow spell of the machine weighs on both sides. Each peer
runs as its users run it, and once more with the memory setting of our command line (`keeps memory`).
"""

from __future__ import annotations

import os
import statistics
import sys

from machine import describe
from workers import HERE, Command, medians, ratio, read_options, start, take_turns, with_and_without_memory

from saeworks.store.files import write_json

CASES = ["relu", "topk", "gated", "topk_auxk", "relu_dense"]
OURS, CEILING = "saeworks", "encoder product"
PEERS = {
    "SAELens": Command(["sae_lens_worker.py"], peer=True),
    "dictionary_learning": Command(["dictionary_learning_worker.py"], peer=True),
    "sparsify": Command(["sparsify_worker.py"], peer=True),
    "sparsify, Adam": Command(["sparsify_worker.py", "--optimizer", "adam"], peer=True),
}
COMMANDS = {
    OURS: Command(["saeworks_worker.py"]),
    **with_and_without_memory({"plain torch": Command(["plain_torch_worker.py"])}),
    CEILING: Command(["plain_torch_worker.py"]),
    **with_and_without_memory(PEERS),
}


def summarise(case: str, threads: int, batch: int, answers: dict[str, list[dict]], hellos: dict[str, dict]) -> list[dict]:
    """One row for each library."""
    seconds, cpu_seconds = medians(answers, "seconds_per_step"), medians(answers, "cpu_seconds_per_step")
    return [
        {
            "case": case,
            "threads": threads,
            "library": name,
            "note": hellos[name]["note"],
            "versions": hellos[name]["versions"],
            "tokens_per_s": batch / statistics.median(seconds[name]),
            "lowest": batch / max(seconds[name]),
            "highest": batch / min(seconds[name]),
            "cpu_ms_per_step": 1e3 * statistics.median(cpu_seconds[name]),
            "saeworks_times_as_fast": ratio(seconds[name], seconds[OURS]),
            "saeworks_times_as_fast_by_cpu_time": ratio(cpu_seconds[name], cpu_seconds[OURS]),
            "fraction_of_encoder_product": ratio(seconds[CEILING], seconds[name]),
            "l0": given[-1]["l0"],
            "peak_rss_mib": max(a["peak_rss_mib"] for a in given),
            "rss_after_imports_mib": hellos[name]["imported_rss_mib"],
            "seconds_per_step": [a["seconds_per_step"] for a in given],
            "cpu_seconds_per_step": [a["cpu_seconds_per_step"] for a in given],
        }
        for name, given in answers.items()
    ]


def print_rows(rows: list[dict]) -> None:
    """The table's rows for one case and thread count."""
    for row in rows:
        print(
            f"{row['case']:<10} {row['threads']:>7} {row['library']:<33} {row['tokens_per_s']:>9.0f} "
            f"{row['saeworks_times_as_fast']:>12.2f} {row['saeworks_times_as_fast_by_cpu_time']:>8.2f} "
            f"{100 * row['fraction_of_encoder_product']:>10.1f} {row['l0']:>5.1f} {row['peak_rss_mib']:>9.0f} "
            f"{row['rss_after_imports_mib']:>12.0f} {row['note']}".rstrip(),
            flush=True,
        )


def main() -> None:
    """Every case and thread count; one table, one JSON file."""
    options = read_options(__doc__, CASES, steps=1)
    sys.path.insert(0, str(HERE))
    from worker import BATCH, D_IN, D_SAE, L0_START, K

    print(f"d_in {D_IN}, d_sae {D_SAE}, batch {BATCH}, float32")
    print(
        f"{'case':<10} {'threads':>7} {'library':<33} {'tokens/s':>9} {'saeworks is':>12} {'by CPU':>8} {'% of x W+b':>10} {'L0':>5} "
        f"{'peak MiB':>9} {'imports MiB':>12}"
    )
    load = os.getloadavg()
    rows = []
    for case in options.cases:
        workers, hellos = start(COMMANDS, case, options.peers)
        asked = {case: lambda name, case=case: "encoder_product" if name == CEILING else case}
        for threads in options.threads:
            answers = take_turns(workers, asked, threads, options.rounds, options.steps)[case]
            rows.append(summarise(case, threads, BATCH, answers, hellos))
            print_rows(rows[-1])
        for worker in workers.values():
            worker.close()
    write_json(
        options.out,
        {
            "command": " ".join(["python", *sys.argv]),
            "machine": [describe(threads) for threads in options.threads],
            "load_average": {"before": load, "after": os.getloadavg()},
            "setting": {"d_in": D_IN, "d_sae": D_SAE, "batch": BATCH, "dtype": "float32", "k": K, "relu_gated_l0": L0_START},
            "rounds": options.rounds,
            "steps": options.steps,
            "results": [row for group in rows for row in group],
        },
    )


if __name__ == "__main__":
    main()
