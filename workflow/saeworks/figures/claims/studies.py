"""Claims on the first principal direction of the activations (Fig. 22 and 23) and on subject-verb agreement (Table 7)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ..common import read_table
from ..paper import AGREEMENT_FAITHFULNESS
from .rows import NOT_SIMILAR, OF_PAPER, ONE_RUN, ONE_STUDY, Claim, Row, chosen_runs, similar_runs

_R_ELSEWHERE, _R_FIRST = 0.262, 0.996
_MIDDLE = (1 + _R_ELSEWHERE) / 2
_CLEAR = 0.75  # share of items with the right verb preferred, halfway from chance to all
_SIGNAL = 0.5  # share of that preference that the value at the hook point must carry
_FAITHFUL = (0.75, 1.25)


def pca_claims(hook_point: str, tables: Path) -> list[Row]:
    """What the first principal direction is, how e2e+ds passes it on, and what it matters; none where there is no such study."""
    if not (tables / "pca_histogram.parquet").exists():
        return []
    histogram = read_table(tables, "pca_histogram", ["hook_point", "tokens", "low", "high", "count"])
    correlation = read_table(tables, "pca_correlation", ["run", "direction", "positions", "r"])
    ablation = read_table(tables, "pca_ablation", ["hook_point", "direction", "kl_reverse"])
    runs = chosen_runs(tables, hook_point).set_index("objective")["run"]
    return [
        _outlier(hook_point, histogram[(histogram["hook_point"] == hook_point) & (histogram["count"] > 0)]),
        *_passing_on(hook_point, correlation[correlation["direction"] == 0], runs),
        _ablation(hook_point, ablation[ablation["hook_point"] == hook_point].set_index("direction")["kl_reverse"]),
    ]


def _outlier(hook_point: str, histogram: pd.DataFrame) -> Row:
    claim = Claim(
        hook_point,
        "component along principal direction 0: gap between position 0 and other tokens, over the others' range",
        "≈ 12 (3,100 against −20 to 220, Fig. 22, layer 10)",
        "above 1",
    )
    first, others = (histogram[histogram["tokens"] == kind] for kind in ("position 0", "other"))
    if first.empty or others.empty:
        return claim.untested("the component was not measured")
    low, high = others["low"].min(), others["high"].max()
    gap = max(first["low"].min() - high, low - first["high"].max()) / (high - low)
    note = f"position 0 from {first['low'].min():.3g} to {first['high'].max():.3g}, others from {low:.3g} to {high:.3g}"
    return claim.tested(gap > 1, gap, note + ("; they overlap" if gap < 0 else ""), ONE_STUDY)


def _passing_on(hook_point: str, correlation: pd.DataFrame, runs: pd.Series) -> list[Row]:
    rows = []
    for positions, where, published, side in (
        ("rest", "after position 0", _R_ELSEWHERE, "below"),
        ("first", "at position 0", _R_FIRST, "above"),
    ):
        claim = Claim(
            hook_point,
            f"input–output correlation of e2e+ds along principal direction 0, {where}",
            f"{published} (Fig. 23a, layer 10)",
            f"{side} {_MIDDLE:.2f}, the middle between {_R_ELSEWHERE} and 1",
        )
        if "e2e_ds" not in runs.index:
            rows.append(claim.untested("no e2e+ds run was chosen for similar CE increase"))
            continue
        found = correlation[(correlation["run"] == runs["e2e_ds"]) & (correlation["positions"] == positions)]["r"].dropna()
        if found.empty:
            rows.append(claim.untested(f"the activations do not vary {where}" if positions == "first" else "it was not measured"))
            continue
        r = found.iloc[0]
        rows.append(claim.tested(r < _MIDDLE if side == "below" else r > _MIDDLE, r, "one run", ONE_RUN))
    return rows


def _ablation(hook_point: str, kl: pd.Series) -> Row:
    claim = Claim(
        hook_point,
        "KL of resampling principal direction 0, over the lowest of the other directions",
        "below 1: ≈ 0.01, the lowest (Fig. 23b, layer 10)",
        "below 1",
    )
    others = kl.drop(index=0, errors="ignore").dropna()
    if others.empty or np.isnan(kl.get(0, np.nan)) or others.min() <= 0:
        return claim.untested("fewer than two directions matter")
    rank = int((others < kl[0]).sum()) + 1
    note = f"{kl[0]:.3g} nats, rank {rank} of {len(others) + 1} from the lowest; KL(ablated ‖ clean), as in the paper"
    return claim.tested(kl[0] < others.min(), kl[0] / others.min(), note, ONE_STUDY)


def agreement_claims(hook_point: str, tables: Path) -> list[Row]:
    """Faithfulness on subject-verb agreement; none where there is no such study."""
    if not (tables / "agreement.parquet").exists():
        return []
    columns = ["hook_point", "run", "template", "faithfulness", "m_model", "m_ablated", "accuracy_model"]
    agreement = read_table(tables, "agreement", columns)
    theirs = [percent / 100 for values in AGREEMENT_FAITHFULNESS["similar_ce"][6].values() for percent in values]
    claim = Claim(
        hook_point,
        "faithfulness on subject-verb agreement, runs chosen for similar CE increase",
        f"{np.mean(theirs):.2f} [{min(theirs):.2f}, {max(theirs):.2f}] (Table 7, layer 6)",
        f"every run {_FAITHFUL[0]} to {_FAITHFUL[1]} on templates where the model is clear: right verb preferred on {100 * _CLEAR:g} % of items,"
        f" {100 * _SIGNAL:g} % of the preference through this hook point",
    )
    runs = similar_runs(tables, hook_point)
    if runs.empty:
        return [claim.untested(NOT_SIMILAR)]
    here = agreement[agreement["run"].isin(runs.loc[runs.index.isin(OF_PAPER), "run"])]
    if here.empty:
        return [claim.untested("agreement was not measured on any chosen run")]
    carried = here["m_model"] - here["m_ablated"] >= _SIGNAL * here["m_model"]
    clear = here[(here["accuracy_model"] >= _CLEAR) & (here["m_model"] > 0) & carried].dropna(subset="faithfulness")
    if clear.empty:
        return [claim.untested(_why_unclear(here))]
    values = clear["faithfulness"]
    templates = list(dict.fromkeys(clear["template"]))
    left_out = [name for name in dict.fromkeys(here["template"]) if name not in templates]
    note = f"{clear['run'].nunique()} runs on {', '.join(templates)}" + (
        f"; not clear: {', '.join(left_out)}" if left_out else ""
    )
    passed = values.between(*_FAITHFUL).all()
    return [claim.tested(passed, values.mean(), note, "smallest and largest over runs and templates", values.min(), values.max())]


def _why_unclear(here: pd.DataFrame) -> str:
    by_template = here.groupby("template", sort=False).first()
    told = [
        f"{name}: right verb on {row.accuracy_model:.0%}, {row.m_model:.2g} logits of preference, {row.m_ablated:.2g} without this value"
        for name, row in zip(by_template.index, by_template.itertuples(), strict=True)
    ]
    return "the model has no clear preference here (" + "; ".join(told) + ")"
