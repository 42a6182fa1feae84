"""Fixtures of the tests of studies."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.once import once
from tests.studies import tiny_experiment
from tests.studies.made_up import synthetic_tables
from tests.studies.tiny_experiment import TinyExperiment


@pytest.fixture
def make_tables(tmp_path):
    """A function that writes made-up tables to a new folder under the test's own and returns it."""

    def make(name: str = "tables", **settings) -> Path:
        return synthetic_tables(tmp_path / name, **settings)

    return make


@pytest.fixture(scope="session")
def experiment(tmp_path_factory, tiny_model, tiny_corpus) -> TinyExperiment:
    """A trained experiment of a few seconds and all its tables (read only)."""

    def at(folder: Path) -> TinyExperiment:
        return tiny_experiment.at(folder, tiny_model, tiny_corpus)

    return at(once(tmp_path_factory, "experiment", lambda folder: tiny_experiment.make(at(folder))))
