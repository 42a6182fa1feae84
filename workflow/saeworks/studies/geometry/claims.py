"""Claims on dictionaries: nearest neighbours within one, across seeds and across objectives."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd

from ...store.seeds import derive_seed
from ..claim import (
    AXES,
    CURVES,
    FEATURES,
    NOT_SIMILAR,
    OF_PAPER,
    SEEDS,
    Claim,
    increases,
    of_one_architecture,
    similar_runs,
)
from ..curves import common_seeds, on_common_range, sweep
from ..paper import BRAUN
from ..reading import LABELS, read_metrics, read_runs
from ..seeds import of_first_run
from ..tables import read_table

_GEOMETRY = [
    "hook_point", "comparison", "run_a", "run_b", "directions", "features", "direction", "value", "ci_low", "ci_high",
    "random_baseline", "n_a", "n_b",
]  # fmt: skip
_AXES = {"l0": "L0", "ce_increase": "CE increase", "alive_features": "alive features"}
_NEARLY_ALL = 0.9
_SHUFFLES = 9999
_SIGNIFICANT = 0.05


def claims(hook_point: str, tables: Path) -> list[Claim]:
    """Claims on nearest neighbours within a dictionary, across seeds and across objectives."""
    found = (_within, _crowding, _seeds, _cross_objective)
    return [claim for claims_of in found for claim in claims_of(hook_point, tables)]


def decoder_geometry(tables: Path) -> pd.DataFrame:
    """Rows of the table of geometry about alive decoder directions."""
    geometry = read_table(tables, "geometry", _GEOMETRY)
    return geometry[(geometry["directions"] == "decoder") & (geometry["features"] == "alive")]


def _within(hook_point: str, tables: Path) -> list[Claim]:
    """Nearest neighbours within the dictionaries of runs at similar CE increase (Fig. 3a)."""
    geometry = decoder_geometry(tables)
    geometry = geometry[(geometry["comparison"] == "within_difference") & (geometry["hook_point"] == hook_point)]
    selected = similar_runs(tables, hook_point)
    rows = []
    for other, published in (("e2e_ds", "0.040 [0.037, 0.043]"), ("e2e", "0.166 [0.163, 0.168]")):
        claim = Claim(
            hook_point,
            f"within-dictionary nearest cosine, local − {LABELS[other]}",
            published,
            f"{BRAUN}, Fig. 3a",
            "interval above 0",
        )
        if "local" not in selected.index or other not in selected.index:
            rows.append(claim.untested(NOT_SIMILAR))
            continue
        pair = (selected.loc["local", "run"], selected.loc[other, "run"])
        forth = geometry[(geometry["run_a"] == pair[0]) & (geometry["run_b"] == pair[1])]
        back = geometry[(geometry["run_a"] == pair[1]) & (geometry["run_b"] == pair[0])]
        if len(forth):
            value, low, high = forth.iloc[0][["value", "ci_low", "ci_high"]]
        elif len(back):
            value, high, low = -back.iloc[0][["value", "ci_low", "ci_high"]]
        else:
            rows.append(claim.untested("the difference was not measured"))
            continue
        if np.isnan(low):
            rows.append(claim.untested("too few alive features for an interval"))
            continue
        rows.append(claim.tested(low > 0, value, increases(selected, "local", other), FEATURES, low, high))
    return rows


def _crowding(hook_point: str, tables: Path) -> list[Claim]:
    """Crowding of every dictionary of the sweep over sparsities (Fig. 7)."""
    geometry = decoder_geometry(tables)
    within = geometry.loc[geometry["comparison"] == "within", ["run_a", "value"]].rename(columns={"value": "cosine"})
    runs = of_one_architecture(read_metrics(tables, list(_AXES)))
    runs = runs[runs["hook_point"] == hook_point].merge(within, left_on="run", right_on="run_a")
    runs = runs.dropna(subset=[*_AXES, "cosine"])
    pairs = (("local", "e2e_ds"), ("e2e_ds", "e2e"))
    return [*(_ordering(hook_point, runs, *pair) for pair in pairs), _with_fewer_alive(hook_point, runs)]


def _ordering(hook_point: str, runs: pd.DataFrame, above: str, below: str) -> Claim:
    """The claim that one objective's dictionaries are more crowded than another's at equal L0, CE increase and alive features."""
    text = f"within-dictionary cosine of {LABELS[above]} above {LABELS[below]}'s: share of the common range of"
    published, criterion = "nearly all", f"{_NEARLY_ALL} or more on each axis where the curves overlap"
    shares: dict[str, float] = {}
    why = f"no runs of {LABELS[above]} and {LABELS[below]} with the same seed"
    for axis, name in _AXES.items():
        grids = [
            on_common_range(sweep(runs, above, seed), sweep(runs, below, seed), axis, "cosine")
            for seed in common_seeds(runs, above, below)
        ]
        why = next((grid.why for grid in grids), why)
        found = [float((grid.above > grid.below).mean()) for grid in grids if not grid.why]
        if found:
            shares[name] = float(np.mean(found))
    claim = Claim(hook_point, f"{text} {', '.join(shares or _AXES.values())}", published, f"{BRAUN}, Fig. 7", criterion)
    if not shares:
        return claim.untested(why)
    low, high = min(shares.values()), max(shares.values())
    note = "equal " + ", ".join(f"{name} {share:.2f}" for name, share in shares.items())
    return claim.tested(low >= _NEARLY_ALL, np.mean(list(shares.values())), note, AXES, low, high)


def _with_fewer_alive(hook_point: str, runs: pd.DataFrame) -> Claim:
    """The claim that sparser dictionaries of one objective, with fewer features alive, are more crowded."""
    claim = Claim(
        hook_point,
        "within-dictionary cosine against alive features: rank correlation within an objective",
        "negative (no value given)",
        f"{BRAUN}, Fig. 7",
        f"negative with p < {_SIGNIFICANT}, permuting the runs of each curve",
    )
    curves = [sweep(runs, objective, seed) for objective in OF_PAPER for seed in common_seeds(runs, objective)]
    curves = [c for c in curves if c["alive_features"].nunique() > 1 and c["cosine"].nunique() > 1]
    if not curves:
        return claim.untested("no runs that differ in their sparsity alone")
    pairs = [(c["alive_features"].to_numpy(), c["cosine"].to_numpy()) for c in curves]
    smallest = math.prod(1 / math.factorial(len(c)) for c in curves)
    if smallest >= _SIGNIFICANT:
        return claim.untested(f"so few runs on a curve that no order has p < {_SIGNIFICANT} (smallest possible: {smallest:.2f})")
    each, p_value = falling_together(pairs)
    note = f"{len(curves)} curves of {sum(map(len, curves))} runs, p = {p_value:.3g}"
    passed = p_value < _SIGNIFICANT
    return claim.tested(passed, np.mean(each), note, CURVES, min(each), max(each))


def falling_together(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[list[float], float]:
    """Spearman's rank correlation of each pair of arrays, and the p-value of their mean being so low.

    The p-value is the share of random orders, drawn apart for each pair, whose mean is no higher; the actual one counts among them.
    """
    generator = np.random.default_rng(derive_seed("order of crowding"))
    each, shuffled = [], np.zeros(_SHUFFLES)
    for x, y in pairs:
        one, two = (_standardised(values) for values in (x, y))
        each.append(float(one @ two))
        shuffled += generator.permuted(np.broadcast_to(two, (_SHUFFLES, len(two))), axis=1) @ one
    as_low = shuffled <= sum(each) + 1e-9  # rounding
    return each, (1 + int(as_low.sum())) / (1 + _SHUFFLES)


def _standardised(values: np.ndarray) -> np.ndarray:
    """Ranks with mean zero and norm one."""
    ranks = pd.Series(values).rank().to_numpy()
    ranks = ranks - ranks.mean()
    return ranks / np.linalg.norm(ranks)


def _across_seeds(hook_point: str, tables: Path) -> pd.DataFrame:
    """Mean nearest cosines of decoders, both ways: of each pair of seeds, or of all pairs of a setting where these have an interval."""
    names = ["directions", "features", "value", "ci_low", "ci_high", "random_baseline"]
    pairs = of_first_run(tables, "geometry", [*names, "comparison", "direction"])
    pairs = pairs[(pairs["comparison"] == "cross_seed") & (pairs["direction"] == "both")].assign(n_pairs=1)
    summed = of_first_run(tables, "matching", [*names, "metric", "resampled", "n_pairs"])
    summed = summed[(summed["metric"] == "nearest_both") & (summed["resampled"] == "seed pairs")]
    found = pd.concat([pairs[~pairs["settings"].isin(summed["settings"])], summed], ignore_index=True)
    found = found[(found["directions"] == "decoder") & (found["features"] == "alive") & (found["hook_point"] == hook_point)]
    return found[found["run"].isin(of_one_architecture(read_runs(tables))["run"])]


def _seeds(hook_point: str, tables: Path) -> list[Claim]:
    """Nearest neighbours across seeds (Fig. 3b).

    Intervals are over seeds for settings with three or more, else over the features of each pair.
    """
    across = _across_seeds(hook_point, tables)
    rows: list[Claim] = []
    bounds = {}
    for objective, published in (("local", "near 1"), ("e2e_ds", "near 1"), ("e2e", "mostly low")):
        # "Near" needs a scale: in few dimensions even random directions have a near neighbour.
        side = "below" if objective == "e2e" else "above"
        claim = Claim(
            hook_point,
            f"nearest cosine across seeds, {LABELS[objective]}: {published}",
            f"{published} (no mean given)",
            f"{BRAUN}, Fig. 3b",
            f"interval {side} the middle between random directions and 1" + (" and below local's" if objective == "e2e" else ""),
        )
        here = across[across["objective"] == objective]
        if here.empty:
            rows.append(claim.untested("no two runs differ in their seed only"))
            continue
        if here["ci_low"].isna().any():
            rows.append(claim.untested("too few alive features for an interval"))
            continue
        middle = (1 + here["random_baseline"]) / 2
        low, high = bounds[objective] = (here["ci_low"].min(), here["ci_high"].max())
        passed = (here["ci_low"] > middle).all()
        if objective == "e2e":
            passed = (here["ci_high"] < middle).all() and high < bounds.get("local", (np.inf, np.inf))[0]
        n_pairs = int(here["n_pairs"].sum())
        note = f"{n_pairs} pair{'s' if n_pairs > 1 else ''} of seeds, random directions {here['random_baseline'].mean():.3f}"
        over = SEEDS if (here["n_pairs"] > 1).all() else FEATURES
        rows.append(claim.tested(passed, here["value"].mean(), note, over, low, high))
    return rows


def _cross_objective(hook_point: str, tables: Path) -> list[Claim]:
    """Nearest neighbours in the dictionary of another objective (Fig. 3c)."""
    geometry = decoder_geometry(tables)
    geometry = geometry[(geometry["comparison"] == "cross_objective") & (geometry["hook_point"] == hook_point)]
    selected = similar_runs(tables, hook_point)
    runs = selected["run"]
    rows, means = [], {}
    for objective in ("e2e", "e2e_ds"):
        if {objective, "local"} <= set(runs.index):
            a, b = (geometry["run_a"], geometry["run_b"])
            forth = (a == runs[objective]) & (b == runs["local"]) & (geometry["direction"] == "a_to_b")
            back = (a == runs["local"]) & (b == runs[objective]) & (geometry["direction"] == "b_to_a")
            found = geometry[forth | back].dropna(subset=["value", "ci_low"])
            means |= {objective: found.iloc[0]} if len(found) else {}
    criterion = "interval below the middle between random directions and 1"
    claim = Claim(
        hook_point,
        "nearest cosine from e2e to local: low",
        "low, with a group near 0 (no mean given)",
        f"{BRAUN}, Fig. 3c",
        criterion,
    )
    if "e2e" in means:
        mean = means["e2e"]
        passed = mean["ci_high"] < (1 + mean["random_baseline"]) / 2
        note = f"random directions {mean['random_baseline']:.3f}; {increases(selected, 'e2e', 'local')}"
        rows.append(claim.tested(passed, mean["value"], note, FEATURES, mean["ci_low"], mean["ci_high"]))
    else:
        rows.append(claim.untested(NOT_SIMILAR))
    claim = Claim(
        hook_point,
        "nearest cosine to local: e2e+ds − e2e",
        "above 0 (no means given)",
        f"{BRAUN}, Fig. 3c",
        "intervals apart, e2e+ds above",
    )
    if len(means) == 2:
        one, other = means["e2e_ds"], means["e2e"]
        note = " and ".join(f"{mean['value']:.3f} [{mean['ci_low']:.3f}, {mean['ci_high']:.3f}]" for mean in (one, other))
        note += f"; {increases(selected, 'e2e_ds', 'e2e', 'local')}"
        passed = one["ci_low"] > other["ci_high"]
        rows.append(claim.tested(passed, one["value"] - other["value"], note, "of each mean, in the note"))
    else:
        rows.append(claim.untested(NOT_SIMILAR))
    return rows
