"""What Braun et al. 2024 claim, against what the tables of an experiment show.

Each claim has a criterion, fixed in this file whatever the experiment. The verdict is `reproduced` or `not reproduced` by that
criterion, and `cannot be tested` where the experiment lacks the runs. It says nothing about the size of an effect: models,
dictionaries and training budgets differ from the paper's, so the numbers stand beside each other in the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from .common import (
    ARCHITECTURES,
    LABELS,
    OBJECTIVES,
    hook_points,
    kind_name,
    read_metrics,
    read_runs,
    read_selection,
    read_table,
    sparsity_label,
)
from .cross_seed import seed_pairs

REPRODUCED, NOT_REPRODUCED, UNTESTED = "reproduced", "not reproduced", "cannot be tested"
_OF_PAPER = OBJECTIVES[:3]
N_POINTS = 20  # as in the authors' analysis
_SIMILAR = 1.5  # largest over smallest CE increase of runs that are compared as similar; the paper's differ by 1.16 at layer 6

_GEOMETRY = [
    "hook_point", "comparison", "run_a", "run_b", "directions", "features", "direction", "value", "ci_low", "ci_high",
    "random_baseline", "n_a", "n_b",
]  # fmt: skip
_FEATURES = "bootstrap over features"
_CURVE = "smallest and largest along the curve (no resampling)"
_NONE = "none: one run per objective"


@dataclass(frozen=True)
class CurveRatio:
    """Ratio of two interpolated curves; `why` says why there is none (then every number is NaN)."""

    mean: float = np.nan
    low: float = np.nan
    high: float = np.nan
    start: float = np.nan
    stop: float = np.nan
    seeds: tuple[int, ...] = ()
    why: str = ""


def ratio_of_curves(above: pd.DataFrame, below: pd.DataFrame, x: str, y: str, n_points: int = N_POINTS) -> CurveRatio:
    """`y` of `above` over `y` of `below` at equal `x`: mean, smallest and largest over `n_points` of the common range of `x`.

    Each frame holds the runs of one curve; between runs the curves are linear, as in the paper (its 45 % figure is the mean of
    such ratios at 20 equally spaced values). Runs with equal `x` are averaged.
    """
    curves = [frame[[x, y]].dropna().groupby(x)[y].mean() for frame in (above, below)]
    if min(len(curve) for curve in curves) < 2:
        return CurveRatio(why="a curve needs two runs")
    start, stop = max(curve.index[0] for curve in curves), min(curve.index[-1] for curve in curves)
    if start >= stop:
        return CurveRatio(why="the curves have no common range")
    grid = np.linspace(start, stop, n_points)
    top, bottom = (np.interp(grid, curve.index, curve.to_numpy()) for curve in curves)
    if min(top.min(), bottom.min()) <= 0:
        return CurveRatio(why="a curve reaches zero, where a ratio means nothing")
    ratio = top / bottom
    return CurveRatio(float(ratio.mean()), float(ratio.min()), float(ratio.max()), float(start), float(stop))


def of_one_architecture(runs: pd.DataFrame) -> pd.DataFrame:
    """`runs` without those of other architectures than the claims are tested on, hook point by hook point.

    That is the architecture with the most of the paper's three objectives there, and among those the one with the most runs.
    """
    kept = []
    for _, here in runs.groupby("hook_point", sort=False):
        of_paper = here[here["objective"].isin(_OF_PAPER)]
        counts = of_paper.groupby("architecture")["objective"].agg(["nunique", "size"]).reindex(list(ARCHITECTURES)).dropna()
        chosen = counts.sort_values(["nunique", "size"], ascending=False, kind="stable").index[:1]
        kept.append(here[here["architecture"].isin(chosen)])
    return pd.concat(kept) if kept else runs


def sweep(runs: pd.DataFrame, objective: str, seed: int) -> pd.DataFrame:
    """Runs of one curve: one objective and seed, of the family that has the most of them."""
    runs = runs[(runs["objective"] == objective) & (runs["seed"] == seed)]
    return runs[runs["family"] == runs["family"].value_counts(sort=False).idxmax()] if len(runs) else runs


def _over_seeds(here: pd.DataFrame, above: str, below: str, x: str, y: str) -> CurveRatio:
    """The ratio for each seed that both objectives have at a hook point, averaged; the range spans all of them."""
    seeds = sorted(set(here.loc[here["objective"] == above, "seed"]) & set(here.loc[here["objective"] == below, "seed"]))
    found = {seed: ratio_of_curves(sweep(here, above, seed), sweep(here, below, seed), x, y) for seed in seeds}
    valid = {seed: ratio for seed, ratio in found.items() if not ratio.why}
    if not valid:
        return next(iter(found.values()), CurveRatio(why=f"no runs of {LABELS[above]} and {LABELS[below]} with the same seed"))
    ratios = list(valid.values())
    return CurveRatio(
        float(np.mean([r.mean for r in ratios])),
        min(r.low for r in ratios),
        max(r.high for r in ratios),
        max(r.start for r in ratios),
        min(r.stop for r in ratios),
        tuple(valid),
    )


def curve_ratios(tables: Path) -> pd.DataFrame:
    """Ratios at equal L0, equal alive features and equal CE increase, per hook point and end-to-end objective.

    Columns: hook_point, objective, quantity ("ce_at_equal_l0" and "ce_at_equal_alive": objective over local; "l0_at_equal_ce":
    local over objective), ratio, low, high, start, stop (range of what is held equal), seeds, why.
    """
    runs = read_metrics(tables, ["l0", "alive_features", "ce_increase"])
    compared = of_one_architecture(runs)
    rows = []
    for hook_point in hook_points(runs):
        for objective in ("e2e", "e2e_ds"):
            for quantity, above, below, x, y in (
                ("ce_at_equal_l0", objective, "local", "l0", "ce_increase"),
                ("ce_at_equal_alive", objective, "local", "alive_features", "ce_increase"),
                ("l0_at_equal_ce", "local", objective, "ce_increase", "l0"),
            ):
                ratio = _over_seeds(compared[compared["hook_point"] == hook_point], above, below, x, y)
                numbers = (ratio.mean, ratio.low, ratio.high, ratio.start, ratio.stop)
                rows.append((hook_point, objective, quantity, *numbers, ", ".join(map(str, ratio.seeds)), ratio.why))
    columns = ["hook_point", "objective", "quantity", "ratio", "low", "high", "start", "stop", "seeds", "why"]
    return pd.DataFrame(rows, columns=columns)


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
    geometry = _decoder_geometry(tables)
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
    """The paper's claims against this experiment, one row per claim and hook point, each tested on one architecture.

    Columns: hook_point, model, claim, published, ours, low, high (NaN where there is none), interval (what low and high are), criterion,
    verdict, note.
    """
    ratios = curve_ratios(tables).set_index(["hook_point", "objective", "quantity"])
    rows = []
    runs = read_runs(tables)
    compared = of_one_architecture(runs).groupby("hook_point")["architecture"].first()
    for hook_point in hook_points(runs):
        rows += _frontier_claims(hook_point, ratios)
        rows += _error_claims(hook_point, tables)
        rows += _alive_claims(hook_point, tables)
        rows += _norm_claims(hook_point, tables)
        rows += _within_claims(hook_point, tables)
        rows += _seed_claims(hook_point, tables)
        rows += _cross_objective_claims(hook_point, tables)
    columns = ["hook_point", "claim", "published", "ours", "low", "high", "interval", "criterion", "verdict", "note"]
    table = pd.DataFrame(rows, columns=columns)
    table.insert(1, "model", ", ".join(read_table(tables, "runs", ["model"])["model"].unique()))
    if runs["architecture"].nunique() > 1:
        table["note"] += "; " + table["hook_point"].map(compared).map(ARCHITECTURES).fillna("no") + " SAEs"
    return table


def readable(table: pd.DataFrame, digits: int = 3) -> pd.DataFrame:
    """`claims` for a reader: hook point, model, claim, published, ours with its interval, what that is, criterion, verdict, note."""

    def with_interval(row: pd.Series) -> str:
        if np.isnan(row["ours"]):
            return "–"
        interval = "" if np.isnan(row["low"]) else f" [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"
        return f"{row['ours']:.{digits}f}{interval}"

    table = table.assign(ours=[with_interval(row) for _, row in table.iterrows()]).drop(columns=["low", "high"])
    return table.rename(
        columns={"hook_point": "hook point", "ours": "ours [interval]", "interval": "interval is", "criterion": "test"}
    )


def _verdict(passed: bool) -> str:
    return REPRODUCED if passed else NOT_REPRODUCED


def _untested(hook_point: str, claim: str, published: str, criterion: str, why: str) -> tuple:
    return (hook_point, claim, published, np.nan, np.nan, np.nan, "–", criterion, UNTESTED, why)


def _frontier_claims(hook_point: str, ratios: pd.DataFrame) -> list[tuple]:
    rows = []
    kinds = {
        "ce_at_equal_l0": ("CE increase of {} over local at equal L0", "< 0.45", "below 0.45", "L0"),
        "ce_at_equal_alive": ("CE increase of {} over local at equal alive features", "< 0.45", "below 0.45", "alive features"),
        "l0_at_equal_ce": ("L0 of local over {} at equal CE increase", "> 2", "above 2", "CE increase"),
    }
    for quantity, (claim, published, criterion, axis) in kinds.items():
        for objective in ("e2e", "e2e_ds"):
            found = ratios.loc[(hook_point, objective, quantity)]
            claim_here = claim.format(LABELS[objective])
            if found["why"]:
                rows.append(_untested(hook_point, claim_here, published, criterion, found["why"]))
                continue
            passed = found["ratio"] > 2 if quantity == "l0_at_equal_ce" else found["ratio"] < 0.45
            note = f"{axis} {found['start']:.3g} to {found['stop']:.3g}, seed {found['seeds']}"
            if not passed:
                better = found["ratio"] > 1 if quantity == "l0_at_equal_ce" else found["ratio"] < 1
                note += "; better than local, by less than published" if better else "; no better than local"
            numbers = (found["ratio"], found["low"], found["high"])
            rows.append((hook_point, claim_here, published, *numbers, _CURVE, criterion, _verdict(passed), note))
    return rows


def _error_claims(hook_point: str, tables: Path) -> list[tuple]:
    fidelity = read_table(tables, "fidelity", ["run", "metric", "layer", "positions", "value"])
    errors = fidelity[(fidelity["metric"] == "mse") & (fidelity["positions"] == "all")]
    selected = _selected(tables, hook_point)
    runs, rows = selected["run"], []
    for above, below, at, claim, published, criterion in (
        ("e2e", "local", 0, "MSE of e2e over local at the SAE's layer", "≈ 29 (read off Fig. 2)", "above 1"),
        ("e2e", "local", -1, "MSE of e2e over local at the last layer", "≈ 11 (read off Fig. 2)", "above 1"),
        ("e2e_ds", "e2e", -1, "MSE of e2e+ds over e2e at the last layer", "≈ 0.11 (read off Fig. 2)", "below 1"),
    ):
        if above not in runs.index or below not in runs.index:
            rows.append(_untested(hook_point, claim, published, criterion, "no runs at similar CE increase"))
            continue
        pair = [errors[errors["run"] == runs[objective]].set_index("layer")["value"] for objective in (above, below)]
        # the paper's last layer is the input of the last block, not its output
        layers = sorted(set(pair[0].index) & set(pair[1].index))[:-1]
        if not layers:
            rows.append(_untested(hook_point, claim, published, criterion, "MSE was not measured"))
            continue
        ratio = pair[0][layers[at]] / pair[1][layers[at]]
        passed = ratio > 1 if criterion == "above 1" else ratio < 1
        note = f"layer {layers[at]}, all positions; {_increases(selected, above, below)}"
        rows.append((hook_point, claim, published, ratio, np.nan, np.nan, _NONE, criterion, _verdict(passed), note))
    return rows


def _alive_claims(hook_point: str, tables: Path) -> list[tuple]:
    metrics = read_metrics(tables, ["alive_features"]).set_index("run")["alive_features"]
    runs = _selected(tables, hook_point)
    published = {"e2e": (22, 26, "22k over 26k, Table 2"), "e2e_ds": (15, 26, "15k over 26k, Table 2")}
    return [_over_local(hook_point, "alive features", metrics, runs, objective, *at) for objective, at in published.items()]


def _norm_claims(hook_point: str, tables: Path) -> list[tuple]:
    fidelity = read_table(tables, "fidelity", ["run", "metric", "layer", "positions", "value"])
    ratios = fidelity[(fidelity["metric"] == "l2_ratio") & (fidelity["positions"] == "rest")].set_index("run")["value"]
    runs = _selected(tables, hook_point)
    claim = "norm of output over norm of input, positions after the first"
    published = {"e2e": (0.31, 0.92, "0.31 over 0.92, Table 5"), "e2e_ds": (0.56, 0.92, "0.56 over 0.92, Table 5")}
    return [_over_local(hook_point, claim, ratios, runs, objective, *at) for objective, at in published.items()]


def _over_local(
    hook_point: str,
    what: str,
    values: pd.Series,
    selected: pd.DataFrame,
    objective: str,
    theirs: float,
    of_local: float,
    source: str,
) -> tuple:
    """The claim that `values` (by run) of an objective lie below local's at similar CE increase.

    One run each has no interval, so a ratio just below 1 shows nothing: it must be nearer to the published one than to 1.
    """
    expected = theirs / of_local
    claim, published = f"{what}: {LABELS[objective]} over local at similar CE increase", f"{expected:.2f} ({source})"
    criterion = f"below {(1 + expected) / 2:.2f}, the middle between that and 1"
    runs = selected["run"]
    pair = [values.get(runs[kind], np.nan) if kind in runs.index else np.nan for kind in (objective, "local")]
    if np.isnan(pair).any() or not pair[1]:
        return _untested(hook_point, claim, published, criterion, "no runs at similar CE increase")
    ratio, passed = pair[0] / pair[1], pair[0] / pair[1] < (1 + expected) / 2
    note = f"{pair[0]:,.4g} over {pair[1]:,.4g}; {_increases(selected, objective, 'local')}"
    note += "; below local's, by less" if not passed and ratio < 1 else ""
    return (hook_point, claim, published, ratio, np.nan, np.nan, _NONE, criterion, _verdict(passed), note)


def _within_claims(hook_point: str, tables: Path) -> list[tuple]:
    geometry = _decoder_geometry(tables)
    geometry = geometry[(geometry["comparison"] == "within_difference") & (geometry["hook_point"] == hook_point)]
    selected = _selected(tables, hook_point)
    criterion = "interval above 0"
    rows = []
    for other, published in (("e2e_ds", "0.040 [0.037, 0.043]"), ("e2e", "0.166 [0.163, 0.168]")):
        claim = f"within-dictionary nearest cosine, local − {LABELS[other]}"
        if "local" not in selected.index or other not in selected.index:
            rows.append(_untested(hook_point, claim, published, criterion, "no runs at similar CE increase"))
            continue
        pair = (selected.loc["local", "run"], selected.loc[other, "run"])
        forth = geometry[(geometry["run_a"] == pair[0]) & (geometry["run_b"] == pair[1])]
        back = geometry[(geometry["run_a"] == pair[1]) & (geometry["run_b"] == pair[0])]
        if len(forth):
            value, low, high = forth.iloc[0][["value", "ci_low", "ci_high"]]
        elif len(back):
            value, high, low = -back.iloc[0][["value", "ci_low", "ci_high"]]
        else:
            rows.append(_untested(hook_point, claim, published, criterion, "the difference was not measured"))
            continue
        if np.isnan(low):
            rows.append(_untested(hook_point, claim, published, criterion, "too few alive features for an interval"))
            continue
        note = _increases(selected, "local", other)
        rows.append((hook_point, claim, published, value, low, high, _FEATURES, criterion, _verdict(low > 0), note))
    return rows


def _seed_claims(hook_point: str, tables: Path) -> list[tuple]:
    pairs = seed_pairs(tables, "geometry", _GEOMETRY)
    pairs = pairs[(pairs["directions"] == "decoder") & (pairs["features"] == "alive") & (pairs["hook_point"] == hook_point)]
    pairs = pairs[(pairs["direction"] == "both") & pairs["run_a"].isin(of_one_architecture(read_runs(tables))["run"])]
    rows: list[tuple] = []
    for objective, published in (("local", "near 1"), ("e2e_ds", "near 1"), ("e2e", "mostly low")):
        claim = f"nearest cosine across seeds, {LABELS[objective]}: {published}"
        # "Near" needs a scale: in few dimensions even random directions have a near neighbour.
        side = "below" if objective == "e2e" else "above"
        criterion = f"interval {side} the middle between random directions and 1"
        here = pairs[pairs["objective"] == objective]
        if here.empty:
            why = "no two runs differ in their seed only"
            rows.append(_untested(hook_point, claim, f"{published} (no mean given)", criterion, why))
            continue
        if here["ci_low"].isna().any():
            why = "too few alive features for an interval"
            rows.append(_untested(hook_point, claim, f"{published} (no mean given)", criterion, why))
            continue
        middle = (1 + here["random_baseline"]) / 2
        passed = (here["ci_high"] < middle).all() if objective == "e2e" else (here["ci_low"] > middle).all()
        numbers = (here["value"].mean(), here["ci_low"].min(), here["ci_high"].max())
        count = f"{len(here)} pair{'s' if len(here) > 1 else ''} of seeds"
        note = f"{count}, random directions {here['random_baseline'].mean():.3f}"
        rows.append((hook_point, claim, f"{published} (no mean given)", *numbers, _FEATURES, criterion, _verdict(passed), note))
    return rows


def _cross_objective_claims(hook_point: str, tables: Path) -> list[tuple]:
    geometry = _decoder_geometry(tables)
    geometry = geometry[(geometry["comparison"] == "cross_objective") & (geometry["hook_point"] == hook_point)]
    selected = _selected(tables, hook_point)
    runs = selected["run"]
    rows, means = [], {}
    for objective in ("e2e", "e2e_ds"):
        if {objective, "local"} <= set(runs.index):
            a, b = (geometry["run_a"], geometry["run_b"])
            forth = (a == runs[objective]) & (b == runs["local"]) & (geometry["direction"] == "a_to_b")
            back = (a == runs["local"]) & (b == runs[objective]) & (geometry["direction"] == "b_to_a")
            found = geometry[forth | back].dropna(subset=["value", "ci_low"])
            means |= {objective: found.iloc[0]} if len(found) else {}
    claim, published = "nearest cosine from e2e to local: low", "low, with a group near 0 (no mean given)"
    criterion = "interval below the middle between random directions and 1"
    if "e2e" in means:
        mean = means["e2e"]
        passed = mean["ci_high"] < (1 + mean["random_baseline"]) / 2
        numbers = (mean["value"], mean["ci_low"], mean["ci_high"])
        note = f"random directions {mean['random_baseline']:.3f}; {_increases(selected, 'e2e', 'local')}"
        rows.append((hook_point, claim, published, *numbers, _FEATURES, criterion, _verdict(passed), note))
    else:
        rows.append(_untested(hook_point, claim, published, criterion, "no runs at similar CE increase"))
    claim, published = "nearest cosine to local: e2e+ds − e2e", "above 0 (no means given)"
    criterion = "intervals apart, e2e+ds above"
    if len(means) == 2:
        one, other = means["e2e_ds"], means["e2e"]
        numbers = (one["value"] - other["value"], np.nan, np.nan)
        note = " and ".join(f"{mean['value']:.3f} [{mean['ci_low']:.3f}, {mean['ci_high']:.3f}]" for mean in (one, other))
        note += f"; {_increases(selected, 'e2e_ds', 'e2e', 'local')}"
        verdict = _verdict(one["ci_low"] > other["ci_high"])
        rows.append((hook_point, claim, published, *numbers, "of each mean, in the note", criterion, verdict, note))
    else:
        rows.append(_untested(hook_point, claim, published, criterion, "no runs at similar CE increase"))
    return rows


def _selected(tables: Path, hook_point: str) -> pd.DataFrame:
    """The runs at similar CE increase that the claims compare, by objective; none where they are not similar."""
    compared = of_one_architecture(read_runs(tables))["run"]
    selected = read_selection(tables)
    selected = selected[selected["run"].isin(compared) & (selected["hook_point"] == hook_point)]
    increases = selected.loc[selected["objective"].isin(_OF_PAPER), "ce_increase"]
    similar = increases.max() <= _SIMILAR * increases.min()
    return selected[similar & selected["objective"].notna()].set_index("objective")


def _increases(selected: pd.DataFrame, *objectives: str) -> str:
    """The CE increases of selected runs, for a note."""
    return f"CE increases {', '.join(f'{value:.3f}' for value in selected.loc[list(objectives), 'ce_increase'])} nats"


def _decoder_geometry(tables: Path) -> pd.DataFrame:
    geometry = read_table(tables, "geometry", _GEOMETRY)
    return geometry[(geometry["directions"] == "decoder") & (geometry["features"] == "alive")]
