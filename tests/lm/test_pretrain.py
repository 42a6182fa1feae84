"""Pretraining of the small model: what is published, that its loss is right, and that a rerun or resume changes no byte."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer

from saeworks.config.pretrain import PretrainConfig
from saeworks.lm import pretrain as module
from saeworks.lm.pretrain import encode_documents, learning_rate, pretrain, pretrain_from_json, train_tokenizer
from saeworks.store.errors import UserError

_SENTENCE = "the cat sat on a mat and the dög ran to the “sea” while no bird sang of it"


def _text(seed: int, documents: int) -> str:
    generator = np.random.default_rng(seed)
    return "\n<|endoftext|>\n".join(" ".join(generator.choice(_SENTENCE.split(), 150)) for _ in range(documents)) + "\n"


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> PretrainConfig:
    folder = tmp_path_factory.mktemp("text")
    (folder / "train.txt").write_text(_text(0, 4), encoding="utf-8")
    (folder / "val.txt").write_text(_text(1, 2), encoding="utf-8")
    return PretrainConfig(
        train_text=str(folder / "train.txt"),
        val_text=str(folder / "val.txt"),
        source="words drawn at random",
        vocab_size=280,
        n_layers=2,
        d_model=16,
        n_heads=2,
        context=16,
        batch_rows=6,
        micro_rows=4,
        n_steps=12,
        lr=1e-2,
        warmup_steps=3,
        eval_every=4,
    )


@pytest.fixture(scope="module")
def published(config, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    pretrain(config, "tiny", folder / "tiny", folder / "scratch")
    return folder / "tiny"


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_directory_loads_with_transformers(published, config):
    model = transformers.AutoModelForCausalLM.from_pretrained(published)
    tokenizer = transformers.AutoTokenizer.from_pretrained(published)
    assert (model.config.n_layer, model.config.n_embd, model.config.n_head) == (2, 16, 2)
    assert model.get_input_embeddings().weight.shape == (280, 16)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert (tokenizer.bos_token, tokenizer.bos_token_id, tokenizer.eos_token_id) == ("<|endoftext|>", 0, 0)
    text = "the dög sat on “a”  mat\n\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer) == config.vocab_size


def test_bits_per_byte_are_those_of_a_literal_recomputation(published, config):
    model = transformers.AutoModelForCausalLM.from_pretrained(published).double().eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(published)
    documents = Path(config.val_text).read_text(encoding="utf-8").split("\n<|endoftext|>\n")
    tokens = [token for document in documents for token in [*tokenizer(document)["input_ids"], 0]]
    nats, n_scored = 0.0, 0
    for start in range(0, len(tokens) - config.context + 1, config.context):  # a last, shorter window is not scored
        window = tokens[start : start + config.context]
        with torch.no_grad():
            logits = model(torch.tensor([[0, *window[:-1]]])).logits[0]
        for position, target in enumerate(window):
            probabilities = torch.exp(logits[position] - logits[position].max())
            nats -= math.log(probabilities[target] / probabilities.sum())
            n_scored += 1
    manifest = json.loads((published / "manifest.json").read_text())
    n_bytes = sum(len(document.encode()) for document in documents)
    assert manifest["val_nats_per_token"] == pytest.approx(nats / n_scored, rel=1e-5)
    assert manifest["val_bits_per_byte"] == pytest.approx(nats / n_scored / math.log(2) * len(tokens) / n_bytes, rel=1e-5)
    assert manifest["val_tokens"] == len(tokens)
    assert manifest["tokens_seen"] == 12 * 6 * 16


def test_training_learns_and_the_losses_are_in_manifest_and_card(published):
    manifest = json.loads((published / "manifest.json").read_text())
    history = manifest["history"]
    assert [entry["step"] for entry in history] == [4, 8, 12]
    losses = [entry["val_nats_first_400_rows"] for entry in history]
    assert math.log(280) > losses[0] > losses[-1] == pytest.approx(manifest["val_nats_per_token"])
    card = (published / "README.md").read_text()
    assert f"{manifest['val_bits_per_byte']:.4f} bits per byte" in card
    assert "words drawn at random" in card


def test_nothing_published_names_a_folder_of_this_machine(published, config):
    for name, data in _bytes(published).items():
        assert str(Path(config.train_text).parent).encode() not in data, name


def test_two_runs_give_equal_bytes(published, config, tmp_path):
    pretrain(config, "tiny", tmp_path / "again", tmp_path / "scratch")
    assert _bytes(tmp_path / "again") == _bytes(published)


def test_another_seed_gives_another_model(published, config, tmp_path):
    pretrain(config.model_copy(update={"seed": 1}), "tiny", tmp_path / "other", tmp_path / "scratch")
    other = _bytes(tmp_path / "other")
    assert other["model.safetensors"] != _bytes(published)["model.safetensors"]
    assert other["tokenizer.json"] == _bytes(published)["tokenizer.json"]


@pytest.mark.parametrize("stop", [2, 6, 8])
def test_an_interrupted_run_resumes_to_the_same_bytes(published, config, tmp_path, monkeypatch, stop):
    """Interrupted before the first checkpoint, between two, and right after one."""
    steps_run, real = [], learning_rate

    def stopping(step, *args):
        steps_run.append(step)
        if step == stop:
            raise KeyboardInterrupt
        return real(step, *args)

    monkeypatch.setattr(module, "learning_rate", stopping)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, "tiny", tmp_path / "out", tmp_path / "scratch")
    assert not (tmp_path / "out").exists()
    last_checkpoint, stop = stop // config.eval_every * config.eval_every, -1
    steps_run.clear()
    pretrain(config, "tiny", tmp_path / "out", tmp_path / "scratch")
    assert steps_run[0] == last_checkpoint  # it did resume, and did not start over
    assert _bytes(tmp_path / "out") == _bytes(published)


def test_a_damaged_checkpoint_is_reported(config, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module, "held_out_nats", lambda *_, **options: 1.0 if options else 1 / 0)  # dies after the last checkpoint
        with pytest.raises(ZeroDivisionError):
            pretrain(config, "tiny", tmp_path / "out", tmp_path)
    next(tmp_path.rglob("checkpoint.safetensors")).write_bytes(b"damaged")
    with pytest.raises(UserError, match="delete it and run the same command again"):
        pretrain(config, "tiny", tmp_path / "out", tmp_path)


def test_a_missing_text_is_reported(config, tmp_path):
    with pytest.raises(UserError, match=r"text file .*nowhere\.txt does not exist"):
        pretrain(config.model_copy(update={"val_text": "nowhere.txt"}), "tiny", tmp_path / "out", tmp_path / "scratch")


def test_the_entry_point_reads_the_settings_as_json(published, config, tmp_path):
    pretrain_from_json(config.model_dump_json(), "tiny", str(tmp_path / "out"), str(tmp_path / "scratch"))
    assert _bytes(tmp_path / "out") == _bytes(published)


def test_micro_batches_do_not_change_the_result(published, config, tmp_path):
    """Rows per forward pass decide memory, not the result: equal up to rounding."""
    whole = config.model_copy(update={"micro_rows": 6})
    pretrain(whole, "tiny", tmp_path / "out", tmp_path / "scratch")
    losses = [
        json.loads((folder / "manifest.json").read_text())["val_nats_per_token"] for folder in (tmp_path / "out", published)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_learning_rate_warms_up_and_decays_to_two_percent(config):
    rates = [learning_rate(step, config) for step in range(config.n_steps + 1)]
    assert rates[:4] == pytest.approx([1e-2 / 3, 2e-2 / 3, 1e-2, 1e-2])
    assert all(a > b for a, b in zip(rates[3:], rates[4:], strict=False))
    assert rates[-1] == pytest.approx(2e-4)


def test_documents_are_joined_by_the_end_of_text_token():
    documents = ["the cat", "", "a “dög”\n"]
    tokenizer = train_tokenizer(documents, 300)
    ids = encode_documents(tokenizer, documents)
    assert ids.dtype == np.uint16
    ends = np.flatnonzero(ids == 0)
    assert len(ends) == 3
    assert ends[-1] == len(ids) - 1
    starts = [0, *(ends[:-1] + 1)]
    assert [tokenizer.decode(ids[a:b].tolist()) for a, b in zip(starts, ends, strict=True)] == documents


def test_the_tokenizer_covers_every_byte():
    tokenizer: Tokenizer = train_tokenizer(["plain"], 257)
    text = "αβγ \U0001f600 \x00\t"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_what_another_recipe_left_behind_is_not_used(config, tmp_path):
    other = config.model_copy(update={"seed": 1})
    pretrain(config, "tiny", tmp_path / "first", tmp_path / "scratch")
    pretrain(other, "tiny", tmp_path / "after", tmp_path / "scratch")
    pretrain(other, "tiny", tmp_path / "alone", tmp_path / "elsewhere")
    assert _bytes(tmp_path / "after") == _bytes(tmp_path / "alone") != _bytes(tmp_path / "first")
