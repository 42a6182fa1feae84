"""Made-up configurations and damaged run folders: whatever they hold, they end in one sentence or in something that is right."""

from __future__ import annotations

import copy
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load, save
from tests.plan.experiment import experiment
from tests.saes import ARCHITECTURES, D_IN, K, inputs, trained_sae
from tests.tiny_pipeline import run_spec

import saeworks
from saeworks.config.base import parse, read_config
from saeworks.config.experiment import parse_experiment
from saeworks.config.training import RunSpec
from saeworks.plan.code import Code
from saeworks.plan.opening import open_plan
from saeworks.sae.architectures.topk import TopKSAE
from saeworks.sae.formats import save_sae
from saeworks.sae.interop import save_sparsify
from saeworks.store.errors import UserError

_CODE = Code()
_QUICK, _SLOW = 100, 10_000


def _examples(number: int) -> Callable[[Callable], Callable]:
    """The same examples at every call, and none kept between calls."""
    health = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    return settings(max_examples=number, derandomize=True, database=None, deadline=None, suppress_health_check=health)


def _sentence(error: UserError) -> None:
    words = str(error)
    assert "\n" not in words and words.rstrip(")").endswith(".") and 10 < len(words) < 1500, words


# JSON values that are wrong in many ways, as often as not of the right kind

_NUMBERS = st.one_of(
    st.integers(-3, 300),
    st.integers(),
    st.floats(),
    st.sampled_from([0, 1, -1, 0.0, 1.0, 0.5, 2**31, 2**63, 10**20, 1e-9, 1e9, 1e308, 5e-324]),
)
_WORDS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            "",
            " ",
            "a",
            "\n",
            "\x00",
            "१",
            "ß" * 300,
            "../..",
            "$(touch pwned)",
            "true",
            "null",
            "1e3",
            "1_000",
            "nan",
            "inf",
            "-1",
            "0x10",
        ]
    ),
    st.from_regex(r"blocks\.\d{1,3}\.(hook_resid_pre|hook_resid_post|hook_mlp_out|attn\.hook_z|hook_x)", fullmatch=True),
)
_ANY = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS | st.integers(), inner, max_size=3),
    max_leaves=6,
)
_EXPERIMENT = experiment()
_KEYWORDS = sorted(
    {
        "relu",
        "topk",
        "gated",
        "free",
        "linear",
        "cosine",
        "l1",
        "l0",
        "tanh",
        "e2e",
        "local",
        "finetune",
        "hub",
        "path",
        "own",
        "text",
        "auxk",
    }
)


def _places(value: Any, path: tuple = ()) -> list[tuple]:
    """Paths of all values within a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in _places(item, (*path, key)))]


def _value_like(data: st.DataObject, old: Any) -> Any:
    """Another value: of the same kind, from elsewhere, or anything."""
    if isinstance(old, bool | str) or old is None:
        return data.draw(st.sampled_from(_KEYWORDS) | _WORDS | _ANY)
    return data.draw((_NUMBERS if isinstance(old, int | float) else _ANY) | _ANY)


def _mutated(data: st.DataObject, value: Any, new_keys: list[str]) -> Any:
    """`value` with one to four changes: another value, a key removed, renamed or added, a value put elsewhere."""
    value = copy.deepcopy(value)
    for _ in range(data.draw(st.integers(1, 4))):
        places = _places(value)
        path = places[data.draw(st.integers(0, len(places) - 1))]
        if not path:
            if data.draw(st.integers(0, 20)) == 0:
                return data.draw(_ANY)
            path = (data.draw(st.sampled_from(new_keys)),)
            if not isinstance(value, dict):
                return value
        block = value
        for key in path[:-1]:
            block = block[key]
        last = path[-1]
        there = last in block if isinstance(block, dict) else True
        match data.draw(st.sampled_from(["value", "value", "value", "remove", "rename", "add", "move"])):
            case "remove" if there:
                del block[last]
            case "rename" if isinstance(block, dict) and there:
                block[data.draw(_WORDS | st.sampled_from(new_keys) | st.integers())] = block.pop(last)
            case "add" if isinstance(block, dict):
                block[data.draw(st.sampled_from(new_keys))] = data.draw(_ANY)
            case "move" if there:
                other = places[data.draw(st.integers(0, len(places) - 1))]
                moved = value
                for key in other:
                    try:
                        moved = moved[key]
                    except (KeyError, IndexError, TypeError):
                        break
                block[last] = copy.deepcopy(moved)
            case _:
                block[last] = _value_like(data, block[last] if there else None)
    return value


# configurations


def _keys() -> list[str]:
    from saeworks.config.experiment import Experiment, RunGroup
    from saeworks.config.training import TrainingConfig

    return sorted({*Experiment.model_fields, *RunGroup.model_fields, *TrainingConfig.model_fields})


_KEYS = _keys()


def _check_configuration(values: Any, root: Path) -> None:
    """One sentence; or runs with different names, whose files lie in the experiment's folders, that survive a trip through JSON."""
    try:
        parsed = parse_experiment(values)
        plan = open_plan(values, root, _CODE)
    except UserError as error:
        _sentence(error)
        return
    specs = parsed.run_specs()
    assert len({(spec.hook_point, spec.name) for spec in specs}) == len(specs) > 0
    assert all(parse(RunSpec, json.loads(spec.model_dump_json())) == spec for spec in specs)
    assert parse_experiment(json.loads(json.dumps(parsed.model_dump(exclude_unset=True)))) == parsed
    outputs = [path for job in plan.jobs.values() for path in job.outputs]
    assert len(set(outputs)) == len(outputs)
    for path in map(Path, outputs):
        assert path.parts[0] in ("results", "data") and ".." not in path.parts and max(map(len, path.parts)) < 256, path
        assert str(path).isascii() and str(path).isprintable() and not set(str(path)) & set(" ;$`'\"\\&|<>()*?!"), path


