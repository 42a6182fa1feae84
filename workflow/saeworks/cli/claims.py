"""`saeworks claims`: what papers claim beside what an experiment shows."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pandas as pd

from ..studies import claims as of_papers
from ..studies.claim import UNTESTED
from ..studies.claims import COLUMNS, VERDICTS, in_common, readable, summary
from ..studies.tables import read_table

_COLUMNS = 100  # of the terminal that are used, at most


def claims(experiment: list[str], /, markdown: bool = False) -> None:
    """Show the papers' claims beside the results of experiments, from their tables `claims`.

    Rule `claims` of the workflow makes the table, by `saeworks test-claims`.

    Args:
        experiment: names of experiments, those of their folders under results/; of several, each comes under a heading.
        markdown: print a table in Markdown.

    Raises:
        UserError: an experiment has no such table.
    """
    for i, name in enumerate(experiment):
        table = read_table(Path("results") / name / "tables", "claims", COLUMNS)
        heading = f"{chr(10) if i else ''}## {name}\n\n" if len(experiment) > 1 else ""
        print(f"{heading}{summary(table)}\n\n{of_papers.markdown(table) if markdown else listed(table)}")


def listed(table: pd.DataFrame) -> str:
    """`claims` for a terminal: by verdict, and by hook point where there are several, each claim with what decided."""
    shown = readable(table)
    several = shown["hook point"].nunique() > 1
    lines = [" ".join(in_common(shown).values())]
    for verdict in VERDICTS:
        for hook_point, group in shown[shown["verdict"] == verdict].groupby("hook point", sort=False):
            lines += ["", f"{verdict}, at {hook_point}:" if several else f"{verdict}:"]
            for row in group.to_dict("records"):
                found = row["note"] if verdict == UNTESTED else f"ours {row['ours [interval]']}; criterion: {row['criterion']}"
                lines += _wrapped(row["claim"], 2) + _wrapped(f"published {row['published']} ({row['source']}); {found}", 6)
    return "\n".join(lines)


def _wrapped(text: str, indent: int) -> list[str]:
    return textwrap.wrap(text, _COLUMNS, initial_indent=" " * indent, subsequent_indent=" " * (indent + 2))
