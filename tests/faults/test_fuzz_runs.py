"""Damaged run folders and made-up settings of training: they end in one sentence or in an SAE that computes."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load, save
from tests.faults.made_up import ANY, QUICK, SLOW, WORDS, damaged, examples, is_a_sentence, mutated
from tests.saes import ARCHITECTURES, D_IN, K, inputs, trained_sae
from tests.tiny_pipeline import run_spec

import saeworks
from saeworks.config.activations import ActivationsConfig
from saeworks.sae.architectures.topk import TopKSAE
from saeworks.sae.formats import save_sae
from saeworks.sae.interop import save_sparsify
from saeworks.store.errors import UserError
from saeworks.training.run import train


def _retyped(data: st.DataObject, content: bytes) -> bytes:
    """A safetensors file with one tensor of another shape, type or value, removed, renamed or added."""
    tensors = load(content)
    name = data.draw(st.sampled_from(sorted(tensors)))
    old = tensors[name]
    match data.draw(st.sampled_from(["shape", "type", "value", "remove", "rename", "add"])):
        case "shape":
            tensors[name] = data.draw(
                st.sampled_from(
                    [old[:1], old[..., :1], old.flatten(), old[None], old.sum(), old[:0], old.transpose(0, -1).contiguous()]
                )
            )
        case "type":
            kinds = [
                torch.float64,
                torch.float16,
                torch.bfloat16,
                torch.int8,
                torch.int64,
                torch.bool,
                torch.uint8,
                torch.float8_e4m3fn,
            ]
            tensors[name] = old.to(data.draw(st.sampled_from(kinds)))
        case "value":
            tensors[name] = old.clone()
            at = data.draw(st.integers(0, old.numel() - 1))
            tensors[name].view(-1)[at] = data.draw(st.sampled_from([float("nan"), float("inf"), -1e38, 1e38, 1e-45, 0.0, -0.0]))
        case "remove":
            del tensors[name]
        case "rename":
            tensors[data.draw(WORDS)] = tensors.pop(name)
        case "add":
            tensors[data.draw(WORDS)] = torch.zeros(3)
    return save(tensors)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, bytes]]:
    """Files of runs of every architecture and of other libraries, by name."""
    folders = []
    for architecture in ARCHITECTURES:
        folders.append(tmp_path_factory.mktemp(architecture))
        save_sae(
            trained_sae(architecture, pre_bias=True),
            folders[-1],
            {"hook_name": "blocks.1.hook_resid_pre", "saeworks": {"seed": 3}},
        )
    topk = trained_sae("topk", pre_bias=True)
    assert isinstance(topk, TopKSAE)
    folders.append(tmp_path_factory.mktemp("sparsify"))
    save_sparsify(topk, folders[-1], {})
    folders.append(tmp_path_factory.mktemp("dictionary_learning"))
    linear = {"encoder.weight": topk.W_enc.T, "encoder.bias": topk.b_enc, "decoder.weight": topk.W_dec.T, "b_dec": topk.b_dec}
    torch.save({name: value.detach().contiguous() for name, value in linear.items()}, folders[-1] / "ae.pt")
    (folders[-1] / "config.json").write_text(json.dumps({"trainer": {"dict_class": "AutoEncoderTopK", "k": K}}))
    return [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]


def _check_run(folder: Path) -> None:
    """One sentence that names the folder; or an SAE that computes numbers of the right shape, as its own settings say."""
    try:
        sae = saeworks.load_run(folder)
    except UserError as error:
        is_a_sentence(error)
        assert str(folder) in str(error)
        return
    values = [*sae.parameters(), *sae.buffers()]
    assert all(value.isfinite().all() for value in values) and not any(value.requires_grad for value in values)
    if sae.d_in != D_IN:
        return
    output, codes = sae(inputs(n=4))
    assert output.shape == (4, D_IN) and codes.shape == (4, sae.d_sae)
    if max((value.abs().max().item() for value in values if value.numel()), default=0) < 1e6:  # beyond, products leave float32
        assert output.isfinite().all() and codes.isfinite().all()
    if sae.k is not None:
        assert 1 <= sae.k <= sae.d_sae and (codes != 0).sum(dim=1).max() <= sae.k


def _fuzz_runs(number: int) -> Callable:
    @examples(number)
    @given(data=st.data())
    def test(data: st.DataObject, runs: list[dict[str, bytes]], folder: Path) -> None:
        files = dict(runs[data.draw(st.integers(0, len(runs) - 1))])
        for _ in range(data.draw(st.integers(1, 2))):
            name = data.draw(st.sampled_from(sorted(files)))
            match data.draw(st.sampled_from(["bytes", "values", "values", "swap", "remove"])):
                case "bytes":
                    files[name] = damaged(data, files[name])
                case "values":
                    files[name] = _changed(data, name, files[name])
                case "swap":
                    other = runs[data.draw(st.integers(0, len(runs) - 1))]
                    files[name] = other.get(name, files[name])
                case "remove" if len(files) > 1:
                    del files[name]
        run = folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir()
        for name, content in files.items():
            (run / name).write_bytes(content)
        _check_run(run)

    return test


def _changed(data: st.DataObject, name: str, content: bytes) -> bytes:
    """A file with other values in it, as far as it can be read."""
    try:
        if name.endswith(".json"):
            keys = ["k", "d_in", "d_sae", "architecture", "metadata", "activation", "num_latents", "trainer", "dict_class"]
            return json.dumps(mutated(data, json.loads(content), keys)).encode("utf-8", "surrogatepass")
        if name.endswith(".safetensors"):
            return _retyped(data, content)
        tensors = torch.load(io.BytesIO(content), weights_only=True)
        tensors[data.draw(WORDS | st.integers())] = data.draw(st.just(torch.zeros(3)) | ANY)
        buffer = io.BytesIO()
        torch.save(tensors, buffer)
        return buffer.getvalue()
    except Exception:  # a change before has left nothing that can be changed so
        return content


# what a configuration admits is trained to an SAE, or ended by a sentence

_TRAINABLE = {
    "lr": st.floats(1e-12, 1e9), "grad_clip": st.none() | st.floats(1e-12, 1e9), "adam_beta1": st.floats(0, 0.999),
    "adam_beta2": st.floats(0, 0.9999), "adam_eps": st.floats(1e-30, 1e6), "warmup_fraction": st.floats(0, 0.99),
    "schedule": st.sampled_from(["cosine", "constant"]), "weight_ema": st.none() | st.floats(0.001, 0.999),
    "decoder": st.sampled_from(["normalised", "renormalised"]), "pre_bias": st.booleans(),
    "architecture": st.sampled_from(ARCHITECTURES), "mse_norm": st.sampled_from(["d_in", "input_norm", "variance"]),
    "activation_scale": st.sampled_from(["none", "norm", "mean_square", "layer_norm"]),
    "encoder_init": st.sampled_from(["linear", "kaiming", "transpose"]), "decoder_init_norm": st.none() | st.floats(1e-9, 1e9),
    "decoder_bias_init": st.sampled_from(["linear", "zero", "mean", "geometric_median"]), "d_sae": st.integers(4, 40),
    "batch_tokens": st.sampled_from([12, 24, 48]), "n_tokens": st.integers(48, 200),
}  # fmt: skip


def _fuzz_training(number: int) -> Callable:
    @examples(number)
    @given(data=st.data())
    def test(data: st.DataObject, tiny_model: Path, tiny_corpus: Path, folder: Path) -> None:
        chosen = data.draw(st.lists(st.sampled_from(sorted(_TRAINABLE)), max_size=6, unique=True))
        changes = {"n_tokens": 96} | {key: data.draw(_TRAINABLE[key]) for key in chosen}
        if "sparsity_coeff" not in changes and changes.get("architecture", "relu") in ("relu", "gated", "jumprelu"):
            changes["sparsity_coeff"] = data.draw(st.floats(1e-9, 1e9))
        try:
            spec = run_spec(data.draw(st.sampled_from(["local", "e2e", "e2e_ds"])), **changes)
        except ValidationError:  # which `parse` turns into a sentence
            return
        for name in ("run", "scratch"):
            shutil.rmtree(folder / name, ignore_errors=True)
        stream = ActivationsConfig(source="stream", block_rows=10)
        try:
            train(spec, stream, None, tiny_model, tiny_corpus, folder / "run", folder / "scratch", progress=False)
        except UserError as error:
            is_a_sentence(error)
            assert not (folder / "run" / "manifest.json").exists()
        else:
            assert all(value.isfinite().all() for value in saeworks.load_run(folder / "run").parameters())

    return test


test_any_run_folder = _fuzz_runs(QUICK)
test_any_settings_of_training = _fuzz_training(10)
test_ten_thousand_run_folders = pytest.mark.slow(_fuzz_runs(SLOW))
test_many_settings_of_training = pytest.mark.slow(_fuzz_training(1000))
