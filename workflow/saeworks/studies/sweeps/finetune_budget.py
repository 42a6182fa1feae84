"""What fine-tuning a local SAE end to end buys, against its budget (after Karvonen 2025, arXiv 2503.17272)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..plot import NARROW, colour, legend, look, name_row, only_message, panels
from ..reading import LABELS, read_fidelity, read_metrics
from ..tables import read_table
from .settings import FinetuneBudgetFigure
from .sweep import looks_of, million

_PANELS = (
    ("ce_increase", "CE loss increase (nats)"),
    ("kl", "KL divergence (nats)"),
    ("mse", "MSE at the SAE"),
    ("l0", "L0 (features per token)"),
)
_METRICS = [column for column, _ in _PANELS]


def read_budgets(tables: Path, text: str | None = None) -> pd.DataFrame:
    """The runs with CE increase, KL, L0 and MSE at the SAE on `text`, all over all positions; runs that lack one are left out."""
    read_table(tables, "runs", ["lr", "family_but_n_tokens", "start_from", "downstream", "reconstruction_coeff"])
    runs = read_metrics(tables, [column for column in _METRICS if column != "mse"], text)
    fidelity = read_fidelity(tables, text)
    errors = fidelity[(fidelity["metric"] == "mse") & (fidelity["positions"] == "all")]
    at_site = errors.merge(runs[["run", "layer"]], on=["run", "layer"])[["run", "value"]].rename(columns={"value": "mse"})
    return runs.merge(at_site, on="run", how="left").dropna(subset=_METRICS)


def budgets(runs: pd.DataFrame, objective: str = "finetune") -> list[tuple[pd.Series, pd.DataFrame]]:
    """Each start run with the runs of `objective` that continue it and differ in their budget alone, in the order of the budget."""
    tuned = runs[runs["objective"] == objective].sort_values("n_tokens", kind="stable")
    found = []
    for (_, start), group in tuned.groupby(["family_but_n_tokens", "start_from"], sort=False):
        begun = runs[runs["run"] == start]
        if len(begun):
            found.append((begun.iloc[0], group))
    return found


def end_to_end_of(start: pd.Series, runs: pd.DataFrame) -> pd.DataFrame:
    """The e2e+ds run nearest in L0 to `start`, in the paper's form, of its hook point, architecture, size, budget, rate and seed."""
    same = ["hook_point", "architecture", "d_sae", "n_tokens", "lr", "seed"]
    found = runs[(runs["objective"] == "e2e_ds") & (runs["downstream"] == "all") & (runs["reconstruction_coeff"] == 0)]
    found = found[(found[same] == start[same]).all(axis=1)]
    return found.assign(distance=(found["l0"] - start["l0"]).abs()).sort_values("distance", kind="stable").head(1)


def draw(tables: Path, config: FinetuneBudgetFigure) -> Figure:
    """Two rows of two panels per hook point: CE increase, KL, MSE at the SAE and L0 against the tokens of fine-tuning.

    A curve begins at 0 tokens with the run that is continued, in the colour of its objective; the dotted one continues it on that
    objective. The dashed line in the same shade as the curve's is the e2e+ds run whose L0 is nearest to that run's.
    """
    runs = read_budgets(tables)
    found = budgets(runs)
    if not found:
        return only_message(config, "No fine-tuned run and the run that it continues were evaluated.")
    hooks = list(dict.fromkeys(start["hook_point"] for start, _ in found))
    figure, axes = panels(config, 2 * len(hooks), 2)
    entries: dict[str, Line2D] = {}
    for number, hook_point in enumerate(hooks):
        here = [pair for pair in found if pair[0]["hook_point"] == hook_point]
        block = axes[2 * number : 2 * number + 2]
        for rank, (start, tuned) in enumerate(here):
            reference, control = end_to_end_of(start, runs), _continued(start, runs)
            styles = {
                kind: looks_of(colour(config, kind), range(len(here)))[rank] for kind in ("finetune", "e2e_ds", "continued")
            }
            begun = look(config, start["objective"])["color"]
            for panel, (metric, _) in zip(block.flat, _PANELS, strict=True):
                panel.plot([0, *tuned["n_tokens"] / 1e6], [start[metric], *tuned[metric]], **styles["finetune"])
                if len(control):
                    tokens, dotted = [0, *control["n_tokens"] / 1e6], styles["continued"] | {"linestyle": ":"}
                    panel.plot(tokens, [start[metric], *control[metric]], **dotted)
                panel.plot([0], [start[metric]], **styles["finetune"] | {"color": begun, "linestyle": "none"}, zorder=3)
                if len(reference):
                    panel.axhline(reference[metric].iloc[0], color=styles["e2e_ds"]["color"], linestyle="--")
            entries |= _entries(start, reference, len(control) > 0, begun, config)
        for panel, (_, label) in zip(block.flat, _PANELS, strict=True):
            panel.set_ylabel(label)
        for panel in block[1]:
            panel.set_xlabel("Tokens (millions)" if config.width < NARROW else "Fine-tuning tokens (millions)")
        for row in block:
            name_row(row, hook_point)
    legend(figure, list(entries.values()))
    return figure


def _continued(start: pd.Series, runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that continue `start` on its own objective, by budget."""
    found = [control for begun, control in budgets(runs, "continued") if begun["run"] == start["run"]]
    return found[0] if found else runs.iloc[:0]


def _entries(
    start: pd.Series, reference: pd.DataFrame, controlled: bool, begun: Any, config: FinetuneBudgetFigure
) -> dict[str, Line2D]:
    objective = LABELS[start["objective"]]
    found = {
        "start": Line2D(
            [], [], color=begun, marker="o", linestyle="none", label=f"{objective}, {million(start['n_tokens'])} tokens"
        ),
        "tuned": Line2D([], [], color=colour(config, "finetune"), marker="o", label=LABELS["finetune"]),
    }
    if controlled:
        found["control"] = Line2D([], [], color=colour(config, "continued"), linestyle=":", marker="o", label=LABELS["continued"])
    if len(reference):
        text = f"{LABELS['e2e_ds']}, {million(reference['n_tokens'].iloc[0])} tokens"
        found[text] = Line2D([], [], color=colour(config, "e2e_ds"), linestyle="--", label=text)
    return {entry.get_label(): entry for entry in found.values()}
