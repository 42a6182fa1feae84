"""The written pages: links lead somewhere, experiments are valid, numbers of results come from files, and the README stays short."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from tests.each import each

from saeworks.config.experiment import parse_experiment

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BY_PATH = {str(page.relative_to(ROOT)): page for page in PAGES}
# digits that name something, which no result can change
_NAMES = re.compile(
    r"(?:Fig\.|Tables?) \d+[a-z]?(?:(?:,| and| to) \d+[a-z]?)*|et al\. \d{4}|\(\w+ \d{4}\)|(?:layer|block|position|seed) \d+\b|\w*[A-Za-z]-?\d\w*"
)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 900


@each("path", [path for path in BY_PATH if "](" in BY_PATH[path].read_text()])
def test_every_link_to_a_file_leads_to_one(path):
    page = BY_PATH[path]
    targets = re.findall(r"\]\((?!https?:|#)([^)\s#]+)", page.read_text())
    generated = {ROOT / "docs" / "tutorial.md"}  # made from the notebook
    missing = [t for t in targets if not (page.parent / t).exists() and (page.parent / t).resolve() not in generated]
    assert not missing


def _experiments():
    for path, page in BY_PATH.items():
        for i, block in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text(), flags=re.DOTALL)):
            values = yaml.safe_load(block)
            if isinstance(values, dict) and "runs" in values:
                yield f"{path}, block {i}", values


@each("block, values", list(_experiments()))
def test_every_experiment_that_a_page_shows_is_valid(block, values):
    """A block that is only a part is tried as a part of the default experiment."""
    default = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
    whole = values if "experiment" in values else default | {"runs": default["runs"] | values["runs"]}
    experiment = parse_experiment(whole)
    assert set(values["runs"]) <= set(experiment.runs)


def test_every_file_of_the_documentation_that_names_a_make_target_names_one_that_exists():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for path, page in BY_PATH.items():
        named = set(re.findall(r"`make (\w+)`", page.read_text()))
        assert named <= targets, path


def _numbers(markdown: str) -> list[str]:
    """Words with a digit that are neither code, address nor comment, nor name something."""
    text = re.sub(r"```.*?```|<!--.*?-->", " ", markdown, flags=re.DOTALL)
    text = re.sub(r"`[^`]*`|\]\([^)]*\)", " ", text)
    return re.findall(r"\S*\d\S*", _NAMES.sub(" ", text))


@each("page", ["results.md", "performance.md"])
def test_no_number_of_a_result_is_written_by_hand(page):
    assert _numbers((ROOT / "docs" / page).read_text()) == []


@each("sentence, numbers", [
    ("At equal L0 they cost 0.45 of it (Fig. 1 and 4) before block 4.", ["0.45"]),
    ("Of `e2e-c0.5-s0` 8 % are shared, as Braun et al. 2024 say.", ["8"]),
    ("e2e takes [2.7](a1.md) times, GPT-2 has layer 6.", ["[2.7"]),
    ("Takes 20 s\n<!-- saeworks: claims 3 -->", ["20"]),
])  # fmt: skip
def test_numbers_are_told_from_names(sentence, numbers):
    assert _numbers(sentence) == numbers


def test_the_readme_s_waiting_times_are_those_of_the_stored_benchmark():
    path = ROOT / "results" / "benchmarks" / "from_clone.json"
    if not path.exists():
        pytest.skip("tests/benchmarks/from_clone.py has not been run")
    stored, readme = json.loads(path.read_text()), (ROOT / "README.md").read_text()
    minutes = re.search(r"installation takes (\d+) minutes, training and everything after it (\d+)", readme)
    assert [int(m) for m in minutes.groups()] == [round(stored[key] / 60) for key in ("install_s", "figures_s")]
    for page in (readme, (ROOT / "CONTRIBUTING.md").read_text()):
        assert re.search(r"([\d.]+) GB on the disk", page)[1] == f"{stored['environment_gb']:.1f}"


@pytest.fixture
def hooks(monkeypatch):
    """docs/hooks.py, which makes what the pages take from stored files."""
    pytest.importorskip("mkdocs")
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import hooks

    return hooks


def test_tables_of_speed_are_the_stored_benchmarks(hooks):
    for name, shown in (("training", hooks.training_speed), ("end_to_end", hooks.end_to_end)):
        results = json.loads((ROOT / "results" / "benchmarks" / f"{name}.json").read_text())["results"]
        for threads in (1, 2):
            of_threads = [r for r in results if r["threads"] == threads]
            cells = re.findall(r"(?<=\| )[\d,]+(?= |\u00a0)", shown(str(threads)))
            assert sorted(cells) == sorted(f"{r['tokens_per_s']:,.0f}" for r in of_threads)


def test_the_cost_of_the_study_of_errors_is_the_stored_benchmark_or_says_that_there_is_none(hooks, tmp_path, monkeypatch):
    monkeypatch.setattr(hooks, "ROOT", tmp_path)
    assert "results/benchmarks/errors.json` is missing" in hooks.errors_cost()
    (tmp_path / "results" / "benchmarks").mkdir(parents=True)
    stored = {"setting": {"saes": 3, "d_sae": 1024, "model": "toy"}, "machine": {"threads": 2}}
    stored["all_layers_together"] = {"all": {"over_ideal": 1.234, "over_forwards": 1.456}}
    (tmp_path / "results" / "benchmarks" / "errors.json").write_text(json.dumps(stored))
    assert "| all | 1.46 | 1.23 |" in hooks.errors_cost()


def test_the_table_across_seeds_is_of_the_tables(hooks, tmp_path, monkeypatch):
    monkeypatch.setattr(hooks, "ROOT", tmp_path)
    assert "results/five/tables/runs.parquet" in hooks.across_seeds("five")
    folder = tmp_path / "results" / "five" / "tables"
    folder.mkdir(parents=True)
    runs = [f"hook/e2e-c1-s{seed}" for seed in range(3)]
    run = {
        "group": "e2e",
        "hook_point": "hook",
        "layer": 4,
        "objective": "e2e",
        "architecture": "relu",
        "family": "f",
        "settings": "f",
    }
    rows = [{"run": name, **run, "sparsity_coeff": 1.0, "k": None, "seed": seed} for seed, name in enumerate(runs)]
    pd.DataFrame(rows).to_parquet(folder / "runs.parquet")
    measured = [
        {"run": name, "metric": metric, "layer": -1, "positions": "all", "value": value * (1 + seed)}
        for seed, name in enumerate(runs)
        for metric, value in (("l0", 10.0), ("ce_increase", 0.1))
    ]
    pd.DataFrame(measured).to_parquet(folder / "fidelity.parquet")
    pair = {"hook_point": "hook", "run_a": runs[0], "run_b": runs[1], "ci_low": 0.1, "ci_high": 0.9, "resampled": "seed pairs"}
    found = {("matched_cosine", "decoder"): 0.2, ("matched_cosine", "encoder"): 0.3, ("shared_fraction", "both"): 0.4}
    matching = pair | {"comparison": "cross_seed", "features": "alive", "random_baseline": 0.1}
    rows = [
        matching | {"metric": metric, "directions": directions, "value": value} for (metric, directions), value in found.items()
    ]
    pd.DataFrame(rows).to_parquet(folder / "matching.parquet")
    aligned = {"codes": 0.5, "codes_activations": 0.4, "codes_untrained": 0.3, "codes_shuffled": 0.0}
    rows = [pair | {"partner": partner, "metric": "cka", "value": value} for partner, value in aligned.items()]
    pd.DataFrame(rows).to_parquet(folder / "firing.parquet")
    cells = hooks.across_seeds("five").splitlines()[-1].split(" | ")
    assert cells[:4] == ["| e2e", "3", "20.0 (10.0 to 30.0)", "0.200 (0.100 to 0.300)"]
    assert [cell.split()[0] for cell in cells[4:]] == ["0.200", "0.300", "0.100", "0.400", "0.500", "0.400", "0.300"]
