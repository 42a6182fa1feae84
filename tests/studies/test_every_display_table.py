"""Every display table, found by its study's folder: three files hold the same cells, and where there are no runs it says why."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from bs4 import BeautifulSoup
from tests.each import each
from tests.studies.made_up import every_table
from tests.studies.shown import csv_rows, html_rows, rows, tex_rows

from saeworks.config.figures import TableStyle
from saeworks.store.errors import UserError
from saeworks.studies import caption, figures, studies
from saeworks.studies.display import DisplayTable, _tex, fragment, frame, number
from saeworks.studies.draw import displayed, figure
from saeworks.studies.paper import PAPERS

TABLES = [name for name, (_, style) in figures().items() if issubclass(style, TableStyle)]
WITH_PUBLISHED = set(TABLES) - {"rates_table", "texts_table", "spliced_table"}  # beside ours
_OTHER = {"positions": "all"}  # settings that are no number
NASTY = r"<b> & 50 % of a_b {c} ~ ^ \d $1 #2 |"


@pytest.fixture(scope="module")
def made_up(tmp_path_factory) -> Path:
    """Made-up tables of every study (read only)."""
    return every_table(tmp_path_factory.mktemp("made_up"), architectures=("relu", "topk"))


def display(name: str, tables: Path, **settings: object) -> DisplayTable:
    return displayed(name, tables, figures()[name][1](**settings))


def test_there_are_some():
    assert {"selection_table", "norm_table", "agreement_table", "wall_clock", "errors_table"} <= set(TABLES)


@each("name", TABLES)
def test_html_latex_and_csv_hold_the_same_cells(made_up, new_folder, name):
    figure(name, "{}", str(made_up), str(new_folder / name))
    assert sorted(path.name for path in new_folder.iterdir()) == [f"{name}.csv", f"{name}.html", f"{name}.tex"]
    table = display(name, made_up)
    wanted = rows(table)
    head, *body = csv_rows(new_folder / f"{name}.csv")
    assert body == wanted and head == [*table.cells.index.names, *table.cells.columns]
    page = (new_folder / f"{name}.html").read_text()
    assert html_rows(page) == wanted
    labels = table.cells.index.nlevels
    above = [""] * labels
    for line, found in zip(wanted, tex_rows((new_folder / f"{name}.tex").read_text()), strict=True):
        repeated = next(i for i in range(labels + 1) if i == labels - 1 or line[i] != above[i])  # the last label is always said
        above = line[:labels]
        assert found == [*[""] * repeated, *map(_tex, line[repeated:])]


@each("name", TABLES)
def test_a_page_is_read_on_its_own_and_equal_every_time(made_up, new_folder, name):
    for folder in ("first", "second"):
        figure(name, "{}", str(made_up), str(new_folder / folder / name))
    for path in (new_folder / "first").iterdir():
        assert path.read_bytes() == (new_folder / "second" / path.name).read_bytes()
    page = (new_folder / "first" / f"{name}.html").read_text()
    assert "http" not in page and "<script" not in page and "<link" not in page
    said = BeautifulSoup(page, "html.parser").find("figcaption").get_text()
    assert said.startswith(f"{figures()[name][1].label}. {caption(name)}")
    assert page.count(fragment(new_folder / "first" / f"{name}.html")) == 1


@each("name", TABLES)
def test_published_values_are_marked(made_up, new_folder, name):
    figure(name, "{}", str(made_up), str(new_folder / name))
    lines = BeautifulSoup((new_folder / f"{name}.html").read_text(), "html.parser").select("tbody tr")
    wanted = [any(label.startswith(PAPERS) for label in row) for row in rows(display(name, made_up))]
    assert any(wanted) == (name in WITH_PUBLISHED) and not all(wanted)
    for line, published in zip(lines, wanted, strict=True):
        assert all(("published" in cell["class"]) == published for cell in line.select("td"))


@each("name", TABLES)
def test_without_rows_it_says_why_beside_the_published_values(new_folder, made_up, name):
    for study in studies().values():
        for table, declared in study.tables.items():
            pd.DataFrame(columns=list(declared.columns)).to_parquet(new_folder / f"{table}.parquet")
    empty, usual = display(name, new_folder), display(name, made_up)
    assert re.search(r"\b(No|no|not)\b", " ".join(empty.notes)) and not usual.notes
    assert rows(empty) == [row for row in rows(usual) if any(label.startswith(PAPERS) for label in row)]
    assert bool(rows(empty)) == (name in WITH_PUBLISHED)
    empty.write(new_folder / name, "Label", "Caption.", ("html", "tex"))
    assert (
        empty.notes[0] in (new_folder / f"{name}.html").read_text() and empty.notes[0] in (new_folder / f"{name}.tex").read_text()
    )


@each("name", TABLES)
def test_every_setting_changes_the_cells(made_up, name):
    for key in figures()[name][1].model_fields:
        assert rows(display(name, made_up, **{key: _OTHER.get(key, 4)})) != rows(display(name, made_up)), key


@each("name", TABLES)
def test_a_caption_is_plain_text(name):
    assert not re.search(r"[`*|]|_\b", caption(name))


@each("prose", [False, True])
def test_characters_that_mean_something_in_html_or_latex_are_themselves(new_folder, prose):
    cells = frame([(NASTY, "a", NASTY, "1"), ("−λ × Δ∅", "b", "≈ 2 [−1, 3]", "–")], ("where", "SAE"), (NASTY, "n"))
    DisplayTable(cells, (NASTY,), prose).write(new_folder / "t", f"Table 9: {NASTY}", NASTY, ("html", "tex", "csv"))
    page, text = (new_folder / "t.html").read_text(), (new_folder / "t.tex").read_text()
    assert html_rows(page) == cells.reset_index().to_numpy().tolist() == csv_rows(new_folder / "t.csv")[1:]
    soup = BeautifulSoup(page, "html.parser")
    assert soup.title.get_text() == f"Table 9: {NASTY}" and soup.find("b") is None
    assert soup.find("figcaption").get_text() == f"Table 9: {NASTY}. {NASTY} {NASTY}"
    escaped = r"\textless{}b\textgreater{} \& 50 \% of a\_b \{c\} \textasciitilde{} \textasciicircum{} \textbackslash{}d \$1 \#2 \textbar{}"
    assert text.count(escaped) == (9 if prose else 7)  # a long table says heading and column again on its next page
    assert r"$-$$\lambda$ $\times$ $\Delta$$\emptyset$" in text and r"$\approx$ 2 [$-$1, 3]" in text
    assert f"\\caption[{escaped}]{{{escaped}. " in text  # not "Table 9": the document counts its own


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_latex_compiles_and_with_one_architecture_fits_a_page_5_5_inches_wide(tmp_path):
    tables = every_table(tmp_path / "tables")
    for name in TABLES:
        figure(name, "{}", str(tables), str(tmp_path / name))
    DisplayTable(frame([(NASTY, "−λ × Δ∅ ‖ · ≈ ² → –")], ("claim",), ("word",)), prose=True).write(
        tmp_path / "p", "A", NASTY, ("tex",)
    )
    inputs = "\n".join(f"\\input{{{name}}}" for name in (*TABLES, "p"))
    packages = "\\usepackage{array,booktabs,longtable}\n\\textwidth 5.5in"
    (tmp_path / "all.tex").write_text(
        f"\\documentclass{{article}}\n{packages}\n\\begin{{document}}\n{inputs}\n\\end{{document}}\n"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


@each("value, decimals, text", [(1234.5, 1, "1,234.5"), (float("nan"), 2, "–"), (-0.753, 2, "-0.75")])
def test_numbers(value, decimals, text):
    assert number(value, decimals) == text


def test_a_picture_s_setting_is_unknown_to_a_table(made_up, tmp_path):
    with pytest.raises(UserError, match="unknown configuration key `figures.norm_table.width`"):
        figure("norm_table", json.dumps({"width": 3.0}), str(made_up), str(tmp_path / "t"))
