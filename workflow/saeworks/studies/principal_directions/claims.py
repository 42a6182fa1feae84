"""Claims on the first principal direction of the activations (Fig. 22 and 23)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ..claim import Claim, chosen_runs, rounded
from ..paper import BRAUN
from ..tables import read_table

_R_ELSEWHERE, _R_FIRST = 0.262, 0.996
_OUTLIER = 1.0  # least gap of position 0, over the range of the other tokens, that makes an outlier


def claims(hook_point: str, tables: Path) -> list[Claim]:
    """What the first principal direction is, how e2e+ds passes it on, and what it matters.

    The paper's direction is that of an outlier at position 0; where there is none, nothing that it claims can be tested.
    """
    histogram = read_table(tables, "pca_histogram", ["hook_point", "tokens", "low", "high", "count"])
    correlation = read_table(tables, "pca_correlation", ["run", "direction", "positions", "r"])
    ablation = read_table(tables, "pca_ablation", ["hook_point", "direction", "kl_reverse"])
    runs = chosen_runs(tables, hook_point).set_index("objective")["run"]
    outlier = _outlier(hook_point, histogram[(histogram["hook_point"] == hook_point) & (histogram["count"] > 0)])
    found = [
        outlier,
        *_passing_on(hook_point, correlation[correlation["direction"] == 0], runs),
        _ablation(hook_point, ablation[ablation["hook_point"] == hook_point].set_index("direction")["kl_reverse"]),
    ]
    if rounded(outlier.ours)[0] > _OUTLIER:
        return found
    why = "whether there is an outlier at position 0 was not measured" if np.isnan(outlier.ours) else "no outlier at position 0"
    return [claim.untested(f"{why}; {claim.note}", claim.ours) for claim in found]


def _outlier(hook_point: str, histogram: pd.DataFrame) -> Claim:
    text = "component along principal direction 0: gap between position 0 and other tokens, over the others' range"
    claim = Claim(hook_point, text, "≈ 12 (3,100 against −20 to 220)", f"{BRAUN}, Fig. 22, layer 10", 0.0, 12.0)
    first, others = (histogram[histogram["tokens"] == kind] for kind in ("position 0", "other"))
    if first.empty or others.empty:
        return claim.untested("the component was not measured")
    low, high = others["low"].min(), others["high"].max()
    gap = max(first["low"].min() - high, low - first["high"].max()) / (high - low)
    note = f"position 0 from {first['low'].min():.3g} to {first['high'].max():.3g}, others from {low:.3g} to {high:.3g}"
    return claim.measured(gap, note + ("; they overlap" if gap < 0 else ""))


def _passing_on(hook_point: str, correlation: pd.DataFrame, runs: pd.Series) -> list[Claim]:
    rows = []
    for positions, where, null, published in (
        ("rest", "after position 0", 1.0, _R_ELSEWHERE),
        ("first", "at position 0", _R_ELSEWHERE, _R_FIRST),
    ):
        text = f"input–output correlation of e2e+ds along principal direction 0, {where}"
        claim = Claim(hook_point, text, str(published), f"{BRAUN}, Fig. 23a, layer 10", null, published)
        if "e2e_ds" not in runs.index:
            rows.append(claim.untested("no e2e+ds run was chosen for similar CE increase"))
            continue
        found = correlation[(correlation["run"] == runs["e2e_ds"]) & (correlation["positions"] == positions)]["r"].dropna()
        if found.empty:
            rows.append(claim.untested(f"the activations do not vary {where}" if positions == "first" else "it was not measured"))
            continue
        rows.append(claim.untested("one run was measured, so there is no interval over seeds", found.iloc[0]))
    return rows


def _ablation(hook_point: str, kl: pd.Series) -> Claim:
    text = "KL of resampling principal direction 0, over the lowest of the other directions"
    claim = Claim(hook_point, text, "below 1: ≈ 0.01, the lowest", f"{BRAUN}, Fig. 23b, layer 10", 1.0, -np.inf)
    others = kl.drop(index=0, errors="ignore").dropna()
    if others.empty or np.isnan(kl.get(0, np.nan)) or others.min() <= 0:
        return claim.untested("fewer than two directions matter")
    rank = int((others < kl[0]).sum()) + 1
    note = f"{kl[0]:.3g} nats, rank {rank} of {len(others) + 1} from the lowest; KL(ablated ‖ clean), as in the paper"
    return claim.measured(kl[0] / others.min(), note)
