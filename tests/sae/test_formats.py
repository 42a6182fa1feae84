"""SAEs on disk have SAELens' layout, come back as they were trained, and say in one sentence what is wrong with a damaged one."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.each import each
from tests.saes import ARCHITECTURES, D_IN, D_SAE, K, inputs, trained_sae

import saeworks
from saeworks.sae.architectures.batch_topk import BatchTopKSAE
from saeworks.sae.architectures.jumprelu import JumpReluSAE
from saeworks.sae.architectures.relu import ReluSAE
from saeworks.sae.architectures.topk import TopKSAE
from saeworks.sae.base import SAE, fold_decoder_norms
from saeworks.sae.formats import load_into, load_sae, save_sae
from saeworks.store.errors import UserError

_METADATA = {"hook_name": "blocks.1.hook_resid_pre", "saeworks": {"seed": 3}}


@pytest.fixture
def sae() -> ReluSAE:
    return trained_sae("relu", decoder="normalised")


@pytest.fixture
def folder(sae, tmp_path):
    save_sae(sae, tmp_path, _METADATA)
    return tmp_path


def _edit(folder, **changes):
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | changes))


def _edit_weights(folder, **changes):
    path = folder / "sae_weights.safetensors"
    save_file(load_file(path) | changes, path)


def _sentence(folder) -> str:
    with pytest.raises(UserError) as caught:
        load_sae(folder)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    assert str(folder) in message
    return message


def _assert_same(loaded: SAE, trained: SAE, x: torch.Tensor, scale: float = 1.0, case: Any = None) -> None:
    """`loaded` on x is `trained` on scale · x, divided by the scale; up to 1e-6 of the largest value."""
    (output, codes), (expected, expected_codes) = loaded(x), trained(x * scale)
    assert 0 < (expected_codes != 0).float().mean() < 0.9, case  # the comparison is about something
    for got, wanted in ((codes, expected_codes / scale), (output, expected / scale), (loaded.encode(x), expected_codes / scale)):
        assert (got - wanted).abs().max() <= 1e-6 * max(1.0, wanted.abs().max().item()), case


# what comes back


@each("architecture", ARCHITECTURES)
def test_whatever_was_trained_comes_back_and_computes_the_same(architecture, new_folder):
    choices = itertools.product(["normalised", "renormalised", "free"], [False, True], [1.0, 0.037, 21.0], range(3))
    for number, (decoder, pre_bias, scale, seed) in enumerate(choices):
        trained = trained_sae(architecture, seed, decoder=decoder, pre_bias=pre_bias)
        case = new_folder / str(number)
        case.mkdir()
        save_sae(trained, case, {}, scale=scale)
        loaded = load_sae(case)
        assert (loaded.pre_bias, loaded.layer_norm, loaded.decoder) == (pre_bias, False, "free")
        _assert_same(loaded, trained, inputs(seed) / scale, scale, (decoder, pre_bias, scale, seed))
        assert not any(p.requires_grad for p in loaded.parameters()) and not loaded.training


@each("architecture, decoder", itertools.product(ARCHITECTURES, ["normalised", "free"]))
def test_standardised_inputs_stay_standardised(architecture, decoder, tmp_path):
    trained = trained_sae(architecture, decoder=decoder, pre_bias=True, layer_norm=True)
    save_sae(trained, tmp_path, {})
    assert json.loads((tmp_path / "cfg.json").read_text())["normalize_activations"] == "layer_norm"
    loaded = load_sae(tmp_path)
    assert loaded.layer_norm
    _assert_same(loaded, trained, 5 * inputs() + 3)


@each("architecture", ["batch_topk", "matryoshka_batch_topk"])
def test_batch_topk_is_saved_as_the_jumprelu_sae_that_it_is_at_inference(architecture, tmp_path):
    trained = trained_sae(architecture)
    threshold = trained.threshold.item()
    assert threshold > 0
    save_sae(trained, tmp_path, {}, scale=2.0)
    assert json.loads((tmp_path / "cfg.json").read_text())["architecture"] == "jumprelu"
    loaded = load_sae(tmp_path)
    assert isinstance(loaded, JumpReluSAE)
    torch.testing.assert_close(loaded.threshold, torch.full((D_SAE,), threshold / 2), rtol=1e-6, atol=0)
    alone = torch.cat([loaded.encode(row[None]) for row in inputs()])
    assert torch.equal(alone != 0, loaded.encode(inputs()) != 0)  # a token's codes do not depend on its batch


def test_a_topk_without_relu_keeps_its_negative_codes_and_has_a_name_that_saelens_does_not_know(tmp_path):
    trained = trained_sae("topk", topk_relu=False, k=D_SAE // 2)
    assert (trained.encode(inputs()) < 0).any()
    save_sae(trained, tmp_path, {})
    assert json.loads((tmp_path / "cfg.json").read_text())["architecture"] == "topk_signed"
    loaded = load_sae(tmp_path)
    assert isinstance(loaded, TopKSAE) and loaded.k == D_SAE // 2 and not loaded.options.topk_relu
    _assert_same(loaded, trained, inputs())


def test_the_package_loads_a_run_by_its_folder(sae, folder):
    x = inputs()
    assert torch.equal(saeworks.load_run(str(folder)).encode(x), sae.encode(x))


@each("architecture", ARCHITECTURES)
def test_saving_again_what_was_loaded_changes_nothing(architecture, new_folder):
    first, second = new_folder / "first", new_folder / "second"
    for new in (first, second):
        new.mkdir()
    save_sae(trained_sae(architecture), first, {})
    save_sae(load_sae(first), second, {})
    for name in ("cfg.json", "sae_weights.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_saving_does_not_touch_the_sae(sae, tmp_path):
    before = {name: p.detach().clone() for name, p in sae.named_parameters()}
    save_sae(sae, tmp_path, {}, scale=3.0)
    assert all(torch.equal(p, before[name]) and p.requires_grad for name, p in sae.named_parameters())


# the files


def test_the_files_are_laid_out_as_saelens_expects(folder):
    assert sorted(p.name for p in folder.iterdir()) == ["cfg.json", "sae_weights.safetensors"]
    weights = load_file(folder / "sae_weights.safetensors")
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    assert shapes == {"W_enc": (D_IN, D_SAE), "b_enc": (D_SAE,), "W_dec": (D_SAE, D_IN), "b_dec": (D_IN,)}
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    with safe_open(folder / "sae_weights.safetensors", framework="pt") as handle:
        assert handle.metadata() == {"format": "pt"}
    config = json.loads((folder / "cfg.json").read_text())
    assert config == {
        "architecture": "standard",
        "d_in": D_IN,
        "d_sae": D_SAE,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.0.0", **_METADATA},
    }


@each(
    "architecture, saved, names",
    [
        ("relu", "standard", {"b_enc"}),
        ("topk", "topk", {"b_enc"}),
        ("batch_topk", "jumprelu", {"b_enc", "threshold"}),
        ("matryoshka_batch_topk", "jumprelu", {"b_enc", "threshold"}),
        ("gated", "gated", {"b_gate", "b_mag", "r_mag"}),
        ("jumprelu", "jumprelu", {"b_enc", "threshold"}),
    ],
)
def test_each_architecture_has_saelens_name_and_tensors(architecture, saved, names, new_folder):
    save_sae(trained_sae(architecture, pre_bias=True), new_folder, {"hook_name": "blocks.0.attn.hook_z"})
    config = json.loads((new_folder / "cfg.json").read_text())
    assert config["architecture"] == saved
    assert config["apply_b_dec_to_input"] is True and config["reshape_activations"] == "hook_z"
    assert config.get("k") == (K if saved == "topk" else None)
    assert config.get("rescale_acts_by_decoder_norm") == (False if saved == "topk" else None)
    weights = load_file(new_folder / "sae_weights.safetensors")
    assert weights.keys() == {"W_enc", "W_dec", "b_dec", *names}
    assert all(weights[name].shape == (D_SAE,) for name in names)


def test_the_decoder_on_disk_has_unit_rows_so_that_a_reader_needs_no_normalisation(sae, folder):
    weights = load_file(folder / "sae_weights.safetensors")
    torch.testing.assert_close(weights["W_dec"].norm(dim=1), torch.ones(D_SAE))
    x = inputs()
    plain = torch.relu(x @ weights["W_enc"] + weights["b_enc"]) @ weights["W_dec"] + weights["b_dec"]  # what SAELens computes
    torch.testing.assert_close(plain, sae(x)[0], rtol=1e-5, atol=1e-5)


def test_equal_saes_give_equal_bytes(sae, folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    save_sae(sae, other, _METADATA)
    for name in ("cfg.json", "sae_weights.safetensors"):
        assert (folder / name).read_bytes() == (other / name).read_bytes()


# what others wrote


def test_decoder_norms_that_rescale_topk_are_folded_even_where_a_row_is_zero(tmp_path):
    save_sae(trained_sae("topk", decoder="free"), tmp_path, {})
    weights = load_file(tmp_path / "sae_weights.safetensors")
    weights["W_dec"][3] = 0
    _edit_weights(tmp_path, **weights)
    _edit(tmp_path, rescale_acts_by_decoder_norm=True)
    loaded, x, norms = load_sae(tmp_path), inputs(), weights["W_dec"].norm(dim=1)
    pre = (x @ weights["W_enc"] + weights["b_enc"]) * norms
    top = pre.topk(K, dim=1)
    codes = torch.zeros_like(pre).scatter_(1, top.indices, top.values.relu())
    torch.testing.assert_close(loaded.encode(x), codes)
    expected = codes / norms.clamp(min=1e-30) @ weights["W_dec"] + weights["b_dec"]
    torch.testing.assert_close(loaded(x)[0], expected)


def test_folding_norms_keeps_reconstructions():
    trained = trained_sae("relu", decoder="free")
    weights = {name: p.detach() for name, p in trained.named_parameters()}
    folded, x = fold_decoder_norms(weights), inputs()
    torch.testing.assert_close(folded["W_dec"].norm(dim=1), torch.ones(D_SAE))
    output = torch.relu(x @ folded["W_enc"] + folded["b_enc"]) @ folded["W_dec"] + weights["b_dec"]
    torch.testing.assert_close(output, trained(x)[0])


def test_a_negative_threshold_means_a_plain_relu(tmp_path):
    """As in SAELens, which applies a ReLU before it compares with the threshold."""
    save_sae(trained_sae("jumprelu"), tmp_path, {})
    threshold = load_file(tmp_path / "sae_weights.safetensors")["threshold"]
    threshold[:7] = -0.3
    _edit_weights(tmp_path, threshold=threshold)
    assert (load_sae(tmp_path).encode(inputs()) >= 0).all()


@each("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_number_types_become_float32(folder, sae, dtype):
    _edit_weights(folder, **{name: w.to(dtype) for name, w in load_file(folder / "sae_weights.safetensors").items()})
    loaded = load_sae(folder)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    torch.testing.assert_close(loaded(inputs())[0], sae(inputs())[0], rtol=0.1, atol=0.1)


def test_a_folder_of_before_saelens_6_loads(tmp_path):
    trained = trained_sae("topk", pre_bias=True)
    save_sae(trained, tmp_path, {})
    old = {
        "d_in": D_IN,
        "d_sae": D_SAE,
        "dtype": "torch.float32",
        "hook_point": "blocks.2.hook_resid_pre",
        "normalize_activations": False,
    }
    old |= {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}
    (tmp_path / "cfg.json").write_text(json.dumps(old))
    _assert_same(load_sae(tmp_path), trained, inputs())
    (tmp_path / "cfg.json").write_text(json.dumps(old | {"normalize_activations": True}))
    assert "expected_average_only_in" in _sentence(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps(old | {"activation_fn_str": "tanh-relu"}))
    assert "'tanh-relu'" in _sentence(tmp_path)


# what is wrong with a folder


@pytest.mark.parametrize("name", ["cfg.json", "sae_weights.safetensors"])
def test_a_missing_file_is_one_sentence_with_the_mend(folder, name):
    (folder / name).unlink()
    message = _sentence(folder)
    assert name in message and "missing" in message and "dvc pull" in message


@each("keep", [0, 4, 100, -1])
def test_truncated_weights_are_one_sentence(folder, keep):
    path = folder / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert "sae_weights.safetensors cannot be read" in _sentence(folder)


@each("text, sentence", [('{"architecture": "standard", ', "is not valid JSON"), ("[]", "holds no configuration")])
def test_a_damaged_config_is_one_sentence(folder, text, sentence):
    (folder / "cfg.json").write_text(text)
    assert sentence in _sentence(folder)


@each(
    "changes",
    [
        {"architecture": "matching_pursuit"},
        {"architecture": "batchtopk"},
        {"normalize_activations": "expected_average_only_in"},
        {"normalize_activations": "constant_norm_rescale"},
        {"reshape_activations": "other"},
        {"finetuning_scaling_factor": True},
    ],
)
def test_another_computation_is_refused_instead_of_computed_wrongly(sae, new_folder, changes):
    save_sae(sae, new_folder, _METADATA)
    _edit(new_folder, **changes)
    message = _sentence(new_folder)
    assert "cfg.json" in message and "does not load" in message
    assert repr(next(iter(changes.values()))) in message


@each(
    "key, value",
    [
        ("architecture", []),
        ("architecture", None),
        ("apply_b_dec_to_input", "false"),
        ("apply_b_dec_to_input", 0),
        ("rescale_acts_by_decoder_norm", "no"),
        ("d_sae", True),
        ("d_sae", 24.0),
        ("d_in", -8),
        ("k", 0),
        ("k", -1),
        ("k", D_SAE + 1),
        ("k", True),
        ("k", "4"),
        ("metadata", []),
    ],
)
def test_a_value_of_another_type_or_size_is_one_sentence(tmp_path, key, value):
    save_sae(trained_sae("topk"), tmp_path, {})
    load_sae(tmp_path)
    _edit(tmp_path, **{key: value})
    message = _sentence(tmp_path)
    assert "cfg.json" in message and f"`{key}`" in message or "architecture" in message


@each(
    "damage, words",
    [
        (lambda w: w.to(torch.int8), "of type int8, where dense floating-point numbers belong"),
        (lambda w: torch.where(torch.arange(len(w)) == 3, torch.nan, w), "not finite"),
        (lambda w: torch.where(torch.arange(len(w)) == 3, torch.inf, w), "not finite"),
        (lambda w: w.double().fill_(1e300), "not finite"),
    ],
)
def test_tensors_of_other_than_finite_numbers_are_one_sentence(folder, damage, words):
    weights = load_file(folder / "sae_weights.safetensors")
    _edit_weights(folder, b_enc=damage(weights["b_enc"]))
    message = _sentence(folder)
    assert f"tensor b_enc {'of' if 'type' in words else 'with'}" in message and words in message
    _edit_weights(folder, **weights)
    load_sae(folder)


def test_an_unknown_tensor_is_refused_but_for_saelens_factors_of_one(folder):
    _edit_weights(folder, scaling_factor=torch.ones(D_SAE))
    load_sae(folder)
    _edit_weights(folder, scaling_factor=torch.full((D_SAE,), 2.0))
    assert "has a tensor scaling_factor, which a standard SAE does not compute with" in _sentence(folder)


def test_a_config_that_is_no_text_is_one_sentence(folder):
    (folder / "cfg.json").write_bytes(b"\xff\xfe{}")
    assert "cfg.json is not valid JSON" in _sentence(folder)
    (folder / "cfg.json").write_text("[" * 100_000)
    assert "cfg.json is not valid JSON" in _sentence(folder)
    (folder / "cfg.json").unlink()
    (folder / "cfg.json").mkdir()
    assert "cfg.json cannot be read" in _sentence(folder)


@each("key", ["d_in", "d_sae", "k"])
def test_a_config_without_its_sizes_is_one_sentence(tmp_path, key):
    save_sae(trained_sae("topk"), tmp_path, {})
    config = json.loads((tmp_path / "cfg.json").read_text())
    del config[key]
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    assert f"`{key}`" in _sentence(tmp_path)


@each("name", ["W_enc", "b_gate", "b_mag", "r_mag", "W_dec", "b_dec"])
@each("damage", ["missing", "transposed", "longer"])
def test_weights_that_do_not_fit_the_config_are_named(tmp_path, name, damage):
    save_sae(trained_sae("gated"), tmp_path, {})
    path = tmp_path / "sae_weights.safetensors"
    weights = load_file(path)
    if damage == "missing":
        del weights[name]
    elif damage == "transposed":
        weights[name] = weights[name][None] if weights[name].ndim == 1 else weights[name].T.contiguous()
    else:
        weights[name] = torch.cat([weights[name], weights[name]])
    save_file(weights, path)
    assert f"{name} should have shape" in _sentence(tmp_path)


# going on with a saved SAE


@each("architecture", ARCHITECTURES)
def test_a_run_continues_the_sae_that_was_saved(architecture, new_folder):
    trained = trained_sae(architecture, decoder="normalised", pre_bias=True)
    save_sae(trained, new_folder, {}, scale=2.0)
    new = trained_sae(architecture, seed=5, decoder="normalised", pre_bias=True)
    load_into(new, new_folder)
    _assert_same(new, trained, inputs() / 2, 2.0)
    if isinstance(new, BatchTopKSAE):
        torch.testing.assert_close(new.threshold, trained.threshold / 2)


@each(
    "other, words",
    [
        (lambda: trained_sae("topk"), "relu SAE of 24 features on 8 inputs, but the run continues a topk SAE"),
        (lambda: ReluSAE(D_IN, D_SAE + 1), "SAE of 25 on 8"),
        (lambda: ReluSAE(D_IN, D_SAE, pre_bias=True), "without `pre_bias`"),
        (lambda: ReluSAE(D_IN, D_SAE, layer_norm=True), "without `layer_norm`"),
    ],
)
def test_a_run_does_not_continue_an_sae_that_it_does_not_fit(folder, other, words):
    with pytest.raises(UserError, match=words):
        load_into(other(), folder)


def test_an_old_file_without_its_architecture_is_not_taken_for_another(tmp_path):
    save_sae(trained_sae("topk"), tmp_path, {})
    config = json.loads((tmp_path / "cfg.json").read_text())
    del config["architecture"], config["metadata"]
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="cfg.json has `k` 5, which a standard SAE does not have"):
        load_sae(tmp_path)
