"""Claims on sweeps of one setting (Fig. 13 to 17 of Braun et al. 2024) and on fine-tuning (Karvonen 2025).

A claim on a setting is tested where runs differ in nothing but it, their sparsity and their seed; of these the runs of the lowest
seed are the curves, one for each value. The usual value is the one that most runs of the paper's objectives have.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..claim import OF_PAPER, RUNS, Claim, of_one_architecture
from ..curves import CurveRatio, ratio_of_curves
from ..paper import BRAUN
from ..reading import read_metrics
from ..tables import read_table
from .dictionary_sweep import SWEEP as DICTIONARY
from .finetune_budget import budgets, read_budgets
from .lr_sweep import SWEEP as LEARNING_RATE
from .samples_sweep import SWEEP as SAMPLES
from .sweep import group_names, million

_METRICS = ["l0", "alive_features", "ce_increase"]
_STEPS = "smallest and largest along the curves (no resampling)"
_PAPERS_SHARE = 0.05  # of the training tokens, of Karvonen's fine-tuning
_TOO_FEW = 0.25  # of the usual tokens; the paper's too few are an eighth


def claims(hook_point: str, tables: Path) -> list[Claim]:
    """Claims on each sweep that the experiment has, and on fine-tuning."""
    return [*_sweeps(hook_point, tables), *_finetuning(hook_point, tables)]


def _sweeps(hook_point: str, tables: Path) -> list[Claim]:
    """Learning rates, dictionary sizes and training tokens, for each objective that has such a sweep at the hook point."""
    sweeps = {LEARNING_RATE: _learning_rates, DICTIONARY: _dictionaries, SAMPLES: _samples}
    read_table(tables, "runs", [name for sweep in sweeps for name in (sweep.column, f"family_but_{sweep.column}")])
    runs = of_one_architecture(read_metrics(tables, _METRICS).dropna(subset=_METRICS))
    runs = runs[(runs["hook_point"] == hook_point) & runs["objective"].isin(OF_PAPER)]
    rows = []
    for sweep, claims_of in sweeps.items():
        of_lowest_seed = [group[group["seed"] == group["seed"].min()] for group in sweep.groups(runs)]
        groups = [group for group in of_lowest_seed if group[sweep.column].nunique() > 1]
        for group, name in zip(groups, group_names(groups) if groups else [], strict=True):
            rows += claims_of(hook_point, name, group, runs[sweep.column].value_counts(sort=False).idxmax())
    return rows


def _ratios(group: pd.DataFrame, column: str, steps: list[tuple[Any, Any]], x: str, y: str) -> list[CurveRatio]:
    """`y` at one value of the setting over that at another, at equal `x`, for each pair of values in `steps`."""
    return [ratio_of_curves(group[group[column] == one], group[group[column] == other], x, y) for one, other in steps]


def _why(ratios: list[CurveRatio]) -> str:
    return next((ratio.why for ratio in ratios if ratio.why), "")


def _learning_rates(hook_point: str, name: str, group: pd.DataFrame, usual: float) -> list[Claim]:
    claim = Claim(
        hook_point,
        f"{name}: alive features at a higher learning rate than the usual, over it, at equal CE increase",
        "below 1",
        f"{BRAUN}, Fig. 13 to 15",
        "below 1 at each higher rate",
    )
    rates = sorted(set(group["lr"]))
    higher = [rate for rate in rates if rate > usual]
    if usual not in rates or not higher:
        return [claim.untested(f"no sweep with the learning rate of most runs, {usual:g}, and one above it")]
    ratios = _ratios(group, "lr", [(rate, usual) for rate in higher], "ce_increase", "alive_features")
    if why := _why(ratios):
        return [claim.untested(why)]
    note = f"{', '.join(f'{rate:g}' for rate in higher)} over {usual:g}"
    return [_of_ratios(claim, all(r.mean < 1 for r in ratios), ratios, note)]


def _dictionaries(hook_point: str, name: str, group: pd.DataFrame, usual: int) -> list[Claim]:
    claim = Claim(
        hook_point,
        f"{name}: alive features of the largest dictionary over the smallest's, at equal CE increase",
        "above 1",
        f"{BRAUN}, Fig. 16",
        "above 1, and so from each size to the next",
    )
    sizes = sorted(set(group["d_sae"]))
    steps = _ratios(group, "d_sae", list(zip(sizes[1:], sizes, strict=False)), "ce_increase", "alive_features")
    whole = _ratios(group, "d_sae", [(sizes[-1], sizes[0])], "ce_increase", "alive_features")
    if why := _why([*steps, *whole]):
        return [claim.untested(why)]
    return [_of_ratios(claim, all(r.mean > 1 for r in [*steps, *whole]), whole, f"sizes {', '.join(map(str, sizes))}")]


def _samples(hook_point: str, name: str, group: pd.DataFrame, usual: int) -> list[Claim]:
    numbers = sorted(set(group["n_tokens"]))
    from_half = [n for n in numbers if n > 0.49 * usual]  # training rounds down to whole batches
    more, lacking = numbers[-1] > usual, "half the usual number and more than that"
    text, source = f"{name}: CE increase at equal L0 with", f"{BRAUN}, Fig. 17"
    if group["objective"].iloc[0] == "e2e_ds":
        published, criterion = "below 1: improves up to 400k samples", "below 1, and so from each number to the next"
        claim = Claim(hook_point, f"{text} the usual number of tokens, over that with the fewest", published, source, criterion)
        return [_improving(claim, group, [n for n in numbers if n <= usual], "less than the usual number")]
    claim_text = f"{text} the most tokens, over that with half the usual number"
    if group["objective"].iloc[0] == "e2e":
        published, criterion = "below 1: improves to 800k samples", "below 1, and so from each number to the next"
        return [
            _improving(Claim(hook_point, claim_text, published, source, criterion), group, from_half if more else [], lacking)
        ]
    enough = Claim(hook_point, claim_text, "≈ 1: 200k ≈ 400k ≈ 800k samples", source, "0.9 or more")
    claim_text = f"{text} few tokens, over that with the usual number"
    too_few = Claim(hook_point, claim_text, "clearly above 1 at an eighth", source, "above 1.1")
    few = sorted((n for n in numbers if n <= _TOO_FEW * usual and usual in numbers), key=lambda n: abs(np.log(8 * n / usual)))
    ends = [(from_half[-1], from_half[0])] if more and len(from_half) > 1 else []
    return [
        _of_tokens(
            too_few, group, [(n, usual) for n in few[:1]], lambda ratio: ratio > 1.1, "a quarter of the usual number or less"
        ),
        _of_tokens(enough, group, ends, lambda ratio: ratio >= 0.9, lacking),
    ]


def _improving(claim: Claim, group: pd.DataFrame, numbers: list[int], lacking: str) -> Claim:
    """The row of the claim that the CE increase falls from each of the numbers of tokens to the next."""
    steps = [*zip(numbers[1:], numbers, strict=False), (numbers[-1], numbers[0])] if len(numbers) > 1 else []
    return _of_tokens(claim, group, steps, lambda ratio: ratio < 1, lacking)


def _of_tokens(
    claim: Claim, group: pd.DataFrame, steps: list[tuple[int, int]], passes: Callable[[float], bool], lacking: str
) -> Claim:
    """The row on CE increases at equal L0 with one number of tokens over another: all `steps` must pass, the last is shown."""
    if not steps:
        numbers = ", ".join(million(n) for n in sorted(set(group["n_tokens"])))
        return claim.untested(f"no sweep of tokens with {lacking} (it has {numbers})")
    ratios = _ratios(group, "n_tokens", steps, "l0", "ce_increase")
    if why := _why(ratios):
        return claim.untested(why)
    note = f"{million(steps[-1][0])} over {million(steps[-1][1])} tokens"
    return _of_ratios(claim, all(passes(ratio.mean) for ratio in ratios), ratios[-1:], note)


def _of_ratios(claim: Claim, passed: bool, ratios: list[CurveRatio], note: str) -> Claim:
    mean = np.mean([r.mean for r in ratios])
    return claim.tested(passed, mean, note, _STEPS, min(r.low for r in ratios), max(r.high for r in ratios))


def _finetuning(hook_point: str, tables: Path) -> list[Claim]:
    """What a short end-to-end phase on a trained local SAE removes of its CE increase; none where nothing was fine-tuned."""
    runs = read_budgets(tables)
    runs = runs[runs["hook_point"] == hook_point]
    if "finetune" not in set(runs["objective"]):
        return []
    text = "share of local's CE increase that fine-tuning removes"
    published, source, criterion = "0.31 at 5 % of the tokens, 0.2 to 0.5 overall", "Karvonen 2025", "0.2 or more"
    found = []
    for start, tuned in budgets(runs):
        if start["objective"] != "local" or start["ce_increase"] <= 0:
            continue
        share = tuned["n_tokens"] / start["n_tokens"]
        nearest = tuned.loc[(share / _PAPERS_SHARE).map(np.log).abs().idxmin()]
        found.append((share[nearest.name], 1 - nearest["ce_increase"] / start["ce_increase"], nearest["l0"] / start["l0"]))
    if not found:
        claim = Claim(hook_point, text, published, source, criterion)
        return [claim.untested("no fine-tuned run and the local run that it continues were evaluated")]
    shares, removed, l0 = (np.array(values) for values in zip(*found, strict=True))
    spent = ", ".join(f"{share:.3g}" for share in sorted({round(100 * share, 1) for share in shares}))
    claim = Claim(hook_point, f"{text}, with {spent} % more tokens", published, source, criterion)
    note = f"{len(found)} run{'s' if len(found) > 1 else ''}, L0 {l0.min():.2f} to {l0.max():.2f} times the start's"
    return [claim.tested(removed.mean() >= 0.2, removed.mean(), note, RUNS, removed.min(), removed.max())]
