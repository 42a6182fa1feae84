"""The tables of an experiment: all runs together, and the runs that are compared."""

from __future__ import annotations

import itertools
from pathlib import Path

import pandas as pd

from ..store.files import content_hash, read_json
from .tables import read_table, write_table

RUN_COLUMNS = [
    "run",
    "group",
    "hook_point",
    "layer",
    "objective",
    "sparsity_coeff",
    "seed",
    "settings",
    "d_in",
    "d_sae",
    "n_tokens",
    "lr",
]


def run_record(run: str, folder: Path) -> dict:
    """One row of the `runs` table, from the run's own files.

    Runs with equal `settings` differ in nothing but their seed.
    """
    manifest, config = read_json(folder / "manifest.json"), read_json(folder / "cfg.json")
    spec = manifest["spec"]
    block, kind = spec["hook_point"].split(".")[1:]
    return {
        "run": run,
        **{key: spec[key] for key in ("group", "hook_point", "objective", "sparsity_coeff", "seed")},
        "layer": int(block) + kind.endswith("post"),
        "settings": content_hash({key: value for key, value in spec.items() if key not in ("name", "group", "seed")}, 12),
        "d_in": config["d_in"],
        "d_sae": config["d_sae"],
        "n_tokens": manifest["tokens_seen"],
        "lr": spec["training"]["lr"],
    }


def select_similar_ce(runs: pd.DataFrame, fidelity: pd.DataFrame) -> pd.DataFrame:
    """Per hook point one run of each objective, such that their CE increases are as close as they can be.

    Of all combinations of one run per objective (the lowest seed of each setting), the one with the smallest ratio between its
    largest and smallest CE increase is taken. A run whose CE does not increase has no ratio and is left out. Columns:
    criterion, hook_point, objective, run, ce_increase, spread (largest minus smallest of the combination, nats).
    """
    increase = fidelity.query("metric == 'ce_increase' and positions == 'all'").set_index("run")["value"]
    table = runs.assign(ce_increase=runs["run"].map(increase))
    first_seed = table.groupby(["hook_point", "settings"])["seed"].transform("min")
    table = table[(table["seed"] == first_seed) & (table["ce_increase"] > 0)]
    records = []
    for hook_point, here in table.groupby("hook_point", sort=True):
        groups = [group.sort_values("run") for _, group in here.groupby("objective", sort=True)]
        best = min(
            itertools.product(*(group.itertuples() for group in groups)),
            key=lambda rows: max(r.ce_increase for r in rows) / min(r.ce_increase for r in rows),
        )
        values = [row.ce_increase for row in best]
        records += [
            ("similar_ce", hook_point, row.objective, row.run, row.ce_increase, max(values) - min(values)) for row in best
        ]
    return pd.DataFrame(records, columns=["criterion", "hook_point", "objective", "run", "ce_increase", "spread"])


def collect(runs: dict[str, Path], evaluations: Path, out: Path) -> None:
    """Write tables `runs`, `fidelity`, `features` and `selection` of the runs (name to folder) under `out`."""
    table = pd.DataFrame([run_record(run, folder) for run, folder in runs.items()])[RUN_COLUMNS]
    write_table(table, out / "runs.parquet")
    collected = {}
    for name in ("fidelity", "features"):
        collected[name] = pd.concat([read_table(evaluations / run / f"{name}.parquet") for run in runs], ignore_index=True)
        write_table(collected[name], out / f"{name}.parquet")
    write_table(select_similar_ce(table, collected["fidelity"]), out / "selection.parquet")


def main(runs: list[str], experiment: str) -> None:
    """Entry point of the stage: `runs` are names under results/<experiment>/saes."""
    results = Path("results") / experiment
    collect({run: results / "saes" / run for run in runs}, results / "tables" / "runs", results / "tables")
