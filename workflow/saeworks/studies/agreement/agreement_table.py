"""How faithfully SAEs keep subject-verb agreement (Table 7 of Braun et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..paper import AGREEMENT_FAITHFULNESS, AGREEMENT_TEMPLATES
from ..plot import GREY, NARROW, colour, only_message, panels
from ..reading import LABELS, hook_points, kind_name, read_selection
from ..tables import read_table
from .settings import AgreementTableFigure

TEMPLATES = {"simple": "simple", "nounpp": "across PP", "rc": "across RC", "within_rc": "within RC"}
CRITERIA = {"similar_ce": "similar CE", "similar_l0": "similar L0"}
_COLUMNS = [
    "hook_point", "run", "template", "faithfulness", "m_model", "m_ablated", "accuracy_model", "accuracy_sae", "n_items", "n_excluded",
]  # fmt: skip
# a line of the table: its label, its cells, and the objective it is about
Line = tuple[str, list[str], str | None]


def draw(tables: Path, config: AgreementTableFigure) -> Figure:
    """Lines per hook point: the model's own accuracy and logit difference, the selected runs; below, the paper's on GPT-2 small."""
    measured = read_table(tables, "agreement", _COLUMNS)
    if measured.empty:
        return only_message(config.model_copy(update={"height": 10 * config.height}), "Agreement was not measured on any run.")
    lines = [("", list(TEMPLATES.values()), None), *_measured(tables, measured, config.decimals), *_published(config.decimals)]
    figure, axes = panels(config.model_copy(update={"height": config.height * len(lines)}), 1, 1)
    panel = axes[0, 0]
    panel.set_axis_off()
    panel.set_xlim(0, 1)
    panel.set_ylim(len(lines), 0)
    size = 5.5 if config.width < NARROW else 7
    left = 0.42
    for row, (label, cells, objective) in enumerate(lines):
        shade = colour(config, objective) if objective else "black" if not row or not cells else GREY
        weight = "bold" if not cells or not row else "normal"
        panel.text(0, row + 0.5, label, va="center", fontsize=size, color=shade, weight=weight)
        for column, cell in enumerate(cells):
            x = left + (1 - left) * (column + 1) / len(TEMPLATES)
            panel.text(x, row + 0.5, cell, va="center", ha="right", fontsize=size, weight=weight)
        if not cells or not row:
            panel.axhline(row if row else row + 1, color="black", linewidth=0.5)
    return figure


def _measured(tables: Path, measured: pd.DataFrame, decimals: int) -> Iterator[Line]:
    runs = {criterion: read_selection(tables, criterion) for criterion in CRITERIA}
    for hook_point in hook_points(measured):
        here = measured[measured["hook_point"] == hook_point].set_index(["run", "template"])
        of_model = here.groupby("template").first()
        yield hook_point, [], None
        n_items = of_model["n_items"].reindex(list(TEMPLATES))
        yield "items", ["–" if np.isnan(n) else f"{n:,.0f}" for n in n_items], None
        yield "model prefers right verb, %", _cells(100 * of_model["accuracy_model"], decimals), None
        span = of_model["m_model"] - of_model["m_ablated"]
        yield "m(M) − m(∅), logits", _cells(span, 2), None
        for criterion, name in CRITERIA.items():
            for run in runs[criterion][runs[criterion]["hook_point"] == hook_point].itertuples():
                if run.run in here.index.get_level_values("run"):
                    cells = _cells(100 * here["faithfulness"].loc[run.run], decimals)
                    yield f"{kind_name(run.objective, run.architecture, runs[criterion])}, {name}", cells, run.objective


def _cells(values: pd.Series, decimals: int) -> list[str]:
    return ["–" if np.isnan(v) else f"{v:.{decimals}f}" for v in values.reindex(list(TEMPLATES)).astype(float)]


def _published(decimals: int) -> Iterator[Line]:
    for layer in (2, 6, 10):
        yield f"Braun et al. 2024, GPT-2 small, layer {layer}", [], None
        for criterion, name in CRITERIA.items():
            for objective, percent in AGREEMENT_FAITHFULNESS[criterion][layer].items():
                values = pd.Series(percent, index=AGREEMENT_TEMPLATES)
                yield f"{LABELS[objective]}, {name}", _cells(values, decimals), objective
