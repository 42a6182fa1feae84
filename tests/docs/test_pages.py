"""The written pages: their links lead somewhere, their experiments are valid, and the README stays short."""

import re
from pathlib import Path

import pytest
import yaml

from saeworks.config.experiment import parse_experiment

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BY_PATH = {str(page.relative_to(ROOT)): page for page in PAGES}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 900


@pytest.mark.parametrize("path", [path for path in BY_PATH if "](" in BY_PATH[path].read_text()])
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
                yield pytest.param(values, id=f"{path}-{i}")


@pytest.mark.parametrize("values", _experiments())
def test_every_experiment_that_a_page_shows_is_valid(values):
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
