"""What papers claim, against what the tables of an experiment show: Braun et al. 2024 and, on fine-tuning, Karvonen 2025.

Each claim has a null and, where one is published, a value; one rule makes the verdict of the interval over seeds (`claim.decide`). Models,
dictionaries and training budgets differ from the papers', so a verdict concerns the runs of the experiment alone.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from pathlib import Path

import numpy as np
import pandas as pd

from ..store.errors import UserError, did_you_mean
from . import studies as all_studies
from .claim import NO_DIFFERENCE, OPPOSITE, REPRODUCED, SEEDS, UNTESTED, VERDICTS, WEAKER, Claim, of_one_architecture
from .display import DisplayTable
from .reading import architecture_name, hook_points, read_runs
from .tables import read_table, write_table

LABEL = "Claims of the papers"
CAPTION = (
    "Each effect is computed for every training seed, and brackets are its 95 % interval over three seeds or more. The verdict holds that "
    "interval against the null and the published value, (GPT-2 small, layer 6, unless said). Power is the chance that such an interval "
    "excludes the null if the published value is true; detectable, the nearest value at which 80 % would."
)
VERDICT_MEANINGS = {
    REPRODUCED: "the interval excludes the null on the paper's side and, where a number is published, reaches it or lies beyond it",
    WEAKER: "it excludes the null on the paper's side and stays short of the published value",
    NO_DIFFERENCE: "it holds the null and, where a number is published, excludes that",
    OPPOSITE: "it excludes the null on the other side",
    UNTESTED: "there are fewer than three seeds, the runs cannot be compared, a precondition fails, or the interval holds both the null and "
    "the published value",
}
_BRIEF = ["published", "source", "ours [interval]", "verdict"]  # what a page of print has room for
COLUMNS = [
    "hook_point", "model", "claim", "published", "source", "null", "target", "ours", "low", "high", "interval", "n_seeds", "criterion",
    "power", "detectable", "verdict", "note",
]  # fmt: skip


def with_claims() -> list[str]:
    """Names of the studies that test claims: those with a module `claims`."""
    return [name for name in all_studies() if (Path(__file__).parent / name / "claims.py").exists()]


def claims(tables: Path, of: list[str]) -> pd.DataFrame:
    """The papers' claims against this experiment, one row per claim and hook point, each tested on one architecture.

    Columns: those of `COLUMNS`, which are the fields of `Claim`, its criterion and the language model.

    Args:
        tables: folder of tables
        of: the studies whose claims are tested, those that the experiment has
    """
    runs = read_runs(tables)
    modules = [importlib.import_module(f".{name}.claims", __package__) for name in with_claims() if name in of]
    found: list[Claim] = [
        claim for hook_point in hook_points(runs) for module in modules for claim in module.claims(hook_point, tables)
    ]
    rows = [dataclasses.asdict(claim) | {"criterion": claim.criterion} for claim in found]
    table = pd.DataFrame(rows, columns=[*(f.name for f in dataclasses.fields(Claim)), "criterion"])
    table["model"] = ", ".join(read_table(tables, "runs", ["model"])["model"].unique())
    if runs["architecture"].nunique() > 1:
        compared = of_one_architecture(runs).groupby("hook_point")["architecture"].first().map(architecture_name)
        table["note"] += "; " + table["hook_point"].map(compared).fillna("no") + " SAEs"
    return table[COLUMNS]


def write_claims(experiment: str, studies: list[str]) -> None:
    """Test the papers' claims on an experiment: make its table `claims`, which `saeworks claims` shows.

    Beside the table, what people read of it is written as HTML and LaTeX.

    Args:
        experiment: name of the experiment
        studies: names of the studies that it has

    Raises:
        UserError: there is no such study, or a table is missing.
    """
    if unknown := [name for name in studies if name not in all_studies()]:
        raise UserError(
            f"there is no study {unknown[0]!r}{did_you_mean(unknown[0], all_studies())}; there are {', '.join(all_studies())}."
        )
    tables = Path("results") / experiment / "tables"
    table = claims(tables, studies)
    write_table(table, tables / "claims.parquet", csv=True)
    display(table).write(tables / "claims", LABEL, CAPTION, kinds=("html",))
    display(table, _BRIEF).write(tables / "claims", LABEL, CAPTION, kinds=("tex",))


def of_papers(table: pd.DataFrame, *papers: str) -> pd.DataFrame:
    """The `claims` whose source is one of `papers`, by their names (`studies.paper`)."""
    return table[table["source"].str.startswith(papers)]


def summary(table: pd.DataFrame) -> str:
    """How many of the `claims` have each verdict, in a sentence."""
    if table.empty:
        return "No claim is about what this experiment measures."
    counts = table["verdict"].value_counts()
    return f"Of {len(table)} tests: {', '.join(f'{counts.get(verdict, 0)} {verdict}' for verdict in VERDICTS)}."


def readable(table: pd.DataFrame, digits: int = 3) -> pd.DataFrame:
    """`claims` for a reader: what is claimed where, the published value, ours with its interval, the verdict, and what lies behind it."""
    names = {"hook_point": "hook point", "ours": "ours [interval]"}
    shown = table.assign(
        ours=[_with_interval(row, digits) for _, row in table.iterrows()],
        power=[f"{power:.2f}" if math.isfinite(power) else "" for power in table["power"]],
        detectable=[f"{value:.{digits}g}".replace("-", "−") if math.isfinite(value) else "" for value in table["detectable"]],
    ).rename(columns=names)
    first = ["hook point", "model", "claim", "published", "source", "ours [interval]", "verdict"]
    return shown[[*first, "criterion", "power", "detectable", "note"]]


def display(table: pd.DataFrame, columns: list[str] | None = None) -> DisplayTable:
    """`claims` as people read them: by claim, and by hook point where there are several, `columns` or all that hold something."""
    shown = readable(table)
    once = in_common(shown)
    levels = [*({"hook point"} - set(once)), "claim"]
    held = [name for name in shown.columns if name not in (*levels, *once) and (shown[name] != "").any()]
    return DisplayTable(shown.set_index(levels)[columns or held], (summary(table), *once.values()), prose=True)


def in_common(shown: pd.DataFrame) -> dict[str, str]:
    """What all claims have in common, as sentences: model and hook point, where there is one."""
    names = [name for name in ("model", "hook point") if shown[name].nunique() == 1]
    return {name: f"{name[0].upper()}{name[1:]}: {shown[name].iloc[0]}." for name in names}


def _with_interval(row: pd.Series, digits: int) -> str:
    if np.isnan(row["ours"]):
        return "–"
    if row["interval"] != SEEDS:
        count = float(row["ours"]).is_integer()
        text = f"{row['ours']:.{0 if count else digits}f}"
    else:
        text = f"{row['ours']:.{digits}f} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"
    return text.replace("-", "−")


def markdown(table: pd.DataFrame) -> str:
    """`claims` in Markdown: model and hook point, a table of the claims that could be tested, and a list of the others by the reason.

    Columns of the table: claim, published value, source, ours, power and verdict; the hook point where there are several.
    """
    shown = readable(table)
    several = shown["hook point"].nunique() > 1
    untested = shown["verdict"] == UNTESTED
    parts = [" ".join(in_common(shown).values()), _tested(shown[~untested], several), _untested(shown[untested], several)]
    return "\n\n".join(filter(None, parts))


def _tested(shown: pd.DataFrame, several: bool) -> str:
    """A Markdown table, or a sentence where there is nothing to put into it."""
    if shown.empty:
        return "No claim could be tested on these runs."
    columns = [*(["hook point"] if several else []), "claim", "published", "source", "ours [interval]", "power", "verdict"]
    lines = [columns, ["---"] * len(columns), *shown[columns].to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(cell.replace('|', '∣') for cell in line)} |" for line in lines)


def _untested(shown: pd.DataFrame, several: bool) -> str:
    """A Markdown list of claims by the reason why they cannot be tested; nothing where there are none."""
    if shown.empty:
        return ""
    values = zip(shown["claim"], shown["ours [interval]"], strict=True)
    said = shown.assign(claim=[text if ours == "–" else f"{text} ({ours})" for text, ours in values])
    by_reason = said.groupby(["hook point", "note"], sort=False)["claim"]
    reasons = [f"* {f'{hook}, ' if several else ''}*{why}*: {'; '.join(claims)}." for (hook, why), claims in by_reason]
    return "\n".join(["Cannot be tested, and why:\n", *reasons])
