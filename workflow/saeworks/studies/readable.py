"""Tables of an experiment for a reader, as notebooks show them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from .reading import (
    LABELS,
    architecture_name,
    kind_name,
    read_metrics,
    read_runs,
    read_selection,
    sparsity_label,
)
from .tables import read_table

_GEOMETRY = [
    "hook_point", "comparison", "run_a", "run_b", "directions", "features", "direction", "value", "ci_low", "ci_high",
    "random_baseline", "n_a", "n_b",
]  # fmt: skip


def run_table(tables: Path) -> pd.DataFrame:
    """Every run with what it costs: one row per run, headings with units, numbers not rounded."""
    names = {
        "l0": "L0 (features per token)",
        "ce_increase": "CE increase (nats)",
        "kl": "KL (nats)",
        "explained_variance": "explained variance",
        "alive_features": "alive features",
    }
    runs = read_metrics(tables, list(names))
    chosen = set(read_selection(tables)["run"])
    runs["similar CE"] = runs["run"].map(lambda run: "yes" if run in chosen else "")
    runs["objective"] = runs["objective"].map(LABELS)
    sparsities = [column for column in ("sparsity_coeff", "k") if runs[column].notna().any()]
    for column in sparsities:
        runs[column] = runs[column].map("{:g}".format, na_action="ignore").astype(object).fillna("–")
    said = ["architecture"] if runs["architecture"].nunique() > 1 else []
    runs["architecture"] = runs["architecture"].map(architecture_name)
    runs["alive_features"] = runs["alive_features"].astype("Int64")
    runs = runs[["hook_point", "objective", *said, "group", *sparsities, "seed", *names, "similar CE"]]
    return runs.rename(columns={**names, "hook_point": "hook point", "sparsity_coeff": "λ"})


def setting_table(tables: Path) -> pd.DataFrame:
    """What the runs have in common: one row per hook point, group and setting of training."""
    settings = {"d_in": "d_in", "d_sae": "d_sae", "n_tokens": "training tokens", "lr": "learning rate"}
    read_table(tables, "runs", list(settings))
    runs = read_runs(tables)
    runs["objective"], runs["architecture"] = runs["objective"].map(LABELS), runs["architecture"].map(architecture_name)
    keys = ["hook_point", "group", "objective", "architecture", *settings]
    table = runs.groupby(keys, sort=False).size().rename("runs").reset_index()
    return table.assign(lr=table["lr"].map("{:g}".format)).rename(columns={**settings, "hook_point": "hook point"})


def geometry_table(tables: Path, comparison: str, selected: bool = False) -> pd.DataFrame:
    """Mean nearest-neighbour cosine between alive decoder features for one comparison, one row per direction.

    With `selected`, only between runs chosen for similar CE increase.
    """
    geometry = read_table(tables, "geometry", _GEOMETRY)
    geometry = geometry[(geometry["directions"] == "decoder") & (geometry["features"] == "alive")]
    geometry = geometry[geometry["comparison"] == comparison]
    if selected:
        chosen = read_selection(tables)["run"]
        geometry = geometry[geometry["run_a"].isin(chosen) & geometry["run_b"].isin(chosen)]
    runs = read_runs(tables)
    labels = {run: _described(here, runs) for run, here in runs.groupby("run")}
    arrows = {"a_to_a": "→ itself", "a_to_b": "→", "b_to_a": "←", "both": "mean of → and ←"}
    table = pd.DataFrame(
        {
            "hook point": geometry["hook_point"],
            "from": geometry["run_a"].map(labels),
            "direction": geometry["direction"].map(lambda d: arrows.get(d, d)),
            "to": geometry["run_b"].map(labels),
            "mean cosine": geometry["value"],
            "low": geometry["ci_low"],
            "high": geometry["ci_high"],
            "random directions": geometry["random_baseline"],
            "features (from)": geometry["n_a"],
            "features (to)": geometry["n_b"],
        }
    )
    if comparison == "within":
        return table.drop(columns=["direction", "to", "features (to)"]).rename(
            columns={"from": "run", "features (from)": "features"}
        )
    return table


def _described(run: pd.DataFrame, among: pd.DataFrame) -> str:
    row = run.iloc[0]
    return f"{kind_name(row['objective'], row['architecture'], among)}, {sparsity_label(run)}, seed {row['seed']}"
