"""A run is found again with everything that it was made from, and its evaluation comes out the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import saeworks
from saeworks.activations.cache import ActivationCache, write_cache
from saeworks.activations.stream import ActivationStream
from saeworks.config.activations import ActivationsConfig
from saeworks.config.model import PathModel
from saeworks.lm.prepare import prepare
from saeworks.store.errors import UserError
from saeworks.studies.fidelity.measure import measure
from saeworks.studies.fidelity.settings import FidelityConfig
from saeworks.studies.place import Place
from saeworks.training.run import train
from tests import tiny_pipeline
from tests.tiny import model as tiny_hf
from tests.tiny_pipeline import CONTEXT, HOOK, run_spec

_CONFIG = ActivationsConfig(batch_rows=7)
_EVALUATION = FidelityConfig(n_tokens=8 * CONTEXT, batch_rows=3)
_RUNS = {
    "local": {"objective": "local"},
    "gated": {"architecture": "gated", "activation_scale": "norm", "pre_bias": True},
    "topk": {"architecture": "topk", "k": 4, "activation_scale": "layer_norm", "sparsity_coeff": None},
    "batch_topk": {"architecture": "batch_topk", "k": 4, "sparsity_coeff": None},
    "e2e": {"objective": "e2e"},
}


def _spec(name: str):
    changes = dict(_RUNS[name])
    k = changes.pop("k", None)
    spec = run_spec(changes.pop("objective", "local"), name=name, **changes)
    return spec.model_copy(update={"k": k})


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment's folders, with names that nothing can be read from, and another model and corpus beside its own."""
    root = tmp_path_factory.mktemp("experiment")
    models = [tiny_pipeline.write_model(root / "data" / "prepared" / f"m{seed}", seed=seed) for seed in (0, 1)]
    corpora = root / "data" / "corpora"
    tiny_pipeline.write_corpus(corpora / "other" / "a", models[1])
    corpus = tiny_pipeline.write_corpus(corpora / "tiny" / "b", models[0])
    cache = root / "data" / "activations" / "c"
    write_cache(_CONFIG, [HOOK], models[0], corpus, cache)
    for name in _RUNS:
        out = root / "results" / "tiny" / "saes" / HOOK / name
        train(_spec(name), _CONFIG, cache, models[0], corpus, out, root / "scratch" / name, progress=False)
    return root


def _run(root: Path, name: str = "local") -> Path:
    return root / "results" / "tiny" / "saes" / HOOK / name


def _copy(root: Path, to: Path) -> Path:
    shutil.copytree(root, to, dirs_exist_ok=True)
    return to


def _sentence(run: Path, root: Path) -> str:
    with pytest.raises(UserError) as caught:
        saeworks.load_session(run, root)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


@pytest.mark.parametrize("name", _RUNS)
def test_a_session_reproduces_the_evaluation_of_the_run(experiment, name):
    session = saeworks.load_session(_run(experiment, name), experiment, evaluation=_EVALUATION)
    data = experiment / "data"
    place = Place(experiment / "results" / "tiny", f"{HOOK}/{name}", data / "prepared" / "m0", data / "corpora" / "tiny" / "b")
    measured = measure(place, _EVALUATION)
    for table, stored in zip(session.evaluate(), (measured[file] for file in ("fidelity", "features", "tokens")), strict=True):
        assert list(table.columns) == list(stored.columns) and len(table) == len(stored)
        for column in table.columns:
            if table[column].dtype == np.float64:
                np.testing.assert_allclose(table[column], stored[column], rtol=1e-6, atol=1e-6)
            else:
                assert (table[column] == stored[column]).all()


