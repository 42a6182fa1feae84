"""What tests of display tables share: reading a written one back."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from bs4 import BeautifulSoup

from saeworks.studies.display import DisplayTable


def rows(table: DisplayTable) -> list[list[str]]:
    """Labels and cells of each row."""
    return table.cells.reset_index().to_numpy().tolist()


def html_rows(page: str) -> list[list[str]]:
    """The body of a page's table, each label repeated in all the rows that it spans."""
    lines = BeautifulSoup(page, "html.parser").select("tbody tr")
    grid: list[dict[int, str]] = [{} for _ in lines]
    for y, line in enumerate(lines):
        for cell in line.select("th, td"):
            x = next(x for x in range(100) if x not in grid[y])
            for below in range(int(cell.get("rowspan", 1))):
                grid[y + below][x] = cell.get_text()
    return [[found[x] for x in sorted(found)] for found in grid]


def tex_rows(text: str) -> list[list[str]]:
    """The body of a LaTeX table as it is written."""
    start = "\\endlastfoot\n" if "\\endlastfoot" in text else "\\midrule\n"
    body = re.split(r"\\bottomrule|\\end\{longtable\}", text[text.index(start) + len(start) :])[0]
    return [[cell.strip() for cell in line.removesuffix("\\\\").split(" & ")] for line in body.splitlines() if "&" in line]


def csv_rows(path: Path) -> list[list[str]]:
    """Lines of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))
