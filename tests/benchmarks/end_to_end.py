"""The end-to-end training step: saeworks and the code released with Braun et al. 2024 (e2e_sae 2.1.1), in turns.

With the peers' environment of `training.py`, from the repository root:
  python tests/benchmarks/end_to_end.py --peers .venv-peers/bin/python --out results/benchmarks/end_to_end.json --threads 1 2

A random GPT of 4 layers (d_model 128, 1,024 tokens in the vocabulary), batches of 16 rows of 128 tokens, 3,840 features at
blocks.2.hook_resid_pre; the same weights, tokens and SAE on both sides, whose first losses must agree. An SAE starts at the
L0 of a trained one (by its encoder bias), or as initialised (`dense`).

Ours reads the values at the hook point from memory, as from the activation cache; `saeworks, stream` computes them in the
step. e2e_sae runs the model from the tokens in every step, twice where the objective is end to end.
"""

from __future__ import annotations

import os
import statistics
import sys

from machine import describe
from workers import HERE, Command, medians, ratio, read_options, start, take_turns, with_and_without_memory

from saeworks.store.files import write_json

sys.path.insert(0, str(HERE))
from end_to_end_setting import CASES, D_SAE, DENSE, HOOK, L0_RANGES, OBJECTIVES, ROWS, SHAPE, TOKENS  # noqa: E402

OURS, AUTHORS = "saeworks", "e2e_sae"
COMMANDS = {
    OURS: Command(["saeworks_end_to_end_worker.py"]),
    f"{OURS}, stream": Command(["saeworks_end_to_end_worker.py", "--activations", "stream"]),
    **with_and_without_memory({AUTHORS: Command(["e2e_sae_worker.py"], peer=True)}),
}
TARGET = 2.2  # times the authors' tokens per second, for `e2e`
AGREEMENT = 1e-4  # relative difference of the first losses, float32


def summarise(case: str, threads: int, answers: dict[str, list[dict]], hellos: dict[str, dict]) -> list[dict]:
    """One row for each library."""
    seconds, cpu_seconds = medians(answers, "seconds_per_step"), medians(answers, "cpu_seconds_per_step")
    losses = {name: given[0]["first_loss"] for name, given in answers.items()}
    for name, loss in losses.items():
        if abs(loss - losses[OURS]) > AGREEMENT * losses[OURS]:
            raise SystemExit(f"{case}: the first loss of {name} is {loss}, that of {OURS} {losses[OURS]}")
    return [
        {
            "objective": case.removesuffix(DENSE),
            "start": "dense" if case.endswith(DENSE) else "sparse",
            "threads": threads,
            "library": name,
            "versions": hellos[name]["versions"],
            "tokens_per_s": TOKENS / statistics.median(seconds[name]),
            "lowest": TOKENS / max(seconds[name]),
            "highest": TOKENS / min(seconds[name]),
            "cpu_ms_per_step": 1e3 * statistics.median(cpu_seconds[name]),
            "saeworks_times_as_fast": ratio(seconds[name], seconds[OURS]),
            "saeworks_times_as_fast_by_cpu_time": ratio(cpu_seconds[name], cpu_seconds[OURS]),
            "l0": given[-1]["l0"],
            "first_loss": losses[name],
            "seconds_per_step": [answer["seconds_per_step"] for answer in given],
            "cpu_seconds_per_step": [answer["cpu_seconds_per_step"] for answer in given],
        }
        for name, given in answers.items()
    ]


def against_targets(threads: int, answers: dict[str, dict[str, list[dict]]]) -> list[dict]:
    """What the project promises: `e2e` is `TARGET` times as fast as the authors', and no dearer than their `local`."""
    rows = []
    for beginning in ("", DENSE):
        e2e, local = f"e2e{beginning}", f"local{beginning}"
        if AUTHORS not in answers.get(e2e, {}) or local not in answers:
            continue
        row = {"start": "dense" if beginning else "sparse", "threads": threads}
        for key, suffix in (("seconds_per_step", ""), ("cpu_seconds_per_step", "_by_cpu_time")):
            ours = medians(answers[e2e], key)[OURS]
            row[f"e2e_times_as_fast_as_authors{suffix}"] = ratio(medians(answers[e2e], key)[AUTHORS], ours)
            row[f"e2e_cost_over_authors_local{suffix}"] = ratio(ours, medians(answers[local], key)[AUTHORS])
        rows.append(row)
    return rows


def print_rows(rows: list[dict]) -> None:
    """The table's rows for one case and thread count."""
    for row in rows:
        print(
            f"{row['objective']:<9} {row['start']:<6} {row['threads']:>7} {row['library']:<22} {row['tokens_per_s']:>9.0f} "
            f"{row['cpu_ms_per_step']:>8.1f} {row['saeworks_times_as_fast']:>12.2f} "
            f"{row['saeworks_times_as_fast_by_cpu_time']:>7.2f} {row['l0']:>7.1f}",
            flush=True,
        )


def print_target(row: dict) -> None:
    """One line against the targets."""
    print(
        f"{row['start']} start, {row['threads']} thread(s): e2e is {row['e2e_times_as_fast_as_authors']:.2f} times as fast as the "
        f"authors' (by CPU time {row['e2e_times_as_fast_as_authors_by_cpu_time']:.2f}; target {TARGET}), and takes "
        f"{row['e2e_cost_over_authors_local']:.2f} of the time of their local "
        f"(by CPU time {row['e2e_cost_over_authors_local_by_cpu_time']:.2f}; target at most 1)",
        flush=True,
    )


def main() -> None:
    """Every case and thread count; one table, one JSON file."""
    options = read_options(__doc__, CASES, steps=2)

    print(f"{SHAPE['n_layers']} layers, d_model {SHAPE['d_model']}, {D_SAE} features at {HOOK}, {TOKENS} tokens a step, float32")
    print(
        f"{'objective':<9} {'start':<6} {'threads':>7} {'library':<22} {'tokens/s':>9} {'CPU ms':>8} {'saeworks is':>12} "
        f"{'by CPU':>7} {'L0':>7}"
    )
    load = os.getloadavg()
    workers, hellos = start(COMMANDS, CASES[0], options.peers)
    rows, targets = [], []
    for threads in options.threads:
        asked = {case: lambda name, case=case: case for case in options.cases}
        answers = take_turns(workers, asked, threads, options.rounds, options.steps)
        for case in options.cases:
            rows.append(summarise(case, threads, answers[case], hellos))
            print_rows(rows[-1])
        targets += against_targets(threads, answers)
    for worker in workers.values():
        worker.close()
    for row in targets:
        print_target(row)
    write_json(
        options.out,
        {
            "command": " ".join(["python", *sys.argv]),
            "machine": [describe(threads) for threads in options.threads],
            "load_average": {"before": load, "after": os.getloadavg()},
            "setting": {
                "model": SHAPE,
                "hook_point": HOOK,
                "d_sae": D_SAE,
                "rows": ROWS,
                "kl_and_downstream_coefficients": OBJECTIVES,
                "l0": L0_RANGES,
                "dtype": "float32",
            },
            "rounds": options.rounds,
            "steps": options.steps,
            "results": [row for group in rows for row in group],
            "targets": targets,
        },
    )


if __name__ == "__main__":
    main()
