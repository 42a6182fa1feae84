"""The notebook on made-up tables."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from tests.studies.made_up import all_claims, synthetic_tables, with_evaluation

from saeworks.store.errors import UserError
from saeworks.studies import figures, notebook
from saeworks.studies.claims import summary
from saeworks.studies.draw import figure
from saeworks.studies.reading import ARCHITECTURES, OBJECTIVES
from saeworks.studies.tables import read_table, write_table

NOTEBOOK = Path(notebook.__file__).parents[2] / "notebooks" / "braun2024.ipynb"
DRAWN = ["pareto", "residual_mse", "within_dictionary", "cross_seed", "norm_table"]


def with_claims(tables: Path) -> Path:
    """Add the table of claims."""
    write_table(all_claims(tables), tables / "claims.parquet", csv=False)
    return tables


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Tables, figures and a display table (read only)."""
    folder = tmp_path_factory.mktemp("made")
    tables = with_claims(with_evaluation(synthetic_tables(folder / "tables")))
    for name in DRAWN:
        settings = {"dpi": 60} if "png" in figures()[name][1].kinds else {}
        figure(name, json.dumps(settings), str(tables), str(folder / "figures" / name))
    return folder


@pytest.fixture
def workplace(made, tmp_path, monkeypatch) -> Path:
    """A working directory with tables and figures."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_runs_to_equal_bytes_and_holds_no_trace_of_the_place(workplace):
    run = notebook.run_notebook
    run(NOTEBOOK, "tables", "figures", DRAWN, "made-up", "first/n.ipynb", "first/n.html")
    run(NOTEBOOK, str(workplace / "tables"), str(workplace / "figures"), DRAWN, "made-up", "second/n.ipynb", "second/n.html")
    for name in ("n.ipynb", "n.html"):
        first, second = (Path(folder, name).read_text() for folder in ("first", "second"))
        assert first == second
        assert str(workplace) not in first and str(NOTEBOOK.parent) not in first and os.path.expanduser("~/") not in first
    html = Path("first/n.html").read_text()
    assert len(re.findall('<img alt="[^"]{30,}" src="data:image/png;base64,', html)) == 4
    assert "<script" not in html and "<link" not in html
    assert summary(read_table(Path("tables"), "claims")) in html
    assert html.count('<table id="T_norm_table">') == html.count('<table id="T_claims">') == 1
    executed = nbformat.read("first/n.ipynb", 4)
    nbformat.validate(executed)
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
    assert all(output.output_type != "error" and output.get("name") != "stderr" for output in outputs)
    assert not any("papermill" in cell.metadata or "execution" in cell.metadata for cell in executed.cells)
    assert sorted(path.name for path in Path().iterdir()) == ["figures", "first", "second", "tables"]


def test_without_seed_pairs_or_e2e_ds(workplace, make_tables):
    with_claims(make_tables("fewer", seeds=(0,), objectives=("local", "e2e")))
    notebook.run_notebook(NOTEBOOK, "fewer", "figures", ["pareto"], "fewer", "n.ipynb", "n.html")
    html = Path("n.html").read_text()
    assert "No such runs in this experiment" in html and html.count('src="data:image/png') == 1


@pytest.mark.slow
def test_with_all_objectives_and_architectures(workplace, make_tables):
    with_claims(
        make_tables("more", objectives=OBJECTIVES, architectures=tuple(ARCHITECTURES), hook_points=("blocks.4.hook_mlp_out",))
    )
    notebook.run_notebook(NOTEBOOK, "more", "figures", DRAWN, "more", "n.ipynb", "n.html")
    html = Path("n.html").read_text()
    assert "fine-tuned, Matryoshka, k = 32, seed 1" in html and "λ = nan" not in html


def test_a_failing_cell_is_one_sentence_and_leaves_nothing(workplace):
    cells = [
        new_code_cell("tables = ''", metadata={"tags": ["parameters"]}),
        new_code_cell("raise ValueError('no\\nsuch thing')"),
    ]
    nbformat.write(new_notebook(cells=cells), "bad.ipynb")
    with pytest.raises(UserError, match="notebook bad.ipynb failed in cell 3: ValueError: no such thing"):
        notebook.run_notebook("bad.ipynb", "tables", "figures", DRAWN, "made-up", "n.ipynb", "n.html")
    assert not Path("n.ipynb").exists() and not Path("n.html").exists()


def test_a_missing_folder_is_one_sentence(workplace):
    with pytest.raises(UserError, match="nowhere is missing"):
        notebook.run_notebook(NOTEBOOK, "nowhere", "figures", DRAWN, "made-up", "n.ipynb", "n.html")


def test_the_notebook_in_the_repository_has_no_outputs():
    source = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(source)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in source.cells)


def test_the_stage_runs_a_notebook_of_the_workflow(workplace):
    notebook.notebook("braun2024", "tables", "figures", "made-up", "n.ipynb", "n.html", DRAWN)
    assert "<title>made-up — saeworks</title>" in Path("n.html").read_text()


def test_a_kernel_that_dies_is_one_sentence(workplace):
    nbformat.write(new_notebook(cells=[new_code_cell("import os; os._exit(1)")]), "dies.ipynb")
    with pytest.raises(UserError, match="the kernel of notebook dies.ipynb did not start or died"):
        notebook.run_notebook("dies.ipynb", "tables", "figures", DRAWN, "made-up", "n.ipynb", "n.html")
