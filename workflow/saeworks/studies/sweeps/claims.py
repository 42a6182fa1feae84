"""Claims on sweeps of settings (Fig. 13 to 17 of Braun et al. 2024) and on fine-tuning (Karvonen 2025).

A claim on a setting is tested where runs differ in nothing but it, their sparsity and their seed: the runs of one value and one seed are a
curve. The usual value is the one that most runs of the paper's objectives have.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..claim import OF_PAPER, Claim, judged_on, of_one_architecture
from ..curves import CurveRatio, ratio_of_curves
from ..paper import BRAUN, KARVONEN
from ..reading import read_metrics
from ..tables import read_table
from .dictionary_sweep import SWEEP as DICTIONARY
from .finetune_budget import budgets, read_budgets
from .lr_sweep import SWEEP as LEARNING_RATE
from .samples_sweep import SWEEP as SAMPLES
from .sweep import group_names, million

_PAPERS_SHARE = 0.05  # of the training tokens, of Karvonen's fine-tuning
_TOO_FEW = 0.25  # of the usual tokens; the paper's too few are an eighth


def claims(hook_point: str, tables: Path) -> list[Claim]:
    """Claims on each sweep that the experiment has, and on fine-tuning."""
    return [*_sweeps(hook_point, tables), *_finetuning(hook_point, tables)]


def _sweeps(hook_point: str, tables: Path) -> list[Claim]:
    """Learning rates, dictionary sizes and training tokens, for each objective that has such a sweep at the hook point."""
    sweeps = {LEARNING_RATE: _learning_rates, DICTIONARY: _dictionaries, SAMPLES: _samples}
    read_table(tables, "runs", [name for sweep in sweeps for name in (sweep.column, f"family_but_{sweep.column}")])
    costs = read_metrics(tables, ["l0", "ce_increase"], judged_on(tables))
    alive = read_metrics(tables, ["alive_features"])[["run", "alive_features"]]
    runs = of_one_architecture(costs.merge(alive, on="run").dropna(subset=["l0", "ce_increase", "alive_features"]))
    runs = runs[(runs["hook_point"] == hook_point) & runs["objective"].isin(OF_PAPER)]
    rows = []
    for sweep, claims_of in sweeps.items():
        groups = [group for group in sweep.groups(runs) if group[sweep.column].nunique() > 1]
        for group, name in zip(groups, group_names(groups) if groups else [], strict=True):
            rows += claims_of(hook_point, name, group, runs[sweep.column].value_counts(sort=False).idxmax())
    return rows


def _tested(claim: Claim, group: pd.DataFrame, column: str, steps: list[tuple[Any, Any]], x: str, y: str, note: str) -> Claim:
    """The claim on `y` at one value of the setting over that at another, at equal `x`: geometric mean over `steps`, seed by seed."""
    each: dict[int, list[CurveRatio]] = {}
    for seed, alike in group.groupby("seed"):
        each[seed] = [ratio_of_curves(alike[alike[column] == one], alike[alike[column] == other], x, y) for one, other in steps]
    complete = [ratios for ratios in each.values() if not any(ratio.why for ratio in ratios)]
    if not complete:
        return claim.untested(next(ratio.why for ratios in each.values() for ratio in ratios if ratio.why))
    return claim.over_seeds([float(np.exp(np.mean([math.log(ratio.mean) for ratio in ratios]))) for ratios in complete], note)


def _learning_rates(hook_point: str, name: str, group: pd.DataFrame, usual: float) -> list[Claim]:
    text = f"{name}: alive features at a higher learning rate than the usual, over it, at equal CE increase"
    claim = Claim(hook_point, text, "below 1", f"{BRAUN}, Fig. 13 to 15", 1.0, -math.inf, ratio=True)
    rates = sorted(set(group["lr"]))
    higher = [rate for rate in rates if rate > usual]
    if usual not in rates or not higher:
        return [claim.untested(f"no sweep with the learning rate of most runs, {usual:g}, and one above it")]
    note = f"{', '.join(f'{rate:g}' for rate in higher)} over {usual:g}"
    return [_tested(claim, group, "lr", [(rate, usual) for rate in higher], "ce_increase", "alive_features", note)]


def _dictionaries(hook_point: str, name: str, group: pd.DataFrame, usual: int) -> list[Claim]:
    text = f"{name}: alive features of the largest dictionary over the smallest's, at equal CE increase"
    claim = Claim(hook_point, text, "above 1", f"{BRAUN}, Fig. 16", 1.0, math.inf, ratio=True)
    sizes = sorted(set(group["d_sae"]))
    note = f"sizes {', '.join(map(str, sizes))}"
    return [_tested(claim, group, "d_sae", [(sizes[-1], sizes[0])], "ce_increase", "alive_features", note)]


def _samples(hook_point: str, name: str, group: pd.DataFrame, usual: int) -> list[Claim]:
    numbers = sorted(set(group["n_tokens"]))
    from_half = [n for n in numbers if n > 0.49 * usual]  # training rounds down to whole batches
    more, lacking = numbers[-1] > usual, "half the usual number and more than that"
    text, source = f"{name}: CE increase at equal L0 with", f"{BRAUN}, Fig. 17"
    most = f"{text} the most tokens, over that with half the usual number"
    ends = [(from_half[-1], from_half[0])] if more and len(from_half) > 1 else []
    if group["objective"].iloc[0] == "e2e_ds":
        upto = [n for n in numbers if n <= usual]
        text = f"{text} the usual number of tokens, over that with the fewest"
        claim = Claim(hook_point, text, "below 1: improves up to 400k samples", source, 1.0, -math.inf, ratio=True)
        return [_of_tokens(claim, group, [(upto[-1], upto[0])] if len(upto) > 1 else [], "less than the usual number")]
    if group["objective"].iloc[0] == "e2e":
        claim = Claim(hook_point, most, "below 1: improves to 800k samples", source, 1.0, -math.inf, ratio=True)
        return [_of_tokens(claim, group, ends, lacking)]
    few = sorted((n for n in numbers if n <= _TOO_FEW * usual and usual in numbers), key=lambda n: abs(np.log(8 * n / usual)))
    text = f"{text} few tokens, over that with the usual number"
    too_few = Claim(hook_point, text, "clearly above 1 at an eighth", source, 1.0, math.inf, ratio=True)
    enough = Claim(hook_point, most, "≈ 1: 200k ≈ 400k ≈ 800k samples", source, 0.9, math.inf, ratio=True)
    return [
        _of_tokens(too_few, group, [(n, usual) for n in few[:1]], "a quarter of the usual number or less"),
        _of_tokens(enough, group, ends, lacking),
    ]


def _of_tokens(claim: Claim, group: pd.DataFrame, steps: list[tuple[int, int]], lacking: str) -> Claim:
    """The claim on CE increases at equal L0 with one number of tokens over another."""
    if not steps:
        numbers = ", ".join(million(n) for n in sorted(set(group["n_tokens"])))
        return claim.untested(f"no sweep of tokens with {lacking} (it has {numbers})")
    note = f"{million(steps[-1][0])} over {million(steps[-1][1])} tokens"
    return _tested(claim, group, "n_tokens", steps, "l0", "ce_increase", note)


def _finetuning(hook_point: str, tables: Path) -> list[Claim]:
    """What a short end-to-end phase on a trained local SAE removes of its CE increase, also beyond what as many more tokens of the
    local objective remove; none where nothing was fine-tuned."""
    runs = read_budgets(tables, judged_on(tables))
    runs = runs[runs["hook_point"] == hook_point]
    if "finetune" not in set(runs["objective"]):
        return []
    removed = {objective: _removed(runs, objective) for objective in ("finetune", "continued")}
    text = "share of local's CE increase that fine-tuning removes"
    first = Claim(hook_point, text, "0.31 at 5 % of the tokens, 0.2 to 0.5 overall", KARVONEN, 0.0, 0.31)
    if removed["finetune"].empty:
        return [first.untested("no fine-tuned run and the local run that it continues were evaluated")]
    found = [_of_shares(first, removed["finetune"], removed["finetune"]["removed"])]
    if len(removed["continued"]):
        both = removed["finetune"].merge(removed["continued"], on=["start", "n_tokens"], suffixes=("", "_continued"))
        text = "the same, less the share that as many more tokens of the local objective remove"
        second = Claim(hook_point, text, "above 0 (no value given)", KARVONEN, 0.0, math.inf)
        differences = both["removed"] - both["removed_continued"]
        found.append(
            _of_shares(second, both, differences)
            if len(both)
            else second.untested("no local run was continued for as many tokens")
        )
    return found


def _removed(runs: pd.DataFrame, objective: str) -> pd.DataFrame:
    """For each local run, what the run that continues it on nearest to the paper's share of the tokens removes of its CE increase."""
    records = []
    for start, continued in budgets(runs, objective):
        if start["objective"] == "local" and start["ce_increase"] > 0:
            share = continued["n_tokens"] / start["n_tokens"]
            nearest = continued.loc[(share / _PAPERS_SHARE).map(np.log).abs().idxmin()]
            removed, l0 = 1 - nearest["ce_increase"] / start["ce_increase"], nearest["l0"] / start["l0"]
            records.append((start["run"], start["seed"], nearest["n_tokens"], share[nearest.name], removed, l0))
    return pd.DataFrame(records, columns=["start", "seed", "n_tokens", "share", "removed", "l0"])


def _of_shares(claim: Claim, found: pd.DataFrame, values: pd.Series) -> Claim:
    """The claim on `values`, of which each seed has the mean over its sparsities."""
    spent = ", ".join(f"{share:.3g}" for share in sorted({round(100 * share, 1) for share in found["share"]}))
    runs, l0 = f"{len(found)} run{'s' if len(found) > 1 else ''}", f"{found['l0'].min():.2f} to {found['l0'].max():.2f}"
    note = f"{runs} of {spent} % more tokens, L0 {l0} times the start's"
    return claim.over_seeds(values.groupby(found["seed"]).mean(), note)
