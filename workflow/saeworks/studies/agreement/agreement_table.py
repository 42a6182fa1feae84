"""How faithfully SAEs keep subject-verb agreement (Table 7 of Braun et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from ..display import DisplayTable, frame, number
from ..paper import AGREEMENT_FAITHFULNESS, AGREEMENT_TEMPLATES, at_layer
from ..reading import LABELS, hook_points, kind_name, read_selection
from ..tables import read_table
from .settings import AgreementTable

TEMPLATES = {"simple": "simple", "nounpp": "across PP", "rc": "across RC", "within_rc": "within RC"}
CRITERIA = {"similar_ce": "similar CE", "similar_l0": "similar L0"}
_COLUMNS = [
    "hook_point", "run", "template", "faithfulness", "m_model", "m_ablated", "accuracy_model", "accuracy_sae", "n_items", "n_excluded",
]  # fmt: skip


def table(tables: Path, config: AgreementTable) -> DisplayTable:
    """By hook point the model's own accuracy and logit difference and the selected runs; then the paper's on GPT-2 small."""
    measured = read_table(tables, "agreement", _COLUMNS)
    rows = [*_measured(tables, measured, config.decimals), *_published(config.decimals)]
    notes = () if len(measured) else ("Agreement was not measured on any run.",)
    return DisplayTable(frame(rows, ("where", "quantity or SAE"), tuple(TEMPLATES.values())), notes)


def _measured(tables: Path, measured: pd.DataFrame, decimals: int) -> Iterator[tuple[str, ...]]:
    runs = {criterion: read_selection(tables, criterion) for criterion in CRITERIA}
    for hook_point in hook_points(measured):
        here = measured[measured["hook_point"] == hook_point].set_index(["run", "template"])
        of_model = here.groupby("template").first()
        yield hook_point, "items", *_cells(of_model["n_items"], 0)
        yield hook_point, "model prefers right verb, %", *_cells(100 * of_model["accuracy_model"], decimals)
        yield hook_point, "m(M) − m(∅), logits", *_cells(of_model["m_model"] - of_model["m_ablated"], 2)
        for criterion, name in CRITERIA.items():
            for run in runs[criterion][runs[criterion]["hook_point"] == hook_point].itertuples():
                if run.run in here.index.get_level_values("run"):
                    sae = f"{kind_name(run.objective, run.architecture, runs[criterion])}, {name}"
                    yield hook_point, sae, *_cells(100 * here["faithfulness"].loc[run.run], decimals)


def _published(decimals: int) -> Iterator[tuple[str, ...]]:
    for layer in (2, 6, 10):
        for criterion, name in CRITERIA.items():
            for objective, percent in AGREEMENT_FAITHFULNESS[criterion][layer].items():
                values = pd.Series(percent, index=AGREEMENT_TEMPLATES)
                yield at_layer(layer), f"{LABELS[objective]}, {name}", *_cells(values, decimals)


def _cells(values: pd.Series, decimals: int) -> list[str]:
    return [number(value, decimals) for value in values.reindex(list(TEMPLATES)).astype(float)]
