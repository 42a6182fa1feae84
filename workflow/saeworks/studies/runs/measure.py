"""The tables of an experiment: all runs together, and the runs that are compared."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from ...config.objectives import weight_at
from ...config.recipes import SIZES, WITHOUT_TRACE, settings_without_effect
from ...config.training import TrainingConfig
from ...store.files import content_hash, read_json
from ..place import Place

# What runs are chosen for being similar in: the metric behind each criterion.
CRITERIA = {"similar_ce": "ce_increase", "similar_l0": "l0", "similar_alive": "alive_features"}
# What a sweep varies: the settings of `training` that differ between its runs.
SWEPT = {
    "lr": ("lr",),
    "d_sae": ("d_sae",),
    "n_tokens": ("n_tokens",),
    "downstream": ("downstream_hook_points", "downstream_next"),
    "reconstruction_coeff": ("reconstruction_coeff",),
}


def measure(place: Place, settings: None) -> dict[str, pd.DataFrame]:
    """The tables of all runs together."""
    runs = pd.DataFrame([run_record(run, place.folder(run)) for run in place.run_names])
    runs = runs.astype({"sparsity_coeff": "float64", "k": "Int64"})  # a run has one of the two
    return {"runs": runs, "selection": select(runs, place.table("fidelity"))}


def run_record(run: str, folder: Path) -> dict:
    """One row of the `runs` table, from the run's own files.

    Runs with equal `settings` differ in nothing but their seed; those of one `family` in their seed, sparsity and hook point;
    those of one `family_but_lr` in their learning rate besides, and so on for every key of `SWEPT`. `downstream` says what is
    reconstructed downstream (empty where nothing is), `start_from` names the run that is continued. `grad_norm` is
    the mean norm of the gradient, before clipping, over the logged steps after the warm-up (NaN where there are none).
    """
    manifest, config = read_json(folder / "manifest.json"), read_json(folder / "cfg.json")
    spec = manifest["spec"]
    _, block, *_, kind = spec["hook_point"].split(".")
    beyond = ("hook_point", "sparsity_coeff", "k")
    start = spec["start_from"]
    return {
        "run": run,
        "model": manifest["data"]["model"]["name"],
        **{key: spec[key] for key in ("group", "hook_point", "objective", "sparsity_coeff", "k", "seed")},
        "architecture": spec["training"]["architecture"],
        "layer": int(block) + (kind == "hook_resid_post"),
        "settings": _identity(spec, folder),
        "family": _identity(spec, folder, *beyond),
        "d_in": config["d_in"],
        "d_sae": config["d_sae"],
        "n_tokens": manifest["tokens_seen"],
        "lr": spec["training"]["lr"],
        "reconstruction_coeff": weight_at(spec["objective"], spec["training"], "sae"),
        "downstream": _downstream(spec),
        "start_from": start and f"{spec['hook_point']}/{start}",
        "grad_norm": _grad_norm(manifest, folder / "log.jsonl"),
        **{f"family_but_{sweep}": _identity(spec, folder, *beyond, training=keys) for sweep, keys in SWEPT.items()},
    }


def _grad_norm(manifest: dict, log: Path) -> float:
    warmup = round(manifest["spec"]["training"]["warmup_fraction"] * manifest["n_steps"])
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    found = [line["grad_norm"] for line in lines if line["step"] > warmup]
    return float(np.mean(found)) if found else float("nan")


def _downstream(spec: dict) -> str:
    """What the run reconstructs downstream: `all`, `next N` or a list of hook points; empty where it has no such term."""
    settings = spec["training"]
    if not weight_at(spec["objective"], settings, "downstream"):
        return ""
    if settings.get("downstream_hook_points"):
        return ", ".join(settings["downstream_hook_points"])
    return f"next {settings['downstream_next']}" if settings.get("downstream_next") else "all"


def _identity(spec: dict, folder: Path, *without: str, training: tuple[str, ...] = ()) -> str:
    """Hash of a run's settings but for its name, group, seed, the keys `without` and the keys `training` of its training.

    Settings at their defaults and those without an effect are left out, so that runs of before and after a setting was added are
    alike. The run it starts from counts likewise, but with all of its training.
    """
    kept = {key: value for key, value in spec.items() if key not in ("name", "group", "seed", *without)}
    settings = TrainingConfig.model_validate(spec["training"])
    idle = settings_without_effect(spec["objective"], settings.model_dump()) - SIZES | WITHOUT_TRACE
    chosen = settings.model_dump(exclude_defaults=True)
    kept["training"] = {key: value for key, value in chosen.items() if key not in idle and key not in training}
    if spec["start_from"]:
        start = folder.parent / spec["start_from"]
        kept["start_from"] = _identity(read_json(start / "manifest.json")["spec"], start, *without)
    return content_hash(kept, 12)


def select(runs: pd.DataFrame, fidelity: pd.DataFrame) -> pd.DataFrame:
    """For each criterion and hook point one run of each objective and architecture, as similar as they can be.

    Candidates are the runs of the first family of their objective and architecture at the hook point, in the order of the
    experiment file, each setting at its lowest seed: further families, as sweeps have them, differ in more than sparsity. Of all
    combinations of one candidate each, the one with the smallest ratio between the largest and the smallest value of the
    criterion's metric is taken. A run whose value is not above zero (its CE does not increase) has no ratio and is left out there.
    Columns: criterion, hook_point, objective, architecture, run, ce_increase (nats), and of the combination spread (largest minus
    smallest value, in the unit of the metric), value (this run's) and tolerance (largest over smallest value).
    """
    overall = fidelity[(fidelity["positions"] == "all") & fidelity["metric"].isin(CRITERIA.values())]
    metrics = overall.pivot(index="run", columns="metric", values="value").reindex(columns=list(CRITERIA.values()))
    table = runs.merge(metrics, left_on="run", right_index=True, how="left")
    first = table.groupby(["hook_point", "objective", "architecture"])["family"].transform("first")
    table = table[table["family"] == first]
    table = table[table["seed"] == table.groupby(["hook_point", "settings"])["seed"].transform("min")]
    records = []
    for criterion, metric in CRITERIA.items():
        for _, here in table[table[metric] > 0].groupby("hook_point", sort=True):
            low, high = _narrowest_range(here, metric)
            here = here[here[metric].between(low, high)].sort_values("run")
            chosen = here.groupby(["objective", "architecture"], sort=True).head(1).sort_values(["objective", "architecture"])
            chosen = chosen.assign(criterion=criterion, spread=high - low, value=chosen[metric], tolerance=high / low)
            records.append(chosen)
    columns = ["criterion", "hook_point", "objective", "architecture", "run", "ce_increase", "spread", "value", "tolerance"]
    return pd.concat(records, ignore_index=True)[columns] if records else pd.DataFrame(columns=columns)


def _narrowest_range(runs: pd.DataFrame, metric: str) -> tuple[float, float]:
    """The range of `metric` with the smallest ratio of its ends that holds a run of each objective and architecture."""
    runs = runs.sort_values(metric)
    values, kinds = runs[metric].tolist(), list(zip(runs["objective"], runs["architecture"], strict=True))
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
