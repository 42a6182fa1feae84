"""What papers claim, against what the tables of an experiment show: Braun et al. 2024 and, on fine-tuning, Karvonen 2025.

Each claim has a criterion, fixed in the code whatever the experiment. The verdict is `reproduced` or `not reproduced` by that
criterion, and `cannot be tested` where the experiment lacks the runs. It says nothing about the size of an effect: models,
dictionaries and training budgets differ from the paper's, so the numbers stand beside each other in the table.
"""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

import numpy as np
import pandas as pd

from . import studies as all_studies
from .claim import NOT_REPRODUCED, OF_PAPER, REPRODUCED, UNTESTED, Claim, of_one_architecture
from .display import DisplayTable
from .reading import architecture_name, hook_points, read_runs
from .tables import read_table, write_table

LABEL = "Claims of the papers"
CAPTION = (
    "Published values are of GPT-2 small at layer 6 where nothing else is said. The test decides the verdict; it is fixed in the code, "
    "whatever the result. A verdict concerns the direction or the threshold that the paper states, for the runs of this experiment: "
    "a small model that does not show an effect does not refute it in GPT-2, and one seed that shows it does not establish it."
)
VERDICTS = (REPRODUCED, NOT_REPRODUCED, UNTESTED)
_BRIEF = ["published", "source", "ours [interval]", "verdict"]  # what a page of print has room for
COLUMNS = [
    "hook_point", "model", "claim", "published", "source", "ours", "low", "high", "interval", "criterion", "power", "verdict", "note",
]  # fmt: skip


def with_claims() -> list[str]:
    """Names of the studies that test claims: those with a module `claims`."""
    return [name for name in all_studies() if (Path(__file__).parent / name / "claims.py").exists()]


def claims(tables: Path, of: list[str]) -> pd.DataFrame:
    """The papers' claims against this experiment, one row per claim and hook point, each tested on one architecture.

    Columns: those of `COLUMNS`, the fields of `Claim` and the language model.

    Args:
        tables: folder of tables
        of: the studies whose claims are tested, those that the experiment has
    """
    runs = read_runs(tables)
    modules = [importlib.import_module(f".{name}.claims", __package__) for name in with_claims() if name in of]
    found: list[Claim] = [
        claim for hook_point in hook_points(runs) for module in modules for claim in module.claims(hook_point, tables)
    ]
    powers = {hook_point: _power(runs[runs["hook_point"] == hook_point]) for hook_point in hook_points(runs)}
    found = [dataclasses.replace(claim, power=claim.power or powers[claim.hook_point]) for claim in found]
    table = pd.DataFrame([dataclasses.asdict(claim) for claim in found], columns=[f.name for f in dataclasses.fields(Claim)])
    table["model"] = ", ".join(read_table(tables, "runs", ["model"])["model"].unique())
    if runs["architecture"].nunique() > 1:
        compared = of_one_architecture(runs).groupby("hook_point")["architecture"].first().map(architecture_name)
        table["note"] += "; " + table["hook_point"].map(compared).fillna("no") + " SAEs"
    return table[COLUMNS]


def _power(runs: pd.DataFrame) -> str:
    """What a test on these runs can rest on: how often each of the paper's objectives was trained."""
    seeds = of_one_architecture(runs)[lambda table: table["objective"].isin(OF_PAPER)].groupby("objective")["seed"].nunique()
    fewest = int(seeds.reindex(OF_PAPER, fill_value=0).min())
    if fewest == 0:
        return "not every objective was trained"
    if fewest == 1:
        return "one seed of an objective: says nothing of other seeds"
    return f"{fewest} seeds of every objective at one sparsity at least"


def write_claims(experiment: str, studies: list[str]) -> None:
    """Test the papers' claims on an experiment; write the table `claims`, and as HTML and LaTeX what people read of it.

    Args:
        experiment: experiment name
        studies: names of the studies that it has
    """
    tables = Path("results") / experiment / "tables"
    table = claims(tables, studies)
    write_table(table, tables / "claims.parquet", csv=True)
    display(table).write(tables / "claims", LABEL, CAPTION, kinds=("html",))
    display(table, _BRIEF).write(tables / "claims", LABEL, CAPTION, kinds=("tex",))


