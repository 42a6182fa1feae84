"""Claims on subject-verb agreement (Table 7)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ..claim import NOT_SIMILAR, OF_PAPER, Claim, similar_runs
from ..paper import AGREEMENT_FAITHFULNESS, BRAUN
from ..tables import read_table

_CLEAR = 0.75  # share of items with the right verb preferred, halfway from chance to all
_SIGNAL = 0.5  # share of that preference that the value at the hook point must carry


def claims(hook_point: str, tables: Path) -> list[Claim]:
    """Faithfulness on subject-verb agreement."""
    columns = ["hook_point", "run", "template", "faithfulness", "m_model", "m_ablated", "accuracy_model"]
    agreement = read_table(tables, "agreement", columns)
    theirs = [percent / 100 for values in AGREEMENT_FAITHFULNESS["similar_ce"][6].values() for percent in values]
    text = "faithfulness on subject-verb agreement, runs chosen for similar CE increase, on templates where the model is clear"
    published = f"{np.mean(theirs):.2f} [{min(theirs):.2f}, {max(theirs):.2f}]"
    claim = Claim(hook_point, text, published, f"{BRAUN}, Table 7, layer 6", 0.0, float(np.mean(theirs)))
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
    note += f"; smallest {values.min():.2f}, largest {values.max():.2f}"
    return [claim.untested(f"one run of each objective was measured, so there is no interval over seeds; {note}", values.mean())]


def _why_unclear(here: pd.DataFrame) -> str:
    by_template = here.groupby("template", sort=False).first()
    told = [
        f"{name}: right verb on {row.accuracy_model:.0%}, {row.m_model:.2g} logits of preference, {row.m_ablated:.2g} without this value"
        for name, row in zip(by_template.index, by_template.itertuples(), strict=True)
    ]
    return "the model has no clear preference here (" + "; ".join(told) + ")"
