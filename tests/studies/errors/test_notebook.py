"""The notebook of the study on made-up tables."""

from __future__ import annotations

import json

import pytest
from tests.studies.made_up import all_claims, every_table

from saeworks.store.notebooks import notebook_title
from saeworks.studies import figures, studies
from saeworks.studies.draw import figure
from saeworks.studies.notebook import notebook
from saeworks.studies.tables import write_table


@pytest.mark.slow
def test_it_shows_every_figure_of_the_study_and_ends_in_its_claims(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tables = every_table(tmp_path / "tables")
    write_table(all_claims(tables), tables / "claims.parquet", csv=False)
    drawn = [name for name, (study, _) in figures().items() if study.name == "errors"]
    for name in drawn:
        settings = {"dpi": 40} if "png" in figures()[name][1].kinds else {}
        figure(name, json.dumps(settings), "tables", f"figures/{name}")
    notebook(studies()["errors"].notebook, "tables", "figures", "made-up", "n.ipynb", "n.html", drawn)
    page = (tmp_path / "n.html").read_text()
    assert notebook_title("gurnee2024") == "Are SAE reconstruction errors pathological? A reproduction"
    assert page.count('class="jp-RenderedImage') == len(drawn) - 1  # one is a table
    for said in ("<em>Not drawn", "<em>No directions"):
        assert said not in page
    for said in ("over ε-random", "Lee &amp; Heimersheim 2024", "ε-random", "Gurnee 2024"):
        assert said in page
    assert "nearest neighbour" not in page[page.index("Claim by claim") :]  # those of other papers are not among them


def test_every_figure_of_the_study_has_its_place_in_the_notebook():
    from saeworks.store.notebooks import notebook_path

    cells = json.loads(notebook_path("gurnee2024").read_text(encoding="utf-8"))["cells"]
    source = "".join("".join(cell["source"]) for cell in cells)
    assert all(f'figure("{name}"' in source for name in studies()["errors"].figures)