def summary(table: pd.DataFrame) -> str:
    """How many of the `claims` have each verdict, in a sentence."""
    counts = table["verdict"].value_counts()
    return f"Of {len(table)} tests: {', '.join(f'{counts.get(verdict, 0)} {verdict}' for verdict in VERDICTS)}."


def readable(table: pd.DataFrame, digits: int = 3) -> pd.DataFrame:
    """`claims` for a reader: what is claimed where, the published value, ours with its interval, the verdict, and what lies behind it."""
    names = {"hook_point": "hook point", "ours": "ours [interval]", "interval": "interval is", "criterion": "test"}
    shown = table.assign(ours=[_with_interval(row, digits) for _, row in table.iterrows()]).rename(columns=names)
    first = ["hook point", "model", "claim", "published", "source", "ours [interval]", "verdict"]
    return shown[[*first, "interval is", "test", "power", "note"]]


def display(table: pd.DataFrame, columns: list[str] | None = None) -> DisplayTable:
    """`claims` as people read them: by claim, and by hook point where there are several, `columns` or all that hold something."""
    shown = readable(table)
    once = _once(shown)
    levels = [*({"hook point"} - set(once)), "claim"]
    held = [name for name in shown.columns if name not in (*levels, *once) and (shown[name] != "").any()]
    return DisplayTable(shown.set_index(levels)[columns or held], (summary(table), *once.values()), prose=True)


def _once(shown: pd.DataFrame) -> dict[str, str]:
    """What all claims have in common, as sentences: model and hook point, where there is one."""
    names = [name for name in ("model", "hook point") if shown[name].nunique() == 1]
    return {name: f"{name[0].upper()}{name[1:]}: {shown[name].iloc[0]}." for name in names}


def _with_interval(row: pd.Series, digits: int) -> str:
    if np.isnan(row["ours"]):
        return "–"
    if np.isnan(row["low"]):
        count = float(row["ours"]).is_integer()
        text = f"{row['ours']:.{0 if count else digits}f}"
    else:
        text = f"{row['ours']:.{digits}f} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"
    return text.replace("-", "−")


def markdown(table: pd.DataFrame) -> str:
    """`claims` in Markdown: model and hook point, a table of the claims that could be tested, and a list of the others by the reason.

    Columns of the table: claim, published value, source, ours, test and verdict; the hook point where there are several.
    """
    shown = readable(table)
    several = shown["hook point"].nunique() > 1
    columns = [
        *(["hook point"] if several else []),
        "claim",
        "published",
        "source",
        "ours [interval]",
        "test",
        "verdict",
    ]
    tested = shown[shown["verdict"] != UNTESTED]
    lines = [columns, ["---"] * len(columns), *tested[columns].to_numpy().tolist()]
    text = "\n".join(f"| {' | '.join(cell.replace('|', '∣') for cell in line)} |" for line in lines)
    others = shown[shown["verdict"] == UNTESTED].groupby(["hook point", "note"], sort=False)["claim"]
    reasons = [f"* {f'{hook}, ' if several else ''}*{why}*: {'; '.join(claims)}." for (hook, why), claims in others]
    return "\n".join(
        [" ".join(_once(shown).values()), "", text, *(["\nCannot be tested, and why:\n"] if reasons else []), *reasons]
    )


def print_claims(experiment: list[str], /) -> None:
    """Print the papers' claims beside the results of experiments, as Markdown.

    Args:
        experiment: names of experiments; of several, each comes under a heading
    """
    for i, name in enumerate(experiment):
        table = read_table(Path("results") / name / "tables", "claims", COLUMNS)
        heading = f"{chr(10) if i else ''}## {name}\n\n" if len(experiment) > 1 else ""
        print(f"{heading}{summary(table)}\n\n{markdown(table)}")
