"""Tables that people read: the same formatted cells as HTML, LaTeX (booktabs) and CSV."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from ..store.files import atomic_path
from .paper import PAPERS

ABSENT = "–"

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ margin: 1.5rem auto; max-width: 75rem; padding: 0 1rem; font: 14px/1.45 system-ui, sans-serif; color: #1a1a1a; }}
</style>
</head>
<body>
{body}</body>
</html>
"""
# characters that LaTeX reads as commands, and those outside Latin-1 that tables use and pdflatex does not know
_TEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
    | {"−": "$-$", "×": r"$\times$", "±": r"$\pm$", "≤": r"$\leq$", "≥": r"$\geq$", "≈": r"$\approx$", "∅": r"$\emptyset$"}
    | {
        "→": r"$\rightarrow$",
        "←": r"$\leftarrow$",
        "λ": r"$\lambda$",
        "Δ": r"$\Delta$",
        "ε": r"$\epsilon$",
        "²": r"\textsuperscript{2}",
    }
    | {"‖": r"$\|$", "·": r"$\cdot$", "Σ": r"$\Sigma$", "’": "'", "\N{NARROW NO-BREAK SPACE}": r"\,", "\N{NO-BREAK SPACE}": "~"}
)
_RULES_BETWEEN_GROUPS = re.compile(r"(?:\\cline\{\d+-\d+\} ?)+\n(\\bottomrule\n)?")


