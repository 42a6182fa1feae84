"""A notebook's hash reacts to its cells, and to nothing that running it changes."""

from __future__ import annotations

import json

import pytest

from saeworks.store import notebooks


@pytest.fixture
def hashed(tmp_path, monkeypatch):
    """The hash of a notebook of one cell with some `changes`."""
    monkeypatch.setattr(notebooks, "_FOLDER", tmp_path)

    def write(**changes: object) -> str:
        cell = {
            "cell_type": "code",
            "source": ["x = 1\n", "x"],
            "metadata": {"tags": ["parameters"], "execution": {"a": 1}},
            "outputs": [{"data": 1}],
            "execution_count": 3,
        }
        content = {"cells": [cell | changes], "metadata": {"kernelspec": {}}, "nbformat": 4}
        (tmp_path / "it.ipynb").write_text(json.dumps(content))
        return notebooks.notebook_hash("it")

    return write


def test_what_running_it_changes_does_not_count(hashed):
    before = hashed()
    assert hashed(outputs=[], execution_count=None) == before
    assert hashed(source="x = 1\nx") == before
    assert hashed(metadata={"tags": ["parameters"]}) == before


@pytest.mark.parametrize(
    "changes", [{"source": ["x = 2"]}, {"cell_type": "markdown"}, {"metadata": {"tags": []}}, {"metadata": {}}]
)
def test_its_cells_count(hashed, changes):
    assert hashed(**changes) != hashed()


def test_notebooks_lie_beside_the_package():
    assert notebooks.notebook_path("braun2024").is_file()