def test_three_lines_give_model_sae_and_activations(experiment, monkeypatch):
    monkeypatch.chdir(experiment)
    model, sae, activations = saeworks.load_session(f"results/tiny/saes/{HOOK}/local")
    x = activations.tokens(0, 5)
    assert x.shape == (5, sae.d_in) and sae.encode(x).shape == (5, sae.d_sae)
    assert isinstance(activations, ActivationCache)
    assert torch.equal(sae.W_dec, saeworks.load_run(_run(experiment)).W_dec)
    assert model.arch.n_layers == tiny_pipeline.N_LAYERS


def test_without_the_cache_the_same_activations_are_computed(experiment, tmp_path):
    root = _copy(experiment, tmp_path)
    _, _, cached = saeworks.load_session(_run(root), root)
    shutil.rmtree(root / "data" / "activations")
    model, _, streamed = saeworks.load_session(_run(root), root)
    assert isinstance(streamed, ActivationStream) and streamed.model is model
    torch.testing.assert_close(streamed.tokens(3, 40), cached.tokens(3, 40), rtol=1e-5, atol=1e-5)


def test_a_cache_without_the_hook_point_is_not_used(experiment, tmp_path):
    root = _copy(experiment, tmp_path)
    path = root / "data" / "activations" / "c" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["hook_points"] = {"blocks.2.hook_resid_pre": manifest["hook_points"][HOOK]}
    path.write_text(json.dumps(manifest))
    assert isinstance(saeworks.load_session(_run(root), root).activations, ActivationStream)


def test_the_held_out_rows_are_all_or_as_many_as_asked_for(experiment):
    session = saeworks.load_session(_run(experiment), experiment)
    assert session.evaluation == FidelityConfig() and session.held_out().shape == (10, CONTEXT)
    assert saeworks.load_session(_run(experiment), experiment, evaluation=_EVALUATION).held_out().shape == (8, CONTEXT)


def test_a_missing_corpus_is_one_sentence_with_the_commands(experiment, tmp_path):
    root = _copy(experiment, tmp_path)
    shutil.rmtree(root / "data" / "corpora" / "tiny")
    message = _sentence(_run(root), root)
    assert "the corpus of run" in message and "dvc pull" in message and "snakemake" in message


def test_a_missing_model_that_cannot_be_prepared_again_is_one_sentence(experiment, tmp_path):
    root = _copy(experiment, tmp_path)
    shutil.rmtree(root / "data" / "prepared" / "m0")
    assert "model directory nowhere does not exist" in _sentence(_run(root), root)


@pytest.mark.parametrize("content", [None, "[]", "{}"])
def test_a_folder_that_is_no_run_is_one_sentence(tmp_path, content):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    message = _sentence(tmp_path, tmp_path)
    assert "manifest.json" in message and ("is missing" in message or "is damaged" in message)


def test_a_missing_prepared_model_is_prepared_again_and_must_be_the_same(tmp_path, monkeypatch):
    settings = PathModel(source="path", name="tiny-gpt2", path="lm")
    (tmp_path / "lm").mkdir()
    tiny_hf.write_model(tmp_path / "lm")
    monkeypatch.chdir(tmp_path)
    model = Path("data/prepared/any")
    prepare(settings, model)
    corpus = tiny_pipeline.write_corpus(Path("data/corpora/tiny/b"), model)
    stream = ActivationsConfig(source="stream", batch_rows=8)
    run = Path("results/tiny/saes") / HOOK / "tiny-run"
    train(run_spec(n_tokens=4 * CONTEXT), stream, Path("unused"), model, corpus, run, Path("scratch"), progress=False)
    shutil.rmtree(model)
    monkeypatch.chdir("/")
    session = saeworks.load_session(tmp_path / run, tmp_path)
    assert session.activations.tokens(0, 2).shape == (2, 16)
    assert len(list((tmp_path / "data" / "prepared").iterdir())) == 1

    shutil.rmtree(tmp_path / "data" / "prepared")
    tiny_hf.write_model(tmp_path / "lm", seed=1)  # other weights under the same name
    message = _sentence(tmp_path / run, tmp_path)
    assert "is not the one that run" in message and "delete that folder" in message
