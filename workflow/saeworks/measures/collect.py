"""The tables of an experiment: all runs together, and the runs that are compared."""

from __future__ import annotations

from collections import Counter
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
    "architecture",
    "sparsity_coeff",
    "k",
    "seed",
    "settings",
    "family",
    "d_in",
    "d_sae",
    "n_tokens",
    "lr",
]


def run_record(run: str, folder: Path) -> dict:
    """One row of the `runs` table, from the run's own files.

    Runs with equal `settings` differ in nothing but their seed; those of one `family` in their seed, sparsity and hook point.
    """
    manifest, config = read_json(folder / "manifest.json"), read_json(folder / "cfg.json")
    spec = manifest["spec"]
    _, block, *_, kind = spec["hook_point"].split(".")
    return {
        "run": run,
        **{key: spec[key] for key in ("group", "hook_point", "objective", "sparsity_coeff", "k", "seed")},
        "architecture": spec["training"]["architecture"],
        "layer": int(block) + (kind == "hook_resid_post"),
        "settings": _identity(spec, folder),
        "family": _identity(spec, folder, "hook_point", "sparsity_coeff", "k"),
        "d_in": config["d_in"],
        "d_sae": config["d_sae"],
        "n_tokens": manifest["tokens_seen"],
        "lr": spec["training"]["lr"],
    }


def _identity(spec: dict, folder: Path, *without: str) -> str:
    """Hash of a run's settings but for its name, group, seed and the keys `without`; the run it starts from counts likewise."""
    kept = {key: value for key, value in spec.items() if key not in ("name", "group", "seed", *without)}
    if spec["start_from"]:
        start = folder.parent / spec["start_from"]
        kept["start_from"] = _identity(read_json(start / "manifest.json")["spec"], start, *without)
    return content_hash(kept, 12)


def select_similar_ce(runs: pd.DataFrame, fidelity: pd.DataFrame) -> pd.DataFrame:
    """Per hook point one run of each objective and architecture, such that their CE increases are as close as they can be.

    Of all combinations of one run per objective and architecture (the lowest seed of each setting), the one with the smallest
    ratio between its largest and smallest CE increase is taken. A run whose CE does not increase has no ratio and is left out.
    Columns: criterion, hook_point, objective, architecture, run, ce_increase, spread (largest minus smallest of the combination,
    nats).
    """
    increase = fidelity.query("metric == 'ce_increase' and positions == 'all'").set_index("run")["value"]
    table = runs.assign(ce_increase=runs["run"].map(increase))
    first_seed = table.groupby(["hook_point", "settings"])["seed"].transform("min")
    table = table[(table["seed"] == first_seed) & (table["ce_increase"] > 0)]
    records = []
    for hook_point, here in table.groupby("hook_point", sort=True):
        low, high = _narrowest_range(here)
        here = here[here["ce_increase"].between(low, high)].sort_values("run")
        for row in (
            here.groupby(["objective", "architecture"], sort=True).head(1).sort_values(["objective", "architecture"]).itertuples()
        ):
            records.append(("similar_ce", hook_point, row.objective, row.architecture, row.run, row.ce_increase, high - low))
    columns = ["criterion", "hook_point", "objective", "architecture", "run", "ce_increase", "spread"]
    return pd.DataFrame(records, columns=columns)


def _narrowest_range(runs: pd.DataFrame) -> tuple[float, float]:
    """The range of CE increases with the smallest ratio of its ends that holds a run of each objective and architecture."""
    runs = runs.sort_values("ce_increase")
    values, kinds = runs["ce_increase"].tolist(), list(zip(runs["objective"], runs["architecture"], strict=True))
    inside: Counter = Counter()
    best, first = (values[0], values[-1]), 0
    for last, kind in enumerate(kinds):
        inside[kind] += 1
        while len(inside) == len(set(kinds)):
            if values[last] / values[first] < best[1] / best[0]:
                best = (values[first], values[last])
            inside -= Counter({kinds[first]: 1})
            first += 1
    return best


def collect(runs: dict[str, Path], evaluations: Path, out: Path) -> None:
    """Write tables `runs`, `fidelity`, `features` and `selection` of the runs (name to folder) under `out`."""
    table = pd.DataFrame([run_record(run, folder) for run, folder in runs.items()])[RUN_COLUMNS]
    table = table.astype({"sparsity_coeff": "float64", "k": "Int64"})  # a run has one of the two
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
