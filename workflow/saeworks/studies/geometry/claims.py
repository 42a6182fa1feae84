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
from ..claim import CONFIDENCE, OF_PAPER, Claim, judged_on, of_one_architecture
from ..curves import (
    at_ce,
    at_ceiling,
    at_equal_ce,
    common_seeds,
    of_one_family,
    on_common_range,
    shares_at_equal_alive,
    sweep,
)
from ..paper import BRAUN
from ..reading import LABELS, read_metrics
from ..resampling import pair_interval
from ..tables import read_table

_GEOMETRY = ["hook_point", "comparison", "run_a", "run_b", "directions", "features", "direction", "value", "random_baseline"]
_AXES = {"l0": "L0", "ce_increase": "CE increase", "alive_features": "alive features"}
_RESAMPLING = ResamplingConfig(confidence=CONFIDENCE)
_ONE_SEED = "no two runs differ in their seed only"
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
    """The runs of the compared architecture at a hook point, of one family an objective, with what they cost and `cosine`, their mean
    nearest cosine within."""
    geometry = decoder_geometry(tables)
    within = geometry.loc[geometry["comparison"] == "within", ["run_a", "value"]].rename(columns={"value": "cosine"})
    costs = read_metrics(tables, ["l0", "ce_increase"], judged_on(tables))
    alive = read_metrics(tables, ["alive_features", "alive_fraction"])[["run", "alive_features", "alive_fraction"]]
    runs = of_one_architecture(costs.merge(alive, on="run"))
    runs = runs[runs["hook_point"] == hook_point].merge(within, left_on="run", right_on="run_a")
    return of_one_family(runs.dropna(subset=[*_AXES, "cosine"]))


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

    Each seed's value is the mean over axes of the mean difference along the common range. The axes are those on which the curves of
    every seed can be compared; if there is none, those on which any can. Counts of alive features at their ceiling are none.
    """
    text = f"within-dictionary cosine along the curves, {LABELS[above]} − {LABELS[below]}"
    claim = Claim(hook_point, text, "above 0 nearly everywhere", f"{BRAUN}, Fig. 7", 0.0, math.inf)
    seeds = common_seeds(runs, above, below)
    by_axis: dict[str, dict[int, float]] = {}
    why = f"no runs of {LABELS[above]} and {LABELS[below]} with the same seed"
    ceiling = at_ceiling(shares_at_equal_alive(runs, above, below))
    for axis in [axis for axis in _AXES if axis != "alive_features" or not ceiling]:
        grids = {seed: on_common_range(sweep(runs, above, seed), sweep(runs, below, seed), axis, "cosine") for seed in seeds}
        why = next((grid.why for grid in grids.values() if grid.why), why)
        by_axis[axis] = {seed: float((grid.above - grid.below).mean()) for seed, grid in grids.items() if not grid.why}
    compared = {axis: found for axis, found in by_axis.items() if found}
    compared = {axis: found for axis, found in compared.items() if len(found) == len(seeds)} or compared
    complete = [seed for seed in seeds if compared and all(seed in found for found in compared.values())]
    if not complete:
        return claim.untested(why)
    values = [float(np.mean([found[seed] for found in compared.values()])) for seed in complete]
    means = {axis: np.mean([found[seed] for seed in complete]) for axis, found in compared.items()}
    note = "at equal " + ", ".join(f"{_AXES[axis]} {mean:+.3f}" for axis, mean in means.items())
    return claim.over_seeds(values, (f"{note}; {ceiling}" if ceiling else note).replace("-", "−"))


def _with_fewer_alive(hook_point: str, runs: pd.DataFrame) -> Claim:
    """The claim that sparser dictionaries of one objective, with fewer features alive, are more crowded."""
    text = "within-dictionary cosine against alive features: rank correlation along a curve, mean over objectives"
    claim = Claim(hook_point, text, "negative (no value given)", f"{BRAUN}, Fig. 7", 0.0, -math.inf)
    found: dict[int, list[float]] = {}
    shares: dict[str, list[float]] = {}
    for objective in OF_PAPER:
        for seed in common_seeds(runs, objective):
            curve = sweep(runs, objective, seed)
            if len(curve) > 2 and curve["alive_features"].nunique() > 1 and curve["cosine"].nunique() > 1:
                found.setdefault(seed, []).append(float(curve["alive_features"].rank().corr(curve["cosine"].rank())))
                shares.setdefault(objective, []).append(float(curve["alive_fraction"].mean()))
    complete = {seed: each for seed, each in found.items() if len(each) == len(OF_PAPER)}
    if not complete:
        return claim.untested("no seed in which every objective has three runs that differ in their sparsity alone")
    each = [value for values in complete.values() for value in values]
    tested = claim.over_seeds(
        [np.mean(values) for values in complete.values()],
        f"{len(each)} curves, {min(each):.2f} to {max(each):.2f}".replace("-", "−"),
    )
    return claim.untested(ceiling, tested.ours) if (ceiling := at_ceiling(shares)) else tested


def _across_seeds(hook_point: str, tables: Path) -> pd.DataFrame:
    """Pairs of runs that differ in their seed alone: objective, family, settings, seeds, cosine, excess and ce_increase.

    `cosine` is the mean nearest cosine of both directions, `excess` the same above random directions as a share of what is left to 1,
    `ce_increase` the mean of the two runs'. Only settings with as many seeds as the one with the most count, so that every pair
    of seeds is of the same settings, and only one family an objective, as in curves.
    """
    geometry = decoder_geometry(tables)
    pairs = geometry[
        (geometry["comparison"] == "cross_seed") & (geometry["direction"] == "both") & (geometry["hook_point"] == hook_point)
    ]
    runs = of_one_architecture(read_metrics(tables, ["ce_increase"], judged_on(tables)))
    runs = of_one_family(runs[runs["hook_point"] == hook_point]).set_index("run")
    pairs = pairs[pairs["run_a"].isin(runs.index)].dropna(subset="value")
    of_pair = {
        f"{name}_{end}": runs.loc[pairs[f"run_{end}"], name].to_numpy() for name in ("seed", "ce_increase") for end in "ab"
    }
    of_run = {name: runs.loc[pairs["run_a"], name].to_numpy() for name in ("objective", "family", "settings")}
    pairs = pairs.assign(**of_pair, **of_run, cosine=pairs["value"])
    pairs["ce_increase"] = (pairs["ce_increase_a"] + pairs["ce_increase_b"]) / 2
    pairs["excess"] = (pairs["cosine"] - pairs["random_baseline"]) / (1 - pairs["random_baseline"])
    n_pairs = pairs.groupby(["objective", "settings"])["excess"].transform("size")
    return pairs[n_pairs == n_pairs.groupby(pairs["objective"]).transform("max")]


def _seeds(hook_point: str, tables: Path) -> list[Claim]:
    """Nearest neighbours across seeds (Fig. 3b): of one objective over all settings, of two at equal CE increase."""
    across, source = _across_seeds(hook_point, tables), f"{BRAUN}, Fig. 3b"
    means = {"excess": ("excess", "mean"), "cosine": ("cosine", "mean"), "n_settings": ("settings", "nunique")}
    of_objective = across.groupby(["objective", "seed_a", "seed_b"], as_index=False).agg(**means)
    rows = []
    for objective in ("local", "e2e_ds"):
        text = f"nearest cosine across seeds, {LABELS[objective]}: excess over random directions, as a share of what is left to 1"
        claim = Claim(hook_point, text, "near 1 (no mean given)", source, 0.0, _NEAR)
        here = of_objective[of_objective["objective"] == objective]
        note = f"mean cosine {here['cosine'].mean():.3f}, {here['n_settings'].max()} settings" if len(here) else ""
        rows.append(_of_pairs(claim, here, "excess", note))
    text = "nearest cosine across seeds at equal CE increase, e2e − local"
    claim = Claim(hook_point, text, "below 0: e2e mostly low, local near 1", source, 0.0, -math.inf)
    if across.empty:
        return [*rows, claim.untested(_ONE_SEED)]
    of_pair = across["seed_a"].astype(str) + "," + across["seed_b"].astype(str)
    found, ce, why = at_equal_ce(across.assign(seed=of_pair), "cosine", "e2e", "local")
    if why:
        return [*rows, claim.untested(why.replace("no seed", "no pair of seeds"))]
    ends = found.index.str.split(",", expand=True).to_frame(index=False).astype(int)
    difference = pd.DataFrame({"seed_a": ends[0], "seed_b": ends[1], "difference": (found["e2e"] - found["local"]).to_numpy()})
    note = f"{found['e2e'].mean():.3f} and {found['local'].mean():.3f} at a CE increase of {ce:.3f} nats"
    return [*rows, _of_pairs(claim, difference, "difference", note)]


def _of_pairs(claim: Claim, pairs: pd.DataFrame, value: str, note: str) -> Claim:
    """The claim on the mean over pairs of seeds, with the jackknife interval over seeds."""
    if pairs.empty:
        return claim.untested(_ONE_SEED)
    seeds = list(zip(pairs["seed_a"], pairs["seed_b"], strict=True))
    ours, low, high = pair_interval(pairs[value].to_numpy(), seeds, _RESAMPLING, "claims")
    note = f"{len(pairs)} pair{'s' if len(pairs) > 1 else ''} of seeds, {note}"
    return claim.tested(ours, low, high, len({seed for pair in seeds for seed in pair}), note)


def _cross_objective(hook_point: str, tables: Path) -> list[Claim]:
    """Nearest neighbours in the dictionary of local (Fig. 3c), where both runs have the same CE increase."""
    of = f"{BRAUN}, Fig. 3c"
    first = Claim(
        hook_point, "nearest cosine from e2e to local at equal CE increase, less that of local to local of another seed",
        "low, with a group near 0 (no mean given)", of, 0.0, -math.inf,
    )  # fmt: skip
    second = Claim(
        hook_point, "nearest cosine to local at equal CE increase: e2e+ds − e2e", "above 0 (no means given)", of, 0.0, math.inf
    )
    runs = _dictionaries(hook_point, tables)
    geometry = decoder_geometry(tables)
    compared = geometry["run_a"].isin(runs["run"]) & geometry["run_b"].isin(runs["run"])
    pairs = geometry[(geometry["comparison"] == "to_local") & compared]
    of_run = runs.set_index("run")
    ends = {f"ce_{end}": of_run.loc[pairs[f"run_{end}"], "ce_increase"].to_numpy() for end in "ab"}
    pairs = pairs.assign(**ends, **{name: of_run.loc[pairs["run_a"], name].to_numpy() for name in ("objective", "seed")}).dropna(
        subset="value"
    )
    return [_far_from_local(first, runs, pairs, _across_seeds(hook_point, tables)), _nearer_to_local(second, runs, pairs)]


def _to_local(pairs: pd.DataFrame, objective: str, seeds: list[int], ce: float) -> pd.Series:
    """By seed, the mean nearest cosine from an objective to local where both cost `ce`; without seeds in which it was not measured there."""
    here = pairs[pairs["objective"] == objective]
    return pd.Series({seed: at_ce(here[here["seed"] == seed], ce, "value") for seed in seeds}, dtype=float).dropna()


def _far_from_local(claim: Claim, runs: pd.DataFrame, pairs: pd.DataFrame, across: pd.DataFrame) -> Claim:
    """The claim on e2e's cosine to local less that of local across seeds: for each pair of seeds, the mean of theirs less that across the two."""
    found, ce, why = at_equal_ce(runs, "cosine", "e2e", "local")
    if why:
        return claim.untested(why)
    to_local, values = _to_local(pairs, "e2e", list(found.index), ce), []
    for (one, two), curve in across[across["objective"] == "local"].groupby(["seed_a", "seed_b"]):
        curve = curve.sort_values("ce_increase")
        within = len(curve) > 1 and curve["ce_increase"].iloc[0] <= ce <= curve["ce_increase"].iloc[-1]
        if within and {one, two} <= set(to_local.index):
            own = float(np.interp(ce, curve["ce_increase"], curve["cosine"]))
            values.append((one, two, (to_local[one] + to_local[two]) / 2, own))
    if not values:
        why = f"cosines from e2e to local, or of local across seeds, were not measured on both sides of {ce:.3f} nats"
        return claim.untested(why)
    table = pd.DataFrame(values, columns=["seed_a", "seed_b", "to_local", "own"])
    table["difference"] = table["to_local"] - table["own"]
    note = f"{table['to_local'].mean():.3f} and {table['own'].mean():.3f} at a CE increase of {ce:.3f} nats"
    return _of_pairs(claim, table, "difference", note)


def _nearer_to_local(claim: Claim, runs: pd.DataFrame, pairs: pd.DataFrame) -> Claim:
    """The claim on e2e+ds's cosine to local less e2e's, seed by seed."""
    found, ce, why = at_equal_ce(runs, "cosine", "e2e_ds", "e2e", "local")
    if why:
        return claim.untested(why)
    one, other = (_to_local(pairs, objective, list(found.index), ce) for objective in ("e2e_ds", "e2e"))
    difference = (one - other).dropna()
    if difference.empty:
        return claim.untested(f"cosines to local were not measured on both sides of {ce:.3f} nats")
    seeds = difference.index
    return claim.over_seeds(
        difference, f"{one[seeds].mean():.3f} and {other[seeds].mean():.3f} at a CE increase of {ce:.3f} nats"
    )
