"""Folders and files of other libraries are recognised and computed by their formulas; what cannot be, is refused in a sentence."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.each import each
from tests.saes import D_IN, D_SAE, K, inputs, trained_sae
from tests.tiny_pipeline import HOOK
from torch import Tensor
from torch.nn.functional import normalize

from saeworks import load_run
from saeworks.export import export_saelens, export_sparsify, main, module_path
from saeworks.sae.formats import save_sae
from saeworks.sae.interop import load, save_sparsify
from saeworks.store.errors import UserError

_generator = torch.Generator().manual_seed(0)


def _draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=_generator) / 2


def _sentence(path: Path, hook_point: str | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load(path, hook_point=hook_point)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and ". " not in message
    return message


def _top(pre: Tensor) -> Tensor:
    best = pre.topk(K, dim=1)
    return torch.zeros_like(pre).scatter_(1, best.indices, best.values)


# e2e_sae


def _e2e(*hooks: str, prefix: str = "") -> dict[str, Tensor]:
    shapes = {
        "encoder.0.weight": (D_SAE, D_IN),
        "encoder.0.bias": (D_SAE,),
        "decoder.weight": (D_IN, D_SAE),
        "decoder.bias": (D_IN,),
    }
    return {f"{prefix}{hook}.{name}": _draw(*shape) for hook in hooks for name, shape in shapes.items()}


@each("prefix", ["", "saes."])
def test_an_e2e_sae_file_holds_one_sae_per_hook_point(new_folder, prefix):
    state = _e2e("blocks-2-hook_resid_pre", "blocks-6-hook_resid_pre", prefix=prefix)
    torch.save(state, new_folder / "samples_400.pt")
    (new_folder / "final_config.yaml").write_text("seed: 0\n")
    x, own = inputs(), {k.split(".", 1 + bool(prefix))[-1]: v for k, v in state.items() if "blocks-6" in k}
    codes = torch.relu(x @ own["encoder.0.weight"].T + own["encoder.0.bias"])
    expected = codes @ normalize(own["decoder.weight"], dim=0).T + own["decoder.bias"]
    for path in (new_folder, new_folder / "samples_400.pt"):
        for name in ("blocks.6.hook_resid_pre", "blocks-6-hook_resid_pre"):
            output, got = load_run(path, hook_point=name)(x)
            torch.testing.assert_close(got, codes)
            torch.testing.assert_close(output, expected)
    several = _sentence(new_folder)
    assert "2 SAEs" in several and "blocks.2.hook_resid_pre, blocks.6.hook_resid_pre" in several
    assert "did you mean 'blocks.6.hook_resid_pre'" in _sentence(new_folder, "blocks.7.hook_resid_pre")


def test_a_single_e2e_sae_needs_no_choice_and_may_be_safetensors(tmp_path):
    save_file(_e2e("blocks-2-hook_resid_pre"), tmp_path / "sae.st.safetensors")
    assert load(tmp_path / "sae.st.safetensors").d_sae == D_SAE


@each("name", ["encoder.0.bias", "decoder.weight", "decoder.bias"])
def test_damaged_e2e_tensors_are_named(new_folder, name):
    state = _e2e("blocks-2-hook_resid_pre")
    key = f"blocks-2-hook_resid_pre.{name}"
    torch.save(state | {key: state[key][..., 1:]}, new_folder / "a.pt")
    assert f"{name} should have shape {tuple(state[key].shape)}" in _sentence(new_folder / "a.pt")
    del state[key]
    torch.save(state, new_folder / "a.pt")
    assert f"has no tensor {name}" in _sentence(new_folder / "a.pt")


# dictionary_learning: the formulas of the classes in the repository's dictionary.py and trainers


def _linear(**more: Tensor) -> dict[str, Tensor]:
    return {"encoder.weight": _draw(D_SAE, D_IN), "decoder.weight": _draw(D_IN, D_SAE), **more}


def _matrices(**more: Tensor) -> dict[str, Tensor]:
    return {"W_enc": _draw(D_IN, D_SAE), "b_enc": _draw(D_SAE), "W_dec": _draw(D_SAE, D_IN), "b_dec": _draw(D_IN), **more}


def _dictionaries() -> dict[str, tuple[dict[str, Tensor], Tensor, Tensor]]:
    """Class to state dict, codes and reconstruction of `inputs()`."""
    x, level = inputs(), torch.tensor(0.3)
    cases = {}

    s = _linear(**{"encoder.bias": _draw(D_SAE), "bias": _draw(D_IN)})
    codes = torch.relu((x - s["bias"]) @ s["encoder.weight"].T + s["encoder.bias"])
    cases["AutoEncoder"] = s, codes * s["decoder.weight"].norm(dim=0), codes @ s["decoder.weight"].T + s["bias"]

    s = _linear(**{"encoder.bias": _draw(D_SAE), "decoder.bias": _draw(D_IN)})
    codes = torch.relu(x @ s["encoder.weight"].T + s["encoder.bias"])
    cases["AutoEncoderNew"] = s, codes, codes @ s["decoder.weight"].T + s["decoder.bias"]

    sizes = {"k": torch.tensor(K, dtype=torch.int), "threshold": level}
    for name in ("AutoEncoderTopK", "BatchTopKSAE"):
        s = _linear(**{"encoder.bias": _draw(D_SAE), "b_dec": _draw(D_IN)}, **sizes)
        pre = torch.relu((x - s["b_dec"]) @ s["encoder.weight"].T + s["encoder.bias"])
        codes = _top(pre) if name == "AutoEncoderTopK" else pre * (pre > level)
        cases[name] = s, codes, codes @ s["decoder.weight"].T + s["b_dec"]

    s = _matrices(**sizes, group_sizes=torch.tensor([D_SAE // 2, D_SAE // 2]))
    pre = torch.relu((x - s["b_dec"]) @ s["W_enc"] + s["b_enc"])
    codes = pre * (pre > level)
    cases["MatryoshkaBatchTopKSAE"] = s, codes, codes @ s["W_dec"] + s["b_dec"]

    s = _linear(decoder_bias=_draw(D_IN), r_mag=_draw(D_SAE), gate_bias=_draw(D_SAE), mag_bias=_draw(D_SAE))
    pre = (x - s["decoder_bias"]) @ s["encoder.weight"].T
    codes = (pre + s["gate_bias"] > 0) * torch.relu(s["r_mag"].exp() * pre + s["mag_bias"])
    cases["GatedAutoEncoder"] = s, codes, codes @ s["decoder.weight"].T + s["decoder_bias"]

    s = _matrices(threshold=_draw(D_SAE))
    pre = x @ s["W_enc"] + s["b_enc"]
    codes = torch.relu(pre * (pre > s["threshold"]))
    cases["JumpReluAutoEncoder"] = s, codes, codes @ s["W_dec"] + s["b_dec"]
    return cases


_DICTIONARIES = _dictionaries()


@each("name", _DICTIONARIES)
def test_dictionary_learning_classes_are_computed_by_their_formulas(new_folder, name):
    state, codes, expected = _DICTIONARIES[name]
    folder = new_folder / "trainer_0"
    (folder / "checkpoints").mkdir(parents=True)
    torch.save(state, folder / "ae.pt")
    torch.save(state, folder / "checkpoints" / "ae_10.pt")
    (folder / "config.json").write_text(json.dumps({"trainer": {"dict_class": name, "k": K}, "buffer": {}}))
    for path in (new_folder, folder, folder / "ae.pt", folder / "checkpoints" / "ae_10.pt"):
        sae = load(path)
        assert not any(p.requires_grad for p in sae.parameters())
        output, got = sae(inputs())
        torch.testing.assert_close(got, codes, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


@each("name", _DICTIONARIES)
def test_without_its_config_a_class_is_known_by_its_tensors(new_folder, name):
    state, codes, _ = _DICTIONARIES[name]
    torch.save(state, new_folder / "ae.pt")
    if name in ("AutoEncoderTopK", "BatchTopKSAE"):  # the same tensors
        assert "could be an SAE of class AutoEncoderTopK or BatchTopKSAE" in _sentence(new_folder)
    else:
        torch.testing.assert_close(load(new_folder).encode(inputs()), codes, rtol=1e-5, atol=1e-5)


def test_a_threshold_that_was_never_set_lets_everything_through(tmp_path):
    state = _DICTIONARIES["MatryoshkaBatchTopKSAE"][0] | {"threshold": torch.tensor(-1.0)}
    torch.save(state, tmp_path / "ae.pt")
    pre = (inputs() - state["b_dec"]) @ state["W_enc"] + state["b_enc"]
    torch.testing.assert_close(load(tmp_path).encode(inputs()), pre.relu())


def test_a_topk_of_an_old_version_has_k_in_its_config_only(tmp_path):
    state, codes, _ = _DICTIONARIES["AutoEncoderTopK"]
    torch.save({name: state[name] for name in state if name not in ("k", "threshold")}, tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": "AutoEncoderTopK"}}))
    assert "does not say how many features are active (`k`)" in _sentence(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": "AutoEncoderTopK", "k": K}}))
    torch.testing.assert_close(load(tmp_path).encode(inputs()), codes, rtol=1e-5, atol=1e-5)
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": "AutoEncoderTopK", "k": D_SAE + 1}}))
    assert "k = 25 cannot be active" in _sentence(tmp_path)


def test_an_unknown_class_and_unknown_tensors_are_named(tmp_path):
    torch.save(_DICTIONARIES["AutoEncoder"][0], tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": "CrossCoder"}}))
    assert "is a CrossCoder of dictionary_learning, which saeworks does not load" in _sentence(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": "AutoEncoder"}}))
    torch.save(_DICTIONARIES["AutoEncoder"][0] | {"extra": torch.ones(1)}, tmp_path / "ae.pt")
    assert "has a tensor extra" in _sentence(tmp_path)
    (tmp_path / "config.json").unlink()
    torch.save({"a.codebook": torch.ones(3)}, tmp_path / "ae.pt")
    assert "has tensors a.codebook" in _sentence(tmp_path)


# files of torch.save


class _Attack:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@each("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(new_folder, save):
    save({"encoder.weight": _Attack(new_folder / "trace")}, new_folder / "ae.pt")
    message = _sentence(new_folder)
    assert "was refused" in message and "only loads safely" in message
    assert not (new_folder / "trace").exists()


def test_a_whole_pickled_module_is_refused(tmp_path):
    torch.save(trained_sae("relu"), tmp_path / "sae.pt")
    assert "was refused" in _sentence(tmp_path / "sae.pt")


@each("damage", [lambda b: b"", lambda b: b[:400], lambda b: b[:-300], lambda b: b"hello world" * 9])
def test_a_damaged_file_is_one_sentence(tmp_path, damage):
    torch.save(_e2e("blocks-2-hook_resid_pre"), tmp_path / "a.pt")
    (tmp_path / "a.pt").write_bytes(damage((tmp_path / "a.pt").read_bytes()))
    assert "a.pt cannot be read (" in _sentence(tmp_path / "a.pt")


@each(
    "changes, words",
    [
        ({"b_dec": torch.full((D_IN,), torch.nan)}, "tensor b_dec with values that are not finite"),
        ({"b_dec": torch.ones(D_IN, dtype=torch.int8)}, "tensor b_dec of type int8"),
        ({"b_dec": torch.ones(D_IN, dtype=torch.complex64)}, "tensor b_dec of type complex64"),
        ({"b_dec": torch.ones(D_IN).to_sparse()}, "tensor b_dec of type sparse float32"),
        ({"k": torch.tensor(0)}, "k = 0 cannot be active"),
        ({"k": torch.tensor(2.5)}, "does not say how many features are active"),
        ({"k": torch.tensor([1, 2])}, "does not say how many features are active"),
        ({"k": torch.tensor(True)}, "does not say how many features are active"),
        ({3: torch.ones(1)}, "holds no state dict (names and tensors)"),
    ],
)
def test_tensors_that_make_no_sae_are_one_sentence(tmp_path, changes, words):
    state = _DICTIONARIES["AutoEncoderTopK"][0]
    torch.save(state, tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": "AutoEncoderTopK", "k": K}}))
    load(tmp_path)
    torch.save(state | changes, tmp_path / "ae.pt")
    assert words in _sentence(tmp_path)


@each("content", [{"a": 1}, torch.ones(3), {"state": {"x": torch.ones(2)}}])
def test_a_file_without_a_state_dict_is_one_sentence(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    assert "holds no state dict" in _sentence(tmp_path / "a.pt")


def test_a_checkpoint_around_a_state_dict_is_opened(tmp_path):
    torch.save({"step": 3, "state_dict": _e2e("blocks-2-hook_resid_pre")}, tmp_path / "a.pt")
    assert load(tmp_path / "a.pt").d_in == D_IN


# sparsify


@each("pre_bias", [False, True])
def test_what_is_written_for_sparsify_is_read_back_and_follows_its_formula(tmp_path, pre_bias):
    sae, x = trained_sae("topk", decoder="normalised", pre_bias=pre_bias), inputs()
    save_sparsify(sae, tmp_path / "h.4", {"hook_name": HOOK})
    config, s = json.loads((tmp_path / "h.4" / "cfg.json").read_text()), load_file(tmp_path / "h.4" / "sae.safetensors")
    assert (config["d_in"], config["num_latents"], config["k"], config["activation"]) == (D_IN, D_SAE, K, "topk")
    assert {name: tuple(t.shape) for name, t in s.items()} == {
        "encoder.weight": (D_SAE, D_IN),
        "encoder.bias": (D_SAE,),
        "W_dec": (D_SAE, D_IN),
        "b_dec": (D_IN,),
    }
    codes = _top(torch.relu((x - s["b_dec"]) @ s["encoder.weight"].T + s["encoder.bias"]))
    for expected in (codes, load(tmp_path / "h.4").encode(x), load(tmp_path).encode(x)):
        torch.testing.assert_close(sae.encode(x), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sae(x)[0], codes @ s["W_dec"] + s["b_dec"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(load(tmp_path / "h.4" / "sae.safetensors")(x)[0], sae(x)[0], rtol=1e-5, atol=1e-5)


def test_several_sparsify_saes_are_chosen_by_folder(tmp_path):
    for name in ("layers.1", "layers.2/seed0", "layers.2/seed1"):
        save_sparsify(trained_sae("topk", seed=len(name)), tmp_path / name, {})
    assert "3 SAEs; choose one with `hook_point`: layers.1, layers.2/seed0, layers.2/seed1" in _sentence(tmp_path)
    assert load(tmp_path, hook_point="layers.2/seed1").k == K


@each(
    "changes, words",
    [
        ({"activation": "groupmax"}, "`activation` 'groupmax'"),
        ({"transcode": True}, "`transcode` True"),
        ({"skip_connection": True}, "`skip_connection` True"),
        ({"signed": True}, "`signed` True"),
        ({"k": None}, "no whole number `k`"),
        ({"k": 0}, "k = 0 cannot be active"),
    ],
)
def test_what_sparsify_can_do_beyond_us_is_refused(new_folder, changes, words):
    save_sparsify(trained_sae("topk"), new_folder, {})
    path = new_folder / "cfg.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert words in _sentence(new_folder)


@each("name", ["cfg.json", "sae.safetensors"])
def test_half_a_sparsify_folder_is_one_sentence(new_folder, name):
    save_sparsify(trained_sae("topk"), new_folder, {})
    (new_folder / name).unlink()
    assert f"{name} is missing" in _sentence(new_folder)


@each(
    "architecture, options, words",
    [
        ("relu", {}, "TopK SAEs only, and this is a relu SAE"),
        ("batch_topk", {}, "this is a batch_topk SAE"),
        ("topk", {"topk_relu": False}, "keeps them"),
        ("topk", {"layer_norm": True}, "does not standardise"),
    ],
)
def test_what_sparsify_cannot_do_is_not_written(new_folder, architecture, options, words):
    with pytest.raises(UserError, match=words):
        save_sparsify(trained_sae(architecture, **options), new_folder, {})
    assert list(new_folder.iterdir()) == []


# folders


def test_other_paths_are_one_sentence(tmp_path):
    assert "there is no SAE at" in _sentence(tmp_path / "nowhere")
    assert "in a layout that saeworks knows" in _sentence(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    assert "is not a file of SAE weights" in _sentence(tmp_path / "notes.txt")
    for name in ("a.pt", "b.pt"):
        torch.save({}, tmp_path / name)
    assert "name one of a.pt, b.pt" in _sentence(tmp_path)


def test_a_folder_of_runs_lets_one_be_chosen(tmp_path):
    for run in ("x/one", "x/two"):
        (tmp_path / run).mkdir(parents=True)
        save_sae(trained_sae("relu"), tmp_path / run, {})
    assert "choose one with `hook_point`: x/one, x/two" in _sentence(tmp_path)
    assert load_run(tmp_path, hook_point="x/two").d_in == D_IN
    assert load_run(tmp_path / "x" / "one" / "sae_weights.safetensors").d_in == D_IN


# the export stage


def _run_folder(root: Path, architecture: str = "topk", hook_point: str = HOOK, family: str = "gpt2", **options) -> Path:
    run = root / "run"
    run.mkdir(parents=True)
    save_sae(trained_sae(architecture, **options), run, {"hook_name": hook_point})
    (root / "lm").mkdir()
    (root / "lm" / "config.json").write_text(json.dumps({"model_type": family}))
    processing = {"fold_ln": True, "center_writing_weights": True, "center_unembed": True, "fold_value_biases": True}
    model = {"source": "path", "name": "lm", "path": str(root / "lm"), "processing": processing}
    data = {"model": model, "model_sha256": "", "corpus_sha256": "", "settings": {}}
    (run / "manifest.json").write_text(json.dumps({"spec": {"hook_point": hook_point}, "data": data}))
    return run


@each(
    "hook_point, family, module",
    [
        ("blocks.6.hook_resid_pre", "gpt2", "h.5"),
        ("blocks.5.hook_resid_post", "gpt2", "h.5"),
        ("blocks.5.hook_resid_post", "gpt_neox", "layers.5"),
        ("blocks.5.hook_mlp_out", "llama", "layers.5.mlp"),
        ("blocks.5.hook_attn_out", "gpt_neo", "h.5.attn"),
        ("blocks.5.hook_attn_out", "gpt_neox", "layers.5.attention"),
        ("blocks.5.hook_attn_out", "qwen2", "layers.5.self_attn"),
    ],
)
def test_a_hook_point_is_the_output_of_a_hugging_face_module(tmp_path, capsys, hook_point, family, module):
    run = _run_folder(tmp_path / f"{family}-{hook_point}", hook_point=hook_point, family=family)
    main(str(run), "sparsify", str(tmp_path / "out"))
    assert load(tmp_path / "out" / module).k == K
    assert "subtract its mean" in capsys.readouterr().out
    config = json.loads((tmp_path / "out" / module / "cfg.json").read_text())
    assert config["hook_name"] == hook_point and config["model_processing"]["center_writing_weights"]


@each("hook_point", ["blocks.0.hook_resid_pre", "blocks.3.attn.hook_z", "blocks.3.hook_resid_mid"])
def test_a_value_that_no_module_outputs_is_refused(hook_point):
    with pytest.raises(UserError, match="no Hugging Face module outputs"):
        module_path(hook_point, "gpt2")


def test_the_module_can_be_named_where_the_model_is_not_at_hand(tmp_path):
    run = _run_folder(tmp_path)
    (tmp_path / "lm" / "config.json").unlink()
    with pytest.raises(UserError, match="--module"):
        export_sparsify(run, tmp_path / "out", None)
    export_sparsify(run, tmp_path / "out", "h.0")
    assert load(tmp_path / "out" / "h.0").k == K


def test_export_to_saelens_keeps_weights_and_metadata(tmp_path):
    run = _run_folder(tmp_path, "gated")
    export_saelens(run, tmp_path / "out")
    for name in ("cfg.json", "sae_weights.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (run / name).read_bytes()
    assert not (tmp_path / "out" / "sparsity.safetensors").exists()


def test_export_converts_what_others_trained(tmp_path):
    state, codes, _ = _DICTIONARIES["GatedAutoEncoder"]
    torch.save(state, tmp_path / "ae.pt")
    export_saelens(tmp_path, tmp_path / "out")
    torch.testing.assert_close(load(tmp_path / "out").encode(inputs()), codes, rtol=1e-5, atol=1e-5)


def test_an_export_that_would_compute_something_else_is_refused(tmp_path):
    with pytest.raises(UserError, match="SAELens, which has no topk_signed SAE"):
        export_saelens(_run_folder(tmp_path / "a", topk_relu=False), tmp_path / "out")
