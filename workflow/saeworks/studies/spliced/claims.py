"""Questions of the plan of `braun2024` on several SAEs at once; no paper has numbers on them.

A set that was trained together is compared with the same hook points' SAEs that were trained alone. Its SAEs in the model one by one read
values that they never saw in training, so the sum of their single increases is not used: where a sum is needed, it is that of SAEs trained
alone.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd

from ..claim import Claim
from ..reading import kind_name
from ..tables import read_table

_SOURCE, _PUBLISHED = "plan of braun2024", "no number: a question of the plan"
_SET = ["hook_points", "name"]
_COLUMNS = [*_SET, "trained", "objective", "architecture", "sparsity_coeff", "k", "seed", "ce_increase", "sum_of_single"]


def claims(hook_point: str, tables: Path) -> list[Claim]:
    """The three questions on each kind of SAEs of each set of hook points that begins with this one."""
    sets = read_table(tables, "spliced", _COLUMNS)
    l0 = read_table(tables, "spliced_saes", [*_SET, "l0_set"]).groupby(_SET)["l0_set"].mean().rename("l0")
    sets = sets[sets["hook_points"].str.split(" + ", regex=False).str[0] == hook_point].join(l0, on=_SET)
    sparsity = sets["sparsity_coeff"].fillna(sets["k"].astype("float64"))  # λ or k, one of which a run has
    sets = sets.assign(sparsity=sparsity.astype("float64"))
    rows = []
    for (points, objective, architecture), here in sets.groupby(["hook_points", "objective", "architecture"], sort=False):
        what = f"{points}, {kind_name(objective, architecture, sets)}"
        alone, together = (here[here["trained"] == trained] for trained in ("alone", "together"))
        rows.append(_adding_up(hook_point, what, alone))
        rows.append(_at_equal_sparsity(hook_point, what, alone, together))
        rows.append(_at_equal_l0(hook_point, what, alone, together))
    return rows


def _claim(hook_point: str, text: str, target: float) -> Claim:
    return Claim(hook_point, text, _PUBLISHED, _SOURCE, 1.0, target, ratio=True)


def _adding_up(hook_point: str, what: str, alone: pd.DataFrame) -> Claim:
    """(a) Whether the errors of SAEs trained alone add up to more than their sum."""
    text = f"{what}: CE increase with all SAEs, trained alone, over the sum of the increases with each"
    claim = _claim(hook_point, text, math.inf)
    if alone.empty:
        return claim.untested("no SAEs trained alone are at these hook points")
    logs = _over_sparsities(alone.assign(value=_log(alone["ce_increase"]) - _log(alone["sum_of_single"])))
    return claim.over_seeds(list(np.exp(logs)), f"{len(alone)} sets")


def _at_equal_sparsity(hook_point: str, what: str, alone: pd.DataFrame, together: pd.DataFrame) -> Claim:
    """(b) Whether that share of the sum is lower for SAEs trained together; the sum, of SAEs trained alone, is the same for both."""
    text = (
        f"{what}: CE increase with all SAEs over the sum of the increases with each trained alone, of those trained together over those "
        "trained alone, at equal λ or k"
    )
    claim = _claim(hook_point, text, -math.inf)
    both = together.merge(alone, on=["sparsity", "seed"], suffixes=("", "_alone"))
    if both.empty:
        return claim.untested("no SAEs trained together and alone have the same sparsity and seed")
    own, base = (_log(both[f"ce_increase{of}"]) - _log(both["sum_of_single_alone"]) for of in ("", "_alone"))
    shares = " and ".join(f"{math.exp(value):.2f}" for value in (own.mean(), base.mean()))
    logs = _over_sparsities(both.assign(value=own - base))
    return claim.over_seeds(list(np.exp(logs)), f"{shares} of the sum, {len(both)} pairs of sets")


def _at_equal_l0(hook_point: str, what: str, alone: pd.DataFrame, together: pd.DataFrame) -> Claim:
    """(c) Whether a set trained together costs less at an equal L0, the mean over its SAEs: at the middle of the range that both have."""
    text = f"{what}: CE increase with all SAEs at equal mean L0, trained together over trained alone"
    claim = _claim(hook_point, text, -math.inf)
    seeds = sorted(set(alone["seed"]) & set(together["seed"]))
    if not seeds:
        return claim.untested("no SAEs trained together and alone have the same seed")
    logs, middles = [], []
    for seed in seeds:
        curves = [
            here[here["seed"] == seed].assign(value=_log(here["ce_increase"])).groupby("l0")["value"].mean()
            for here in (together, alone)
        ]
        start, stop = max(curve.index[0] for curve in curves), min(curve.index[-1] for curve in curves)
        if start >= stop:
            return claim.untested(f"the ranges of L0 of those trained together and alone have nothing in common in seed {seed}")
        middles.append((start + stop) / 2)
        own, base = (float(np.interp(middles[-1], curve.index, curve.to_numpy())) for curve in curves)
        logs.append(own - base)
    return claim.over_seeds(list(np.exp(logs)), f"at a mean L0 of {min(middles):.1f} to {max(middles):.1f}")


def _log(increases: pd.Series) -> pd.Series:
    """NaN where there is no increase."""
    return np.log(increases.where(increases > 0))


def _over_sparsities(table: pd.DataFrame) -> pd.Series:
    """By seed the mean of `value` over the sparsities that every seed has; NaN where one is."""
    seeds = table.groupby("sparsity")["seed"].nunique()
    common = table[table["sparsity"].isin(seeds[seeds == table["seed"].nunique()].index)]
    return common.groupby("seed")["value"].agg(lambda values: values.mean(skipna=False))
