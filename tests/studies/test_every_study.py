"""Every study, found by its folder: what it declares is what it measures, on an experiment of tiny runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from tests.each import each

import saeworks.studies
from saeworks.config.experiment import Experiment
from saeworks.store.errors import UserError
from saeworks.studies import Study, figures, studies
from saeworks.studies.gather import gather
from saeworks.studies.measure import measure

MEASURED = [name for name, study in studies().items() if study.tables]
HELD_OUT = [name for name, study in studies().items() if study.settings and "n_tokens" in study.settings.model_fields]
FOLDER = Path(saeworks.studies.__file__).parent


@each("name", MEASURED)
def test_its_tables_have_rows_and_the_columns_that_it_declares(experiment, name):
    study = studies()[name]
    for table, declared in study.tables.items():
        path = experiment.tables_of(study) / f"{table}.parquet"
        found = pd.read_parquet(path)
        assert list(found.columns) == list(declared.columns) and len(found), table
        assert [file.name for file in sorted(path.parent.glob(f"{table}.*"))] == sorted(declared.files(table))
        if study.scope != "experiment":
            assert found.columns[0] == study.scope
            assert set(found[study.scope]) == set(experiment.places(study))


@each("name", [name for name in MEASURED if not studies()[name].wall_clock])
def test_measured_again_it_gives_equal_bytes(experiment, new_folder, name):
    study = studies()[name]
    at = experiment.places(study)[0]
    experiment.measure(study, at, new_folder)
    assert sorted(path.stem for path in new_folder.iterdir()) == sorted(study.tables)
    for path in new_folder.iterdir():
        assert path.read_bytes() == (experiment.root / "parts" / name / at / path.name).read_bytes()


@each("name", HELD_OUT)
def test_it_uses_as_many_held_out_tokens_as_asked_for_and_there_are(experiment, new_folder, name):
    study = studies()[name]
    with pytest.raises(UserError, match=f"`studies.{name}.n_tokens` asks for 12,000 tokens, but the corpus holds out 120"):
        experiment.measure(study, experiment.places(study)[0], new_folder, n_tokens=12_000)
    assert not list(new_folder.iterdir())


def test_what_each_declares_is_there():
    tables = {table for other in studies().values() for table in other.tables}
    for name, study in studies().items():
        _check(name, study, tables)


def _check(name: str, study: Study, tables: set[str]) -> None:
    assert study.title and study.description.endswith(".")
    assert set(study.reads) <= tables - study.tables.keys()
    assert study.needs <= {"model", "corpus", "saes", "seeds"}
    assert all(column.meaning for table in study.tables.values() for column in table.columns.values())
    assert bool(study.tables) == (FOLDER / name / "measure.py").exists()
    for figure, style in study.figures.items():
        assert (FOLDER / name / f"{figure}.py").exists() and style.label and set(style.reads) <= tables
        assert (FOLDER / name / f"{figure}.rst").read_text().strip()
    if study.settings is not None:
        assert study.files(study.settings()) == [] and isinstance(study.given(study.settings()), bool)


def test_tables_and_figures_have_one_study_each():
    assert sum(len(study.tables) for study in studies().values()) == len({t for s in studies().values() for t in s.tables})
    assert sum(len(study.figures) for study in studies().values()) == len(figures())
    assert Experiment.model_fields["figures"].annotation.model_fields.keys() == figures().keys()


def test_reading_what_studies_declare_loads_no_slow_library():
    code = "import sys; from saeworks.studies import figures; figures(); from saeworks.config.experiment import Experiment; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "pandas", "matplotlib", "seaborn", "scipy"} & set(loaded)


def test_a_new_folder_is_a_study(monkeypatch, tmp_path):
    """Nothing is edited: a folder with a STUDY appears among the studies, in the configuration and in an experiment's lists."""
    package = tmp_path / "saeworks"
    for path in FOLDER.parent.rglob("*.py"):
        copy = package / path.relative_to(FOLDER.parent)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    new = package / "studies" / "counts"
    new.mkdir()
    (new / "settings.py").write_text(
        "from ...config.base import Frozen\nfrom ...config.figures import FigureStyle\n\n\n"
        'class CountsConfig(Frozen):\n    """Settings."""\n\n    least: int = 1\n\n\n'
        'class CountsFigure(FigureStyle):\n    """How many there are."""\n\n    label = "Counts"\n    reads = ("counts",)\n'
    )
    (new / "__init__.py").write_text(
        "from ..study import Column, Study, Table\nfrom .settings import CountsConfig, CountsFigure\n\n"
        'TABLES = {"counts": Table("Counts.", {"hook_point": Column("where"), "n": Column("how many", "runs")})}\n'
        'STUDY = Study("Counts", "Runs at a hook point.", "hook_point", TABLES, {"counts": CountsFigure}, CountsConfig, reads=("runs",))\n'
    )
    (new / "measure.py").write_text(
        'import pandas as pd\n\n\ndef measure(place, settings):\n    return {"counts": pd.DataFrame({"n": [max(settings.least, len(place.runs))]})}\n'
    )
    (new / "claims.py").write_text(
        "from ..claim import Claim\nfrom ..tables import read_table\n\n\n"
        "def claims(hook_point, tables):\n"
        '    n = read_table(tables, "counts")["n"].iloc[0]\n'
        '    return [Claim(hook_point, "runs", "1", "nobody", 0.0, 1.0).measured(n, "counted")]\n'
    )
    (new / "counts.py").write_text(
        "from ..plot import only_message\nfrom ..tables import read_table\n\n\n"
        'def draw(tables, config):\n    return only_message(config, str(read_table(tables, "counts")["n"].iloc[0]))\n'
    )
    tables = tmp_path / "results" / "x" / "tables"
    tables.mkdir(parents=True)
    columns = [
        "run",
        "group",
        "hook_point",
        "layer",
        "objective",
        "architecture",
        "family",
        "sparsity_coeff",
        "k",
        "seed",
        "model",
    ]
    row = ["a/r", "g", "a", 1, "local", "relu", "f", 1.0, None, 0, "m"]
    pd.DataFrame([row], columns=columns).to_parquet(tables / "runs.parquet")
    pd.DataFrame({"layer": [-1, 8]}).to_parquet(tables / "fidelity.parquet")  # which every figure reads, for the number of layers
    experiment = {"experiment": "x", "model": {"source": "own", "name": "m"}, "studies": {"counts": {"least": 3}}}
    experiment["runs"] = {"g": {"objective": "local", "hook_points": ["blocks.1.hook_resid_pre"], "sparsity_coeffs": [1]}}
    code = f"""
from saeworks.config.experiment import parse_experiment
from saeworks.studies.claims import claims
from saeworks.studies.draw import figure
from saeworks.studies.gather import gather
from saeworks.studies.measure import measure
from pathlib import Path
experiment = parse_experiment({experiment!r})
assert "counts" in experiment.study_names() and "counts" in experiment.figure_names()
measure("counts", experiment.study_settings("counts").model_dump_json(), "x", "part", "a")
gather("counts", ["part"], "results/x/tables")
figure("counts", "{{}}", "results/x/tables", "out/counts")
print(*claims(Path("results/x/tables"), ["counts"])[["claim", "verdict", "ours"]].iloc[0])
"""
    environment = {"PYTHONPATH": str(tmp_path), "PATH": "", "MPLCONFIGDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["runs", "reproduced", "3.0"], done.stderr
    assert (tables / "counts.csv").read_text() == "hook_point,n\na,3\n"
    assert (tmp_path / "out" / "counts.png").exists() and (tmp_path / "out" / "counts.svg").exists()


@each(
    "call, sentence",
    [
        ({"study": "geometri"}, "there is no study 'geometri' that measures (did you mean 'geometry'?); there are runs, "),
        ({"study": "sweeps"}, "there is no study 'sweeps' that measures; there are runs, "),
        (
            {"study": "umap", "at": "blocks.2.hook_resid_pre", "model": "m", "corpus": "c", "spec": json.dumps({"seeds": 1})},
            "unknown configuration key `studies.umap.seeds` (did you mean 'seed'",
        ),
    ],
)
def test_a_wrong_study_or_setting_is_one_sentence(new_folder, call, sentence):
    with pytest.raises(UserError) as caught:
        given = {"spec": "{}", "experiment": "x", "out": str(new_folder)} | call
        measure(given.pop("study"), **given)
    assert str(caught.value).startswith(sentence) and "\n" not in str(caught.value)


def test_parts_without_rows_leave_the_types_of_the_others(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    columns = list(studies()["geometry"].tables["matches"].columns)
    for part, rows in (("empty", []), ("full", [["h", "a", "b", 1, 2, 0.5, 3, 0.25]])):
        (tmp_path / part).mkdir()
        for table in studies()["geometry"].tables:
            pd.DataFrame(rows if table == "matches" else [], columns=columns if table == "matches" else ["x"]).to_parquet(
                tmp_path / part / f"{table}.parquet"
            )
    gather("geometry", ["empty", "full"], "results/x/tables")
    matches = pd.read_parquet("results/x/tables/matches.parquet")
    assert matches["feature"].dtype == "int64" and len(matches) == 1
    gather("geometry", ["empty"], "results/x/tables")
    matches = pd.read_parquet("results/x/tables/matches.parquet")
    assert list(matches.columns) == columns and matches.empty
