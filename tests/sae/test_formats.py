"""SAEs on disk have SAELens' layout, come back as they were, and say in one sentence what is wrong with a damaged one."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import saeworks
from saeworks.sae.formats import load_sae, save_sae
from saeworks.sae.init import init_braun2024
from saeworks.sae.relu import ReluSAE
from saeworks.store.errors import UserError

_D, _F = 6, 20


@pytest.fixture
def sae() -> ReluSAE:
    sae = ReluSAE(_D, _F)
    init_braun2024(sae, torch.Generator().manual_seed(0))
    with torch.no_grad():
        sae.W_dec.mul_(torch.linspace(0.1, 30, _F)[:, None])
    return sae


@pytest.fixture
def folder(sae, tmp_path):
    save_sae(sae, tmp_path, {"hook_name": "blocks.1.hook_resid_pre", "saeworks": {"seed": 3}})
    return tmp_path


def _edit(folder, **changes):
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | changes))


def _sentence(folder) -> str:
    with pytest.raises(UserError) as caught:
        load_sae(folder)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    assert str(folder) in message
    return message


def test_a_saved_sae_comes_back_and_computes_the_same(sae, folder):
    loaded = load_sae(folder)
    x = torch.randn(50, _D, generator=torch.Generator().manual_seed(1))
    assert torch.equal(loaded.encode(x), sae.encode(x))
    torch.testing.assert_close(loaded(x)[0], sae(x)[0], rtol=1e-6, atol=1e-6)
    assert not any(p.requires_grad for p in loaded.parameters())


def test_the_package_loads_a_run_by_its_folder(sae, folder):
    x = torch.randn(5, _D, generator=torch.Generator().manual_seed(1))
    assert torch.equal(saeworks.load_run(str(folder)).encode(x), sae.encode(x))


def test_saving_again_what_was_loaded_changes_nothing(sae, folder, tmp_path):
    first = load_file(folder / "sae_weights.safetensors")
    again = tmp_path / "again"
    again.mkdir()
    save_sae(load_sae(folder), again, {})
    second = load_file(again / "sae_weights.safetensors")
    for name in first:
        torch.testing.assert_close(second[name], first[name], rtol=1e-6, atol=1e-7)


def test_the_files_are_laid_out_as_saelens_expects(folder):
    assert sorted(p.name for p in folder.iterdir()) == ["cfg.json", "sae_weights.safetensors"]
    weights = load_file(folder / "sae_weights.safetensors")
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    assert shapes == {"W_enc": (_D, _F), "b_enc": (_F,), "W_dec": (_F, _D), "b_dec": (_D,)}
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    with safe_open(folder / "sae_weights.safetensors", framework="pt") as handle:
        assert handle.metadata() == {"format": "pt"}
    config = json.loads((folder / "cfg.json").read_text())
    assert config == {
        "architecture": "standard",
        "d_in": _D,
        "d_sae": _F,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.0.0", "hook_name": "blocks.1.hook_resid_pre", "saeworks": {"seed": 3}},
    }


def test_the_decoder_on_disk_has_unit_rows_so_that_a_reader_needs_no_normalisation(sae, folder):
    weights = load_file(folder / "sae_weights.safetensors")
    torch.testing.assert_close(weights["W_dec"].norm(dim=1), torch.ones(_F))
    x = torch.randn(50, _D, generator=torch.Generator().manual_seed(1))
    plain = torch.relu(x @ weights["W_enc"] + weights["b_enc"]) @ weights["W_dec"] + weights["b_dec"]  # what SAELens computes
    torch.testing.assert_close(plain, sae(x)[0], rtol=1e-5, atol=1e-5)


def test_saving_does_not_touch_the_sae(sae, tmp_path):
    before = {name: p.detach().clone() for name, p in sae.named_parameters()}
    save_sae(sae, tmp_path, {})
    assert all(torch.equal(p, before[name]) and p.requires_grad for name, p in sae.named_parameters())


def test_equal_saes_give_equal_bytes(sae, folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    save_sae(sae, other, {"hook_name": "blocks.1.hook_resid_pre", "saeworks": {"seed": 3}})
    for name in ("cfg.json", "sae_weights.safetensors"):
        assert (folder / name).read_bytes() == (other / name).read_bytes()


@pytest.mark.parametrize("name", ["cfg.json", "sae_weights.safetensors"])
def test_a_missing_file_is_one_sentence_with_the_mend(folder, name):
    (folder / name).unlink()
    message = _sentence(folder)
    assert name in message and "missing" in message and "dvc pull" in message


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_weights_are_one_sentence(folder, keep):
    path = folder / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert "sae_weights.safetensors cannot be read" in _sentence(folder)


def test_a_damaged_config_is_one_sentence(folder):
    (folder / "cfg.json").write_text('{"architecture": "standard", ')
    assert "is not valid JSON" in _sentence(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "topk"},
        {"architecture": None},
        {"apply_b_dec_to_input": True},
        {"normalize_activations": "expected_average_only_in"},
        {"reshape_activations": "hook_z"},
    ],
)
def test_another_architecture_is_refused_instead_of_computed_wrongly(folder, changes):
    _edit(folder, **changes)
    message = _sentence(folder)
    assert "cfg.json" in message and "does not load" in message
    assert repr(next(iter(changes.values()))) in message


@pytest.mark.parametrize("key", ["d_in", "d_sae"])
def test_a_config_without_its_sizes_is_one_sentence(folder, key):
    config = json.loads((folder / "cfg.json").read_text())
    del config[key]
    (folder / "cfg.json").write_text(json.dumps(config))
    assert f"`{key}`" in _sentence(folder)


@pytest.mark.parametrize("name", ["W_enc", "b_enc", "W_dec", "b_dec"])
@pytest.mark.parametrize("damage", ["missing", "transposed", "longer"])
def test_weights_that_do_not_fit_the_config_are_named(folder, name, damage):
    path = folder / "sae_weights.safetensors"
    weights = load_file(path)
    if damage == "missing":
        del weights[name]
    elif damage == "transposed":
        weights[name] = weights[name][None] if weights[name].ndim == 1 else weights[name].T.contiguous()
    else:
        weights[name] = torch.cat([weights[name], weights[name]])
    save_file(weights, path)
    message = _sentence(folder)
    assert f"{name} should have shape" in message


def test_a_decoder_that_the_forward_pass_would_rescale_is_refused(folder):
    path = folder / "sae_weights.safetensors"
    weights = load_file(path)
    weights["W_dec"][3] *= 1.5
    save_file(weights, path)
    assert "unit norm" in _sentence(folder)