def _fuzz_configurations(number: int) -> Callable:
    @_examples(number)
    @given(data=st.data())
    def test(data: st.DataObject, tmp_path: Path) -> None:
        _check_configuration(_mutated(data, _EXPERIMENT, _KEYS), tmp_path)

    return test


def _fuzz_configuration_files(number: int) -> Callable:
    text = yaml.safe_dump(_EXPERIMENT, sort_keys=False).encode()

    @_examples(number)
    @given(data=st.data())
    def test(data: st.DataObject, tmp_path: Path) -> None:
        path = tmp_path / "a.yaml"
        path.write_bytes(_damaged(data, text))
        try:
            values = read_config(path)
        except UserError as error:
            _sentence(error)
            assert str(path) in str(error)
        else:
            _check_configuration(values, tmp_path)

    return test


# folders of runs


def _damaged(data: st.DataObject, content: bytes) -> bytes:
    """Bytes with one to three changes: turned, inserted, removed, cut off, or put elsewhere; near the beginning as often as not."""
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, min(len(content), 400)) | st.integers(0, len(content)))
        size = data.draw(st.integers(1, 8) | st.integers(1, 200))
        match data.draw(st.sampled_from(["turn", "turn", "insert", "remove", "cut", "copy"])):
            case "turn":
                content = content[:at] + data.draw(st.binary(min_size=1, max_size=8)) + content[at + size % 8 + 1 :]
            case "insert":
                content = content[:at] + data.draw(st.binary(min_size=1, max_size=8)) + content[at:]
            case "remove":
                content = content[:at] + content[at + size :]
            case "cut":
                content = content[:at]
            case "copy":
                content = content[:at] + content[:size] + content[at:]
    return content


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
            tensors[data.draw(_WORDS)] = tensors.pop(name)
        case "add":
            tensors[data.draw(_WORDS)] = torch.zeros(3)
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
        _sentence(error)
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
    @_examples(number)
    @given(data=st.data())
    def test(data: st.DataObject, runs: list[dict[str, bytes]], tmp_path: Path) -> None:
        files = dict(runs[data.draw(st.integers(0, len(runs) - 1))])
        for _ in range(data.draw(st.integers(1, 2))):
            name = data.draw(st.sampled_from(sorted(files)))
            match data.draw(st.sampled_from(["bytes", "values", "values", "swap", "remove"])):
                case "bytes":
                    files[name] = _damaged(data, files[name])
                case "values":
                    files[name] = _changed(data, name, files[name])
                case "swap":
                    other = runs[data.draw(st.integers(0, len(runs) - 1))]
                    files[name] = other.get(name, files[name])
                case "remove" if len(files) > 1:
                    del files[name]
        folder = tmp_path / "run"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        _check_run(folder)

    return test


def _changed(data: st.DataObject, name: str, content: bytes) -> bytes:
    """A file with other values in it, as far as it can be read."""
    try:
        if name.endswith(".json"):
            keys = ["k", "d_in", "d_sae", "architecture", "metadata", "activation", "num_latents", "trainer", "dict_class"]
            return json.dumps(_mutated(data, json.loads(content), keys)).encode("utf-8", "surrogatepass")
        if name.endswith(".safetensors"):
            return _retyped(data, content)
        tensors = torch.load(io.BytesIO(content), weights_only=True)
        tensors[data.draw(_WORDS | st.integers())] = data.draw(st.just(torch.zeros(3)) | _ANY)
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
    @_examples(number)
    @given(data=st.data())
    def test(data: st.DataObject, tiny_model: Path, tiny_corpus: Path, tmp_path: Path) -> None:
        from saeworks.config.activations import ActivationsConfig
        from saeworks.training.run import train

        chosen = data.draw(st.lists(st.sampled_from(sorted(_TRAINABLE)), max_size=6, unique=True))
        changes = {"n_tokens": 96} | {key: data.draw(_TRAINABLE[key]) for key in chosen}
        if "sparsity_coeff" not in changes and changes.get("architecture", "relu") in ("relu", "gated", "jumprelu"):
            changes["sparsity_coeff"] = data.draw(st.floats(1e-9, 1e9))
        try:
            spec = run_spec(data.draw(st.sampled_from(["local", "e2e", "e2e_ds"])), **changes)
        except ValidationError:  # which `parse` turns into a sentence
            return
        for name in ("run", "scratch"):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
        stream = ActivationsConfig(source="stream", block_rows=10)
        try:
            train(spec, stream, None, tiny_model, tiny_corpus, tmp_path / "run", tmp_path / "scratch", progress=False)
        except UserError as error:
            _sentence(error)
            assert not (tmp_path / "run" / "manifest.json").exists()
        else:
            assert all(value.isfinite().all() for value in saeworks.load_run(tmp_path / "run").parameters())

    return test


test_any_configuration = _fuzz_configurations(_QUICK)
test_any_configuration_file = _fuzz_configuration_files(_QUICK)
test_any_run_folder = _fuzz_runs(_QUICK)
test_any_settings_of_training = _fuzz_training(10)
test_ten_thousand_configurations = pytest.mark.slow(_fuzz_configurations(_SLOW))
test_ten_thousand_configuration_files = pytest.mark.slow(_fuzz_configuration_files(_SLOW))
test_ten_thousand_run_folders = pytest.mark.slow(_fuzz_runs(_SLOW))
test_many_settings_of_training = pytest.mark.slow(_fuzz_training(1000))
