"""Claims on dictionaries: nearest neighbours within one, across seeds and across objectives.

A value is computed for each dictionary as a whole, and its interval is over training seeds: nearest neighbours within a dictionary are
often each other's, so its features are no independent sample.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd

from ...config.resampling import ResamplingConfig
from ..claim import CONFIDENCE, OF_PAPER, Claim, chosen_runs, judged_on, of_one_architecture
from ..curves import at_equal_ce, common_seeds, on_common_range, sweep
from ..paper import BRAUN
from ..reading import LABELS, read_metrics, read_runs
from ..resampling import pair_interval
from ..tables import read_table

_GEOMETRY = ["hook_point", "comparison", "run_a", "run_b", "directions", "features", "direction", "value", "random_baseline"]
_AXES = {"l0": "L0", "ce_increase": "CE increase", "alive_features": "alive features"}
_RESAMPLING = ResamplingConfig(confidence=CONFIDENCE)
_NEAR = 0.5  # "near 1": nearer to it than to random directions


def claims(hook_point: str, tables: Path) -> list[Claim]:
    """Claims on nearest neighbours within a dictionary, across seeds and across objectives."""
    found = (_within, _crowding, _seeds, _cross_objective)
    return [claim for claims_of in found for claim in claims_of(hook_point, tables)]


def decoder_geometry(tables: Path) -> pd.DataFrame:
    """Rows of the table of geometry about alive decoder directions."""
    geometry = read_table(tables, "geometry", _GEOMETRY)
    return geometry[(geometry["directions"] == "decoder") & (geometry["features"] == "alive")]


def _dictionaries(hook_point: str, tables: Path) -> pd.DataFrame:
    """The runs of the compared architecture at a hook point with what they cost and `cosine`, their mean nearest cosine within."""
    geometry = decoder_geometry(tables)
    within = geometry.loc[geometry["comparison"] == "within", ["run_a", "value"]].rename(columns={"value": "cosine"})
    costs = read_metrics(tables, ["l0", "ce_increase"], judged_on(tables))
    alive = read_metrics(tables, ["alive_features"])[["run", "alive_features"]]
    runs = of_one_architecture(costs.merge(alive, on="run"))
    runs = runs[runs["hook_point"] == hook_point].merge(within, left_on="run", right_on="run_a")
    return runs.dropna(subset=[*_AXES, "cosine"])


def _within(hook_point: str, tables: Path) -> list[Claim]:
    """Nearest neighbours within the dictionaries of runs at equal CE increase (Fig. 3a)."""
    runs, rows = _dictionaries(hook_point, tables), []
    for other, published, target in (("e2e_ds", "0.040 [0.037, 0.043]", 0.040), ("e2e", "0.166 [0.163, 0.168]", 0.166)):
        text = f"within-dictionary nearest cosine at equal CE increase, local − {LABELS[other]}"
        claim = Claim(hook_point, text, published, f"{BRAUN}, Fig. 3a", 0.0, target)
        found, ce, why = at_equal_ce(runs, "cosine", "local", other)
        if why:
            rows.append(claim.untested(why))
            continue
        means = " and ".join(f"{found[objective].mean():.3f}" for objective in ("local", other))
        rows.append(claim.over_seeds(found["local"] - found[other], f"{means} at a CE increase of {ce:.3f} nats"))
    return rows


def _crowding(hook_point: str, tables: Path) -> list[Claim]:
    """Crowding of every dictionary of the sweep over sparsities (Fig. 7)."""
    runs = _dictionaries(hook_point, tables)
    pairs = (("local", "e2e_ds"), ("e2e_ds", "e2e"), ("local", "e2e"))
    return [*(_ordering(hook_point, runs, *pair) for pair in pairs), _with_fewer_alive(hook_point, runs)]


def _ordering(hook_point: str, runs: pd.DataFrame, above: str, below: str) -> Claim:
    """The claim that one objective's dictionaries are more crowded than another's along curves of equal L0, CE increase and alive features.

    Each seed's value is the mean over the axes on which all its curves can be compared of the mean difference along the common range.
    """
    text = f"within-dictionary cosine along the curves, {LABELS[above]} − {LABELS[below]}"
    claim = Claim(hook_point, text, "above 0 nearly everywhere", f"{BRAUN}, Fig. 7", 0.0, math.inf)
    seeds = common_seeds(runs, above, below)
    by_axis: dict[str, dict[int, float]] = {}
    why = f"no runs of {LABELS[above]} and {LABELS[below]} with the same seed"
    for axis in _AXES:
        grids = {seed: on_common_range(sweep(runs, above, seed), sweep(runs, below, seed), axis, "cosine") for seed in seeds}
        why = next((grid.why for grid in grids.values() if grid.why), why)
        by_axis[axis] = {seed: float((grid.above - grid.below).mean()) for seed, grid in grids.items() if not grid.why}
    compared = {axis: found for axis, found in by_axis.items() if found}
    complete = [seed for seed in seeds if compared and all(seed in found for found in compared.values())]
    if not complete:
        return claim.untested(why)
    values = [float(np.mean([found[seed] for found in compared.values()])) for seed in complete]
    note = "at equal " + ", ".join(f"{_AXES[axis]} {np.mean(list(found.values())):+.3f}" for axis, found in compared.items())
    return claim.over_seeds(values, note.replace("-", "−"))


def _with_fewer_alive(hook_point: str, runs: pd.DataFrame) -> Claim:
    """The claim that sparser dictionaries of one objective, with fewer features alive, are more crowded."""
    text = "within-dictionary cosine against alive features: rank correlation along a curve, mean over objectives"
    claim = Claim(hook_point, text, "negative (no value given)", f"{BRAUN}, Fig. 7", 0.0, -math.inf)
    found: dict[int, list[float]] = {}
    for objective in OF_PAPER:
        for seed in common_seeds(runs, objective):
            curve = sweep(runs, objective, seed)
            if len(curve) > 2 and curve["alive_features"].nunique() > 1 and curve["cosine"].nunique() > 1:
                found.setdefault(seed, []).append(float(curve["alive_features"].rank().corr(curve["cosine"].rank())))
    complete = {seed: each for seed, each in found.items() if len(each) == len(OF_PAPER)}
    if not complete:
        return claim.untested("no seed in which every objective has three runs that differ in their sparsity alone")
    each = [value for values in complete.values() for value in values]
    return claim.over_seeds(
        [np.mean(values) for values in complete.values()],
        f"{len(each)} curves, {min(each):.2f} to {max(each):.2f}".replace("-", "−"),
    )


def _across_seeds(hook_point: str, tables: Path) -> pd.DataFrame:
    """Pairs of runs that differ in their seed alone: objective, seeds and `excess`, the mean nearest cosine of both directions.

    As an excess over random directions, as a share of what is left to 1; averaged over the settings of an objective. Only settings with
    as many seeds as the one with the most count, so that every pair of seeds is of the same settings.
    """
    geometry = decoder_geometry(tables)
    pairs = geometry[
        (geometry["comparison"] == "cross_seed") & (geometry["direction"] == "both") & (geometry["hook_point"] == hook_point)
    ]
    runs = of_one_architecture(read_runs(tables)).set_index("run")
    pairs = pairs[pairs["run_a"].isin(runs.index)].dropna(subset="value")
    seeds = [pairs[column].map(runs["seed"]) for column in ("run_a", "run_b")]
    of_run = {name: pairs["run_a"].map(runs[name]) for name in ("objective", "settings")}
    pairs = pairs.assign(**of_run, seed_a=seeds[0], seed_b=seeds[1])
    pairs["excess"] = (pairs["value"] - pairs["random_baseline"]) / (1 - pairs["random_baseline"])
    n_pairs = pairs.groupby(["objective", "settings"])["excess"].transform("size")
    pairs = pairs[n_pairs == n_pairs.groupby(pairs["objective"]).transform("max")]
    numbers = {"excess": ("excess", "mean"), "cosine": ("value", "mean"), "n_settings": ("settings", "nunique")}
    return pairs.groupby(["objective", "seed_a", "seed_b"], as_index=False).agg(**numbers)


def _seeds(hook_point: str, tables: Path) -> list[Claim]:
    """Nearest neighbours across seeds (Fig. 3b)."""
    across, source = _across_seeds(hook_point, tables), f"{BRAUN}, Fig. 3b"
    rows = []
    for objective in ("local", "e2e_ds"):
        text = f"nearest cosine across seeds, {LABELS[objective]}: excess over random directions, as a share of what is left to 1"
        claim = Claim(hook_point, text, "near 1 (no mean given)", source, 0.0, _NEAR)
        rows.append(_of_pairs(claim, across[across["objective"] == objective], "excess"))
    text = "nearest cosine across seeds, e2e − local"
    claim = Claim(hook_point, text, "below 0: e2e mostly low, local near 1", source, 0.0, -math.inf)
    both = [across[across["objective"] == objective].set_index(["seed_a", "seed_b"])["cosine"] for objective in ("e2e", "local")]
    difference = (both[0] - both[1]).dropna().rename("cosine").reset_index()
    return [*rows, _of_pairs(claim, difference, "cosine")]


def _of_pairs(claim: Claim, pairs: pd.DataFrame, value: str) -> Claim:
    """The claim on the mean over pairs of seeds, with the jackknife interval over seeds."""
    if pairs.empty:
        return claim.untested("no two runs differ in their seed only")
    seeds = list(zip(pairs["seed_a"], pairs["seed_b"], strict=True))
    ours, low, high = pair_interval(pairs[value].to_numpy(), seeds, _RESAMPLING, "claims")
    note = f"{len(pairs)} pair{'s' if len(pairs) > 1 else ''} of seeds"
    if "n_settings" in pairs:
        note += f", mean cosine {pairs['cosine'].mean():.3f}, {pairs['n_settings'].max()} settings"
    return claim.tested(ours, low, high, len({seed for pair in seeds for seed in pair}), note)


def _cross_objective(hook_point: str, tables: Path) -> list[Claim]:
    """Nearest neighbours in the dictionary of another objective (Fig. 3c), seed by seed.

    Of the runs that were chosen for similar CE increase among those in three seeds.
    """
    geometry = decoder_geometry(tables)
    geometry = geometry[geometry["hook_point"] == hook_point].dropna(subset="value")
    runs, chosen = read_runs(tables).set_index("run"), chosen_runs(tables, hook_point, "replicated_ce")
    alike = runs[runs["settings"].isin(chosen["settings"])]
    to_local = {objective: _nearest_local(geometry, alike, objective) for objective in ("e2e", "e2e_ds")}
    control = _nearest_local(geometry, alike, "local")
    of = f"{BRAUN}, Fig. 3c"
    first = Claim(
        hook_point, "nearest cosine from e2e to local, less that of local to local of another seed", "low, with a group near 0 (no mean given)",
        of, 0.0, -math.inf,
    )  # fmt: skip
    second = Claim(hook_point, "nearest cosine to local: e2e+ds − e2e", "above 0 (no means given)", of, 0.0, math.inf)
    return [_difference(first, to_local["e2e"], control), _difference(second, to_local["e2e_ds"], to_local["e2e"])]


def _nearest_local(geometry: pd.DataFrame, runs: pd.DataFrame, objective: str) -> pd.Series:
    """By seed, the mean nearest cosine of an objective's features in the dictionary of local of the same seed.

    Of local itself in those of its other seeds, either way.
    """
    pairs = geometry[geometry["run_a"].isin(runs.index) & geometry["run_b"].isin(runs.index)]
    kinds = [pairs[column].map(runs["objective"]) for column in ("run_a", "run_b")]
    seeds = [pairs[column].map(runs["seed"]) for column in ("run_a", "run_b")]
    if objective == "local":
        own = (pairs["comparison"] == "cross_seed") & (kinds[0] == "local") & (pairs["direction"] == "both")
        both = pd.concat([pairs[own].assign(seed=seed[own]) for seed in seeds])
        return both.groupby("seed")["value"].mean()
    crossed = (pairs["comparison"] == "cross_objective") & (seeds[0] == seeds[1])
    forth = crossed & (kinds[0] == objective) & (kinds[1] == "local") & (pairs["direction"] == "a_to_b")
    back = crossed & (kinds[0] == "local") & (kinds[1] == objective) & (pairs["direction"] == "b_to_a")
    return pairs[forth | back].assign(seed=seeds[0][forth | back]).groupby("seed")["value"].mean()


def _difference(claim: Claim, one: pd.Series, other: pd.Series) -> Claim:
    """The claim on the difference of two values of each seed."""
    found = (one - other).dropna()
    if found.empty:
        return claim.untested("no runs of similar CE increase in three seeds of each objective")
    return claim.over_seeds(found, f"{one[found.index].mean():.3f} and {other[found.index].mean():.3f}")
