"""The notebook on made-up tables."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from tests.studies.made_up import all_claims, synthetic_tables

from saeworks.store.errors import UserError
from saeworks.studies import notebook
from saeworks.studies.draw import figure
from saeworks.studies.reading import ARCHITECTURES, OBJECTIVES
from saeworks.studies.tables import write_table

NOTEBOOK = Path(notebook.__file__).parents[2] / "notebooks" / "braun2024.ipynb"


def with_claims(tables: Path) -> Path:
    """Add the table of claims."""
    write_table(all_claims(tables), tables / "claims.parquet", csv=False)
    return tables


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Tables and figures (read only)."""
    folder = tmp_path_factory.mktemp("made")
    tables = with_claims(synthetic_tables(folder / "tables"))
    for name in ("pareto", "residual_mse", "within_dictionary", "cross_seed"):
        figure(name, '{"dpi": 60}', str(tables), str(folder / "figures" / name))
    return folder


@pytest.fixture
def workplace(made, tmp_path, monkeypatch) -> Path:
    """A working directory with tables and figures."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_notebook_runs_to_equal_bytes_and_holds_no_trace_of_the_place(workplace):
    main = notebook.run_notebook
    main(str(NOTEBOOK), "tables", "figures", "made-up", "first/n.ipynb", "first/n.html")
    main(str(NOTEBOOK), str(workplace / "tables"), str(workplace / "figures"), "made-up", "second/n.ipynb", "second/n.html")
    for name in ("n.ipynb", "n.html"):
        first, second = (Path(folder, name).read_text() for folder in ("first", "second"))
        assert first == second
        assert str(workplace) not in first and str(NOTEBOOK.parent) not in first and os.path.expanduser("~/") not in first
    html = Path("first/n.html").read_text()
    assert len(re.findall('<img alt="[^"]{30,}" src="data:image/png;base64,', html)) == 4
    assert "<script" not in html and "<link" not in html
    assert "20 reproduced, 3 not reproduced, 2 cannot be tested" in html
    executed = nbformat.read("first/n.ipynb", 4)
    outputs = [output.get("data", {}) for cell in executed.cells for output in cell.get("outputs", [])]
    links = [re.search('src="([^"]*)"', data["text/html"])[1] for data in outputs if "<img" in data.get("text/html", "")]
    assert len(links) == 4 and all(Path("first", link).is_file() for link in links)
    assert "image/png" not in Path("first/n.ipynb").read_text()
    assert not any("papermill" in cell.metadata or "execution" in cell.metadata for cell in executed.cells)
    assert all(
        output.output_type != "error" and output.get("name") != "stderr"
        for c in executed.cells
        for output in c.get("outputs", [])
    )


def test_notebook_without_seed_pairs_or_e2e_ds(workplace, make_tables):
    with_claims(make_tables("fewer", seeds=(0,), objectives=("local", "e2e")))
    notebook.run_notebook(str(NOTEBOOK), "fewer", "figures", "fewer", "n.ipynb", "n.html")
    assert "No such runs in this experiment" in Path("n.html").read_text()


@pytest.mark.slow
def test_notebook_with_all_objectives_and_architectures(workplace, make_tables):
    with_claims(
        make_tables("more", objectives=OBJECTIVES, architectures=tuple(ARCHITECTURES), hook_points=("blocks.4.hook_mlp_out",))
    )
    notebook.run_notebook(str(NOTEBOOK), "more", "figures", "more", "n.ipynb", "n.html")
    html = Path("n.html").read_text()
    assert "fine-tuned, Matryoshka, k = 32, seed 1" in html and "λ = nan" not in html


@pytest.mark.slow
def test_notebooks_that_run_at_once_do_not_meet(workplace):
    code = "import sys; from saeworks.studies.notebook import run_notebook; run_notebook(*sys.argv[1:])"
    paths = os.environ | {"PYTHONPATH": str(NOTEBOOK.parents[1])}
    jobs = []
    for folder in ("a", "b"):
        arguments = [str(NOTEBOOK), "tables", "figures", "made-up", f"{folder}/n.ipynb", f"{folder}/n.html"]
        jobs.append(subprocess.Popen([sys.executable, "-c", code, *arguments], env=paths))
    assert [job.wait() for job in jobs] == [0, 0]
    assert Path("a/n.html").read_bytes() == Path("b/n.html").read_bytes()
    assert sorted(path.name for path in Path().iterdir()) == ["a", "b", "figures", "tables"]


@pytest.mark.slow
def test_notebook_runs_where_socket_files_cannot_be(workplace, monkeypatch):
    deep = workplace / ("deep" * 30)  # the path of a socket file has at most 107 characters
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    notebook.run_notebook(str(NOTEBOOK), "tables", "figures", "made-up", "n.ipynb", "n.html")
    assert Path("n.html").exists() and not list(deep.iterdir())


def test_a_failing_cell_is_one_sentence_and_leaves_nothing(workplace):
    cells = [
        new_code_cell("tables = ''", metadata={"tags": ["parameters"]}),
        new_code_cell("raise ValueError('no\\nsuch thing')"),
    ]
    nbformat.write(new_notebook(cells=cells), "bad.ipynb")
    with pytest.raises(UserError, match="notebook bad.ipynb failed in cell 3: ValueError: no such thing"):
        notebook.run_notebook("bad.ipynb", "tables", "figures", "made-up", "n.ipynb", "n.html")
    assert not Path("n.ipynb").exists() and not Path("n.html").exists()


def test_a_missing_folder_is_one_sentence(workplace):
    with pytest.raises(UserError, match="nowhere is missing"):
        notebook.run_notebook(str(NOTEBOOK), "nowhere", "figures", "made-up", "n.ipynb", "n.html")


def test_the_notebook_in_the_repository_has_no_outputs():
    source = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(source)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in source.cells)