@dataclass(frozen=True)
class DisplayTable:
    """A table as people read it.

    Args:
        cells: the text of each cell. The levels of the index say what a row is about, from the widest to the narrowest; a row with
            a label that begins with the name of a paper holds published values.
        notes: sentences that end the caption, such as why rows are missing.
        prose: the cells are words rather than numbers: they are set to the left and wrap, over several pages if need be.
    """

    cells: pd.DataFrame
    notes: tuple[str, ...] = ()
    prose: bool = False

    def write(self, stem: Path | str, label: str, caption: str, kinds: tuple[str, ...]) -> None:
        """Write `<stem>.<kind>`, each atomically; equal tables give equal bytes.

        Args:
            stem: path without suffix
            label: the table's heading, a few words
            caption: what it shows, in plain text
            kinds: of `html`, `tex` and `csv`
        """
        name = Path(stem).name
        texts = {
            "html": lambda: _PAGE.format(title=escape(label), body=self.html(name, label, caption)),
            "tex": lambda: self.latex(name, label, caption),
            "csv": lambda: self.cells.to_csv(),
        }
        for kind in kinds:
            with atomic_path(f"{stem}.{kind}") as partial:
                partial.write_text(texts[kind](), encoding="utf-8")

    def html(self, name: str, label: str, caption: str) -> str:
        """A part of a page: the table with its own style sheet, which holds for this table alone."""
        styler = Styler(self.cells, uuid=name, cell_ids=False)
        styler.format(escape="html").format_index(escape="html").format_index(escape="html", axis="columns")
        styler.hide(axis="index", names=True).set_table_styles(self._styles())
        styler.set_td_classes(self.cells.apply(lambda row: [_published(row.name)] * len(row), axis=1, result_type="broadcast"))
        return (
            '<figure style="margin: 0 0 1em">\n<figcaption style="max-width: 50rem; margin-bottom: 0.6em">'
            f"<strong>{escape(label)}.</strong> {escape(self._said(caption))}</figcaption>\n"
            f'<div style="overflow-x: auto">\n{styler.to_html()}</div>\n</figure>\n'
        )

    def latex(self, name: str, label: str, caption: str) -> str:
        """A `table` environment, or a `longtable` of prose, for a document that loads the packages named in its first line."""
        styler = (
            Styler(self.cells).format(_tex).format_index(_tex).format_index(_tex, axis="columns").hide(axis="index", names=True)
        )
        heading = _tex(label.rpartition(": ")[2])  # without the paper's number, for the document has its own
        heading = heading[:1].upper() + heading[1:]
        captions = f"{heading}. {_tex(self._said(caption))}", heading
        form = {"caption": captions, "label": f"tab:{name}", "hrules": True, "multirow_align": "naive"}
        text = self._longtable(styler, form) if self.prose else self._table(styler, form)
        return _RULES_BETWEEN_GROUPS.sub(lambda rules: rules[1] or "\\addlinespace\n", text)

    def _table(self, styler: Styler, form: dict[str, Any]) -> str:
        columns = "l" * self.cells.index.nlevels + "r" * len(self.cells.columns)
        styler.set_table_styles(
            [{"selector": "footnotesize", "props": ":;"}, {"selector": "setlength", "props": r":{\tabcolsep}{3pt};"}]
        )
        text = styler.to_latex(**form, clines="skip-last;data", position_float="centering", column_format=columns)
        return f"% \\usepackage{{booktabs}}\n{text}"

    def _longtable(self, styler: Styler, form: dict[str, Any]) -> str:
        width = self.cells.reset_index().map(len).max().clip(18, 60) ** 0.5
        columns = "".join(f">{{\\raggedright\\arraybackslash}}p{{{0.9 * w / width.sum():.3f}\\linewidth}}" for w in width)
        text = styler.to_latex(**form, clines="all;data", environment="longtable", column_format=columns)
        whole, heading = form["caption"]
        text = text.replace(f"\\caption[]{{{whole}}}", f"\\caption[]{{{heading}, continued.}}")
        size = "\\begingroup\\footnotesize\\setlength{\\tabcolsep}{3pt}"
        return f"% \\usepackage{{array,booktabs,longtable}}\n{size}\n{text}\\endgroup\n"

    def _said(self, caption: str) -> str:
        return " ".join([caption, *self.notes]).strip()

    def _styles(self) -> list[dict]:
        inner = self.cells.index.nlevels - 1
        group = max(inner - 1, 0)
        of_published = "tr:has(td.published)"
        rules = {
            "": "border-collapse: collapse; font-size: 0.93em; font-variant-numeric: tabular-nums; margin: 0;",
            "thead": "border-top: 1.5px solid #1a1a1a; border-bottom: 1px solid #1a1a1a; vertical-align: bottom;",
            "tbody": "border-bottom: 1.5px solid #1a1a1a;",
            "tbody tr": "background: none;",
            "th, td": "padding: 0.2em 0.6em; text-align: right; vertical-align: top; line-height: 1.35; white-space: nowrap;",
            "tbody th": "font-weight: normal;",
            "thead th": "font-weight: 600; white-space: normal;",
            "th.row_heading": "text-align: left; white-space: normal;",
            f"tbody tr:has(th.row_heading.level{group}) > *": "border-top: 1px solid #d9d9d9;",
            f"td.published, {of_published} th.level{group}, {of_published} th.level{inner}": "color: #595959; font-style: italic;",
        }
        if self.prose:
            rules["th, td, td"] = "text-align: left; white-space: normal;"
            rules[""] += " min-width: 60em;"
        return [{"selector": selector, "props": props} for selector, props in rules.items()]


def fragment(page: Path) -> str:
    """The table of a page that `DisplayTable.write` has written, to show it in another page."""
    text = page.read_text(encoding="utf-8")
    return text[text.index("<body>\n") + len("<body>\n") : text.index("</body>")]


def number(value: float, decimals: int) -> str:
    """A number with `decimals` and thousands separated; a dash where there is none."""
    return ABSENT if pd.isna(value) else f"{value:,.{decimals}f}"


def frame(rows: list[tuple[str, ...]], levels: tuple[str, ...], columns: tuple[str, ...]) -> pd.DataFrame:
    """The cells of a table from `rows` of first the labels of the `levels` of its index and then the cells of its `columns`."""
    return pd.DataFrame(rows, columns=[*levels, *columns], dtype=str).set_index(list(levels))


def _published(labels: tuple[str, ...] | str) -> str:
    labels = (labels,) if isinstance(labels, str) else labels
    return "published" if any(label.startswith(PAPERS) for label in labels) else ""


def _tex(text: object) -> str:
    return str(text).translate(_TEX)
