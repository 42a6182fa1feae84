"""What papers claim, against what the tables of an experiment show: Braun et al. 2024 and, on fine-tuning, Karvonen 2025.

Each claim has a criterion, fixed in the code whatever the experiment. The verdict is `reproduced` or `not reproduced` by that
criterion, and `cannot be tested` where the experiment lacks the runs. It says nothing about the size of an effect: models,
dictionaries and training budgets differ from the paper's, so the numbers stand beside each other in the table.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from .claims.curves import curve_ratios, frontier_claims
from .claims.fidelity import alive_claims, error_claims, explained_variance_claims, norm_claims
from .claims.geometry import (
    cross_objective_claims,
    crowding_claims,
    decoder_geometry,
    seed_claims,
    umap_claims,
    within_claims,
)
from .claims.rows import COLUMNS, NOT_REPRODUCED, REPRODUCED, UNTESTED, of_one_architecture
from .claims.studies import agreement_claims, pca_claims
from .claims.sweeps import finetune_claims, sweep_claims
from .common import (
    ARCHITECTURES,
    LABELS,
    hook_points,
    kind_name,
    read_metrics,
    read_runs,
    read_selection,
    read_table,
    sparsity_label,
)

VERDICTS = (REPRODUCED, NOT_REPRODUCED, UNTESTED)
_OF_TABLES = (
    error_claims,
    explained_variance_claims,
    alive_claims,
    norm_claims,
    within_claims,
    crowding_claims,
    seed_claims,
    cross_objective_claims,
    umap_claims,
    pca_claims,
    agreement_claims,
    sweep_claims,
    finetune_claims,
)


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
    runs["architecture"] = runs["architecture"].map(ARCHITECTURES)
    runs["alive_features"] = runs["alive_features"].astype("Int64")
    runs = runs[["hook_point", "objective", *said, "group", *sparsities, "seed", *names, "similar CE"]]
    return runs.rename(columns={**names, "hook_point": "hook point", "sparsity_coeff": "λ"})


def setting_table(tables: Path) -> pd.DataFrame:
    """What the runs have in common: one row per hook point, group and setting of training."""
    settings = {"d_in": "d_in", "d_sae": "d_sae", "n_tokens": "training tokens", "lr": "learning rate"}
    read_table(tables, "runs", list(settings))
    runs = read_runs(tables)
    runs["objective"], runs["architecture"] = runs["objective"].map(LABELS), runs["architecture"].map(ARCHITECTURES)
    keys = ["hook_point", "group", "objective", "architecture", *settings]
    table = runs.groupby(keys, sort=False).size().rename("runs").reset_index()
    return table.assign(lr=table["lr"].map("{:g}".format)).rename(columns={**settings, "hook_point": "hook point"})


def geometry_table(tables: Path, comparison: str, selected: bool = False) -> pd.DataFrame:
    """Mean nearest-neighbour cosine between alive decoder features for one comparison, one row per direction.

    With `selected`, only between runs chosen for similar CE increase.
    """
    geometry = decoder_geometry(tables)
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


def claims(tables: Path) -> pd.DataFrame:
    """The papers' claims against this experiment, one row per claim and hook point, each tested on one architecture.

    A claim on a study or a sweep has a row only where the experiment has one.

    Columns: hook_point, model, claim, published, ours, low, high (NaN where there is none), interval (what low and high are), criterion,
    verdict, note.
    """
    ratios = curve_ratios(tables).set_index(["hook_point", "objective", "quantity"])
    runs = read_runs(tables)
    rows = []
    for hook_point in hook_points(runs):
        rows += frontier_claims(hook_point, ratios)
        for claims_of in _OF_TABLES:
            rows += claims_of(hook_point, tables)
    table = pd.DataFrame(rows, columns=COLUMNS)
    table.insert(1, "model", ", ".join(read_table(tables, "runs", ["model"])["model"].unique()))
    if runs["architecture"].nunique() > 1:
        compared = of_one_architecture(runs).groupby("hook_point")["architecture"].first()
        table["note"] += "; " + table["hook_point"].map(compared).map(ARCHITECTURES).fillna("no") + " SAEs"
    return table


def summary(table: pd.DataFrame) -> str:
    """How many of the `claims` have each verdict, in a sentence."""
    counts = table["verdict"].value_counts()
    return f"Of {len(table)} tests: {', '.join(f'{counts.get(verdict, 0)} {verdict}' for verdict in VERDICTS)}."


def readable(table: pd.DataFrame, digits: int = 3) -> pd.DataFrame:
    """`claims` for a reader: hook point, model, claim, published, ours with its interval, what that is, criterion, verdict, note."""
    ours = [_with_interval(row, digits) for _, row in table.iterrows()]
    return (
        table.assign(ours=ours)
        .drop(columns=["low", "high"])
        .rename(columns={"hook_point": "hook point", "ours": "ours [interval]", "interval": "interval is", "criterion": "test"})
    )


def _with_interval(row: pd.Series, digits: int) -> str:
    if np.isnan(row["ours"]):
        return "–"
    if np.isnan(row["low"]):
        count = float(row["ours"]).is_integer()
        text = f"{row['ours']:.{0 if count else digits}f}"
    else:
        text = f"{row['ours']:.{digits}f} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"
    return text.replace("-", "−")


def markdown(table: pd.DataFrame) -> str:
    """`claims` in Markdown: a table of those that could be tested, and under it a list of the others by the reason why not.

    Columns of the table: claim, published value, ours, test, model and verdict; the hook point where there are several.
    """
    shown = readable(table)
    several = shown["hook point"].nunique() > 1
    columns = [*(["hook point"] if several else []), "claim", "published", "ours [interval]", "test", "model", "verdict"]
    tested = shown[shown["verdict"] != UNTESTED]
    lines = [columns, ["---"] * len(columns), *tested[columns].to_numpy().tolist()]
    text = "\n".join(f"| {' | '.join(cell.replace('|', '∣') for cell in line)} |" for line in lines)
    others = shown[shown["verdict"] == UNTESTED].groupby(["hook point", "note"], sort=False)["claim"]
    reasons = [f"* {f'{hook}, ' if several else ''}*{why}*: {'; '.join(claims)}." for (hook, why), claims in others]
    return "\n".join([text, *(["\nCannot be tested, and why:\n"] if reasons else []), *reasons])


def print_claims(experiment: list[str], /) -> None:
    """Print the papers' claims beside the results of experiments, as Markdown.

    Args:
        experiment: names of the experiments.
    """
    for i, name in enumerate(experiment):
        table = claims(Path("results") / name / "tables")
        heading = f"{chr(10) if i else ''}## {name}\n\n" if len(experiment) > 1 else ""
        print(f"{heading}{summary(table)}\n\n{markdown(table)}")
