"""Two experiments on the same corpus: the second takes over what the first has built, if it is still what it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from saeworks.lm import corpus, shared_corpus
from saeworks.store.files import read_json, sha256_file, write_json

_FILES = ("train.npy", "eval.npy", "manifest.json")
Stage = Callable[..., tuple[dict[str, bytes], bool]]


@pytest.fixture
def stage(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Run the stage for an experiment; its files' bytes, and whether the rows were built."""
    built, real = [], corpus.build_corpus

    def build(*arguments):
        built.append(1)
        return real(*arguments)

    monkeypatch.setattr(corpus, "build_corpus", build)

    def call(experiment: str, fingerprint: str | None = "abc", key: str = "key"):
        built.clear()
        spec = {"source": "sampled", "n_tokens": 60, "eval_tokens": 12, "context": 6}
        out = tmp_path / experiment / key
        shared_corpus.main(json.dumps(spec), str(tiny_model), str(out), "cpu", fingerprint)
        return {name: (out / name).read_bytes() for name in _FILES}, bool(built)

    return call


def test_the_second_experiment_takes_the_rows_of_the_first(stage):
    first, built = stage("first")
    assert built
    assert stage("second") == (first, False)


@pytest.mark.parametrize("changed", [{"fingerprint": "other"}, {"fingerprint": None}, {"key": "another"}])
def test_rows_of_other_settings_are_not_taken(stage, changed):
    stage("first")
    assert stage("second", **changed)[1]


def test_rows_that_changed_since_are_not_taken(stage, tmp_path):
    stage("first")
    path = tmp_path / "first" / "key" / "eval.npy"
    np.save(path, np.load(path)[::-1])
    assert stage("second")[1]


@pytest.mark.parametrize("mend", [False, True])
def test_rows_made_from_a_file_that_changed_since_are_not_taken(stage, tmp_path, mend):
    stage("first")
    source = tmp_path / "source.txt"
    source.write_text("old")
    manifest = read_json(tmp_path / "first" / "key" / "manifest.json")
    manifest["sources"] = {str(source): sha256_file(source)}
    write_json(tmp_path / "first" / "key" / "manifest.json", manifest)
    source.write_text("old" if mend else "new")
    assert stage("second")[1] is not mend


def test_an_unfinished_corpus_is_not_taken(stage, tmp_path):
    stage("first")
    (tmp_path / "first" / "key" / "manifest.json").unlink()
    assert stage("second")[1]
