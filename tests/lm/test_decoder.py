"""The fast decoder and the bridge wrapper compute what TransformerBridge computes, for every family that is covered."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import pytest
import torch
import transformers
from tests.each import each
from tokenizers import Tokenizer, models, pre_tokenizers

from saeworks.config.model import HubModel, PathModel, Processing
from saeworks.lm.bridge import BridgeModel, boot, extract_decoder
from saeworks.lm.decoder import Architecture, Decoder, KeyValueCache
from saeworks.lm.prepare import prepare
from saeworks.lm.sites import Site, residual_before
from saeworks.store.errors import UserError

_VOCAB, _ROW = 96, 20
_IDS = {"vocab_size": _VOCAB, "bos_token_id": 0, "eos_token_id": 0}
_LLAMA_LIKE = {
    "max_position_embeddings": 64,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
}
_CONFIGS = {
    "gpt2": lambda: transformers.GPT2Config(n_positions=64, n_embd=32, n_layer=3, n_head=4, **_IDS),
    "gpt_neo": lambda: transformers.GPTNeoConfig(  # the local window is shorter than the row
        max_position_embeddings=64,
        hidden_size=32,
        num_layers=4,
        attention_types=[[["global", "local"], 2]],
        num_heads=4,
        window_size=6,
        intermediate_size=48,
        **_IDS,
    ),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(  # rotates a quarter of each head
        max_position_embeddings=64,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        rotary_pct=0.25,
        **_IDS,
    ),
    "gpt_neox_sequential": lambda: transformers.GPTNeoXConfig(
        max_position_embeddings=64,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        rotary_pct=0.25,
        use_parallel_residual=False,
        **_IDS,
    ),
    "llama": lambda: transformers.LlamaConfig(**_LLAMA_LIKE, **_IDS),
    "qwen2": lambda: transformers.Qwen2Config(**_LLAMA_LIKE, **_IDS),
    "mistral": lambda: transformers.MistralConfig(sliding_window=6, **_LLAMA_LIKE, **_IDS),
    "opt": lambda: transformers.OPTConfig(  # not covered by the decoder
        max_position_embeddings=64,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        ffn_dim=48,
        word_embed_proj_dim=32,
        pad_token_id=1,
        **_IDS,
    ),
    "gemma2": lambda: transformers.Gemma2Config(  # not covered: norms after attention and MLP, and a cap that its logits reach
        head_dim=8, final_logit_softcapping=0.2, **_LLAMA_LIKE, **_IDS
    ),
}
_FAMILIES = [family for family in _CONFIGS if family not in ("opt", "gemma2")]
# Hugging Face computes these partly in float32 whatever the model's type: RMSNorm in llama, qwen2 and mistral; attention
# scores in gpt_neo; rotary angles (of which the decoder takes the same float32 values) in gpt_neox
_FLOAT64_TOLERANCE = dict.fromkeys(("gpt_neo", "llama", "qwen2", "mistral"), 1e-5)
_CENTRED = 1e-6  # TransformerLens processes weights in float32, then converts them
_SHARED_MODELS = ("stories260k", "gpt2-tiny-random")


def _write_tokenizer(folder: Path) -> None:
    vocabulary = {"<|endoftext|>": 0} | {f"w{i}": i for i in range(1, _VOCAB)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    ).save_pretrained(folder)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Hugging Face directory of a tiny random model of a family."""

    @cache
    def build(family: str) -> Path:
        folder = tmp_path_factory.mktemp(family)
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(_CONFIGS[family]())
        for parameter in model.parameters():  # norms and biases start at 1 and 0, where a lost one would not show
            parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
        model.save_pretrained(folder)
        _write_tokenizer(folder)
        return folder

    return build


@pytest.fixture(scope="session")
def bridge_of(model_folder) -> Callable[..., object]:
    """The booted bridge of a family."""

    @cache
    def build(family: str, dtype: torch.dtype = torch.float64):
        return boot(PathModel(name=family, path=str(model_folder(family))), dtype=dtype)

    return build


def _tokens(rows: int = 2, length: int = _ROW, vocab: int = _VOCAB) -> torch.Tensor:
    return torch.randint(vocab, (rows, length), generator=torch.Generator().manual_seed(1))


def _bridge_run(bridge, tokens: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits, and `hook_resid_pre` of every layer followed by the last `hook_resid_post`, from the bridge's own hooks."""
    n = bridge.cfg.n_layers
    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(n)] + [f"blocks.{n - 1}.hook_resid_post"]
    seen: dict[str, torch.Tensor] = {}
    hooks = [(name, lambda value, hook, name=name: seen.update({name: value})) for name in names]
    logits = bridge.run_with_hooks(tokens, fwd_hooks=hooks)
    return logits, [seen[name] for name in names]


def _assert_equal_to_bridge(model: Decoder | BridgeModel, bridge, tokens: torch.Tensor, tolerance: float) -> None:
    n = model.arch.n_layers
    expected_logits, expected = _bridge_run(bridge, tokens)
    close = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(model.forward(tokens), expected_logits, **close)
    residuals = [residual_before(layer, n) for layer in range(n + 1)]
    last, captured = model.blocks(model.embed(tokens), 0, n, capture=residuals)
    assert sorted(captured) == sorted(residuals)
    for name, value in zip(residuals, expected, strict=True):
        torch.testing.assert_close(captured[name], value, **close)
    torch.testing.assert_close(last, expected[n], **close)
    for start in range(1, n + 1):  # from the bridge's own residual in the middle
        resid, captured = model.blocks(expected[start], start, n, capture=residuals[start - 1 : start + 1])
        torch.testing.assert_close(resid, expected[n], **close)
        assert list(captured) == residuals[start : start + 1]  # not the one before
        torch.testing.assert_close(model.logits(resid), expected_logits, **close)


@torch.no_grad()
@each("family", _FAMILIES)
def test_decoder_equals_the_bridge_in_float64(bridge_of, family):
    bridge = bridge_of(family)
    decoder = extract_decoder(bridge)
    assert decoder.dtype == torch.float64
    _assert_equal_to_bridge(decoder, bridge, _tokens(), _FLOAT64_TOLERANCE.get(family, 1e-9))


@torch.no_grad()
@each("family", _FAMILIES)
def test_decoder_equals_the_bridge_in_float32(bridge_of, family):
    bridge = bridge_of(family, torch.float32)
    _assert_equal_to_bridge(extract_decoder(bridge), bridge, _tokens(), 1e-4)


@torch.no_grad()
@pytest.mark.parametrize("family", [*_FAMILIES, "opt"])
def test_bridge_model_equals_the_bridge(bridge_of, family):
    bridge = bridge_of(family)
    _assert_equal_to_bridge(BridgeModel(bridge), bridge, _tokens(), _FLOAT64_TOLERANCE.get(family, 1e-9))


@torch.no_grad()
@pytest.mark.parametrize("name", _SHARED_MODELS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-5)])
def test_decoder_and_bridge_model_equal_the_bridge_on_a_real_directory(shared, name, dtype, tolerance):
    path = shared / "data" / "models" / name
    if not path.is_dir():
        pytest.skip(f"{name} is not there")
    bridge = boot(PathModel(name=name, path=str(path)), dtype=dtype)
    tokens = _tokens(2, 24, bridge.cfg.d_vocab)
    _assert_equal_to_bridge(extract_decoder(bridge), bridge, tokens, tolerance)
    _assert_equal_to_bridge(BridgeModel(bridge), bridge, tokens, tolerance)


@torch.no_grad()
@each("family", _FAMILIES)
def test_unprocessed_weights_give_the_logits_of_hugging_face(model_folder, family):
    folder = model_folder(family)
    processing = Processing(fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False)
    bridge = boot(PathModel(name=family, path=str(folder), processing=processing))
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = _tokens()
    torch.testing.assert_close(extract_decoder(bridge).forward(tokens), reference(tokens).logits, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@each("family", _FAMILIES)
def test_processed_weights_give_the_probabilities_of_hugging_face(model_folder, bridge_of, family):
    reference = transformers.AutoModelForCausalLM.from_pretrained(model_folder(family), dtype=torch.float32)
    tokens = _tokens()
    logits = extract_decoder(bridge_of(family, torch.float32)).forward(tokens)
    expected = reference(tokens).logits.log_softmax(-1)
    torch.testing.assert_close(logits.log_softmax(-1), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("start", [0, 1, 2])
def test_gradients_through_the_rest_of_the_model_equal_the_bridge_s(bridge_of, start):
    bridge = bridge_of("gpt2")
    decoder = extract_decoder(bridge)
    with torch.no_grad():
        _, residuals = _bridge_run(bridge, _tokens())
    mine, theirs = (residuals[start].clone().requires_grad_() for _ in range(2))
    direction = torch.randn(2, _ROW, _VOCAB, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (decoder.logits(decoder.blocks(mine, start, 3)[0]) * direction).sum().backward()
    (bridge(theirs, start_at_layer=start) * direction).sum().backward()
    assert theirs.grad.abs().max() > 1e-3
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-9, atol=1e-9)


def test_gradients_of_captured_residuals_and_through_the_bridge_model_equal_the_decoder_s(bridge_of):
    bridge = bridge_of("gpt2")
    with torch.no_grad():
        _, residuals = _bridge_run(bridge, _tokens())
    gradients = []
    for model in (extract_decoder(bridge), BridgeModel(bridge)):
        resid = residuals[1].clone().requires_grad_()
        names = ["blocks.1.hook_mlp_out", "blocks.2.hook_resid_pre", "blocks.2.attn.hook_z", "blocks.2.hook_resid_post"]
        last, captured = model.blocks(resid, 1, 3, capture=names)
        assert sorted(captured) == sorted(names)
        (sum(captured[name].pow(3).sum() for name in names) + model.logits(last).cos().sum()).backward()
        gradients.append(resid.grad)
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


_KINDS = ("hook_resid_pre", "attn.hook_z", "hook_attn_out", "hook_resid_mid", "hook_mlp_out", "hook_resid_post")


def _hook_points(model: Decoder | BridgeModel, layers: Iterable[int]) -> list[str]:
    kinds = [kind for kind in _KINDS if not (model.arch.parallel and kind == "hook_resid_mid")]
    return [f"blocks.{layer}.{kind}" for layer in layers for kind in kinds]


def _reference_values(bridge, tokens: torch.Tensor, names: list[str]) -> dict[str, torch.Tensor]:
    """Values at the bridge's own hooks, heads concatenated."""
    seen: dict[str, torch.Tensor] = {}
    hooks = [(name, lambda value, hook, name=name: seen.update({name: value.flatten(2)})) for name in names]
    bridge.run_with_hooks(tokens, fwd_hooks=hooks)
    return seen


def _reference_run(bridge, tokens: torch.Tensor, name: str, new: torch.Tensor, capture: Iterable[str]) -> dict[str, torch.Tensor]:
    """Values at the hook points `capture` and the logits (under "logits") when the bridge's hook `name` returns `new`."""
    if name.endswith("resid_mid"):  # that hook feeds the MLP alone, so the attention writes what makes this the residual
        before = f"{name.removesuffix('mid')}pre"
        name, new = name.replace("resid_mid", "attn_out"), new - _reference_values(bridge, tokens, [before])[before]
    seen: dict[str, torch.Tensor] = {}
    hooks = [(name, lambda value, hook: new.view(value.shape))]
    hooks += [(at, lambda value, hook, at=at: seen.update({at: value.flatten(2)})) for at in capture]
    return {"logits": bridge.run_with_hooks(tokens, fwd_hooks=hooks), **seen}


def _assert_continues_as_the_bridge(
    model: Decoder | BridgeModel, bridge, tokens: torch.Tensor, names: list[str], tolerance
) -> None:
    n, close = model.arch.n_layers, {"rtol": tolerance, "atol": tolerance}
    for name in names:
        site = Site.parse(name, model.arch)
        clean = model.hook_values(tokens, {name, site.stream})
        noise = torch.randn(clean[name].shape, dtype=model.dtype, generator=torch.Generator().manual_seed(4))
        for new in (clean[name] + noise, torch.zeros_like(noise)):
            downstream = [at for at in site.downstream(model.arch) if at in bridge.hook_dict]
            expected = _reference_run(bridge, tokens, name, new, downstream)
            last, captured = model.continue_from(site, new, clean[name], clean[site.stream], capture=downstream)
            assert sorted(captured) == sorted(downstream)
            for at in downstream:
                torch.testing.assert_close(captured[at], expected[at], **close)
            if downstream:
                torch.testing.assert_close(last, expected[residual_before(n, n)], **close)
            torch.testing.assert_close(model.logits(last), expected["logits"], **close)


def _engines(family: str, bridge) -> list[Decoder | BridgeModel]:
    return [BridgeModel(bridge)] if family == "opt" else [extract_decoder(bridge), BridgeModel(bridge)]


@torch.no_grad()
@pytest.mark.parametrize("family", [*_FAMILIES, "opt"])
def test_values_at_every_hook_point_are_those_of_the_bridge_s_hooks(bridge_of, family):
    bridge, tolerance = bridge_of(family), _FLOAT64_TOLERANCE.get(family, 1e-9)
    for model in _engines(family, bridge):
        names = _hook_points(model, range(model.arch.n_layers))
        expected = _reference_values(bridge, _tokens(), names)
        for chosen in (names, names[-2:], *([name] for name in names)):
            values = model.hook_values(_tokens(), chosen)
            assert sorted(values) == sorted(chosen)
            for name, value in values.items():
                assert value.shape[-1] == Site.parse(name, model.arch).d_in
                torch.testing.assert_close(value, expected[name], rtol=tolerance, atol=tolerance)
        assert model.hook_values(_tokens(), []) == {}


@torch.no_grad()
@pytest.mark.parametrize("family", [*_FAMILIES, "opt"])
def test_continuing_with_a_replacement_equals_the_bridge_with_the_value_replaced_at_its_hook(bridge_of, family):
    bridge = bridge_of(family)
    for model in _engines(family, bridge):
        names = _hook_points(model, (0, model.arch.n_layers - 1))
        _assert_continues_as_the_bridge(model, bridge, _tokens(), names, _FLOAT64_TOLERANCE.get(family, 1e-9))


@torch.no_grad()
@pytest.mark.parametrize("name", _SHARED_MODELS)
def test_values_and_continuing_equal_the_bridge_on_a_real_directory(shared, name):
    path = shared / "data" / "models" / name
    if not path.is_dir():
        pytest.skip(f"{name} is not there")
    bridge = boot(PathModel(name=name, path=str(path)), dtype=torch.float64)
    tokens = _tokens(2, 24, bridge.cfg.d_vocab)
    decoder = extract_decoder(bridge)
    names = _hook_points(decoder, [1])
    expected, values = _reference_values(bridge, tokens, names), decoder.hook_values(tokens, names)
    for hook in names:
        torch.testing.assert_close(values[hook], expected[hook], rtol=1e-5, atol=1e-5)
    _assert_continues_as_the_bridge(decoder, bridge, tokens, names, 1e-5)


@torch.no_grad()
def test_continuing_with_the_clean_value_is_the_clean_run_to_the_bit(bridge_of):
    for family in ("gpt2", "gpt_neox", "llama"):
        decoder = extract_decoder(bridge_of(family))
        for name in _hook_points(decoder, [1]):
            site = Site.parse(name, decoder.arch)
            clean = decoder.hook_values(_tokens(), {name, site.stream})
            last, _ = decoder.continue_from(site, clean[name], clean[name], clean[site.stream])
            assert torch.equal(decoder.logits(last), decoder.forward(_tokens()))


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_gradients_of_a_replacement_equal_the_bridge_s_and_reach_nothing_else(bridge_of, family):
    bridge = bridge_of(family)
    direction = torch.randn(2, _ROW, _VOCAB, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for model in _engines(family, bridge):
        for name in _hook_points(model, [1]):
            site = Site.parse(name, model.arch)
            with torch.no_grad():
                clean = model.hook_values(_tokens(), {name, site.stream})
            value, stream, mine, theirs = (
                t.clone().requires_grad_() for t in (clean[name], clean[site.stream], clean[name] + 0.5, clean[name] + 0.5)
            )
            at = "blocks.2.hook_attn_out"
            last, captured = model.continue_from(site, mine, value, stream, capture=[at])
            ((model.logits(last) * direction).sum() + captured[at].pow(3).sum()).backward()
            expected = _reference_run(bridge, _tokens(), name, theirs, [at])
            ((expected["logits"] * direction).sum() + expected[at].pow(3).sum()).backward()
            assert theirs.grad.abs().max() > 1e-3
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-9, atol=1e-9)
            assert value.grad is None and stream.grad is None


@torch.no_grad()
def test_a_bridge_whose_blocks_do_not_add_up_continues_only_from_what_adds_up(model_folder):
    bridge = boot(PathModel(name="gemma2", path=str(model_folder("gemma2"))), dtype=torch.float64)
    model, tokens = BridgeModel(bridge), _tokens()
    adds_up = ["blocks.1.hook_resid_pre", "blocks.1.hook_attn_out", "blocks.1.hook_mlp_out", "blocks.1.hook_resid_post"]
    _assert_continues_as_the_bridge(model, bridge, tokens, adds_up, 1e-5)
    site = Site.parse("blocks.1.attn.hook_z", model.arch)  # normalised after W_O, before it is added
    clean = model.hook_values(tokens, [site.name, site.stream])
    for _ in range(2):
        with pytest.raises(UserError, match=r"cannot be continued from blocks\.1\.attn\.hook_z"):
            model.continue_from(site, clean[site.name], clean[site.name], clean[site.stream])


@pytest.mark.parametrize("engine", [extract_decoder, BridgeModel])
def test_values_at_an_unknown_hook_point_are_refused(bridge_of, engine):
    with pytest.raises(UserError, match=r"'blocks\.1\.hook_resid_mid' does not exist in this model of 3 blocks"):
        engine(bridge_of("gpt_neox")).hook_values(_tokens(), ["blocks.0.hook_mlp_out", "blocks.1.hook_resid_mid"])


def test_the_frozen_model_collects_no_gradients(bridge_of):
    decoder = extract_decoder(bridge_of("gpt2"))
    assert not any(weight.requires_grad for weight in decoder.weights.values())
    assert not decoder.forward(_tokens()).requires_grad


@torch.no_grad()
@each("family", _FAMILIES)
@pytest.mark.parametrize("steps", [[1] * _ROW, [7, 1, 1, 8, 3]], ids=["one by one", "in pieces"])
def test_stepping_with_a_cache_equals_the_whole_row(bridge_of, family, steps):
    decoder = extract_decoder(bridge_of(family))
    tokens = _tokens()
    cache_ = KeyValueCache(decoder.arch, len(tokens), _ROW, decoder.W_U)
    parts = []
    for piece in tokens.split(steps, dim=1):
        resid, _ = decoder.blocks(decoder.embed(piece, offset=cache_.length), 0, decoder.arch.n_layers, cache=cache_)
        cache_.length += piece.shape[1]
        parts.append(decoder.logits(resid))
    torch.testing.assert_close(torch.cat(parts, dim=1), decoder.forward(tokens), rtol=1e-9, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("family", ["gpt_neo", "mistral"])
def test_a_window_hides_the_tokens_before_it(bridge_of, family):
    decoder = extract_decoder(bridge_of(family))
    layer = next(i for i, window in enumerate(decoder.arch.windows) if window)
    window = decoder.arch.windows[layer]
    resid = torch.randn(1, _ROW, decoder.arch.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    other = resid.clone()
    other[:, 2] = -other[:, 2]  # adding a constant would be lost in the normalisation
    changed = (decoder.blocks(resid, layer, layer + 1)[0] - decoder.blocks(other, layer, layer + 1)[0]).abs().amax(-1)[0]
    assert (changed > 1e-9).nonzero().flatten().tolist() == list(range(2, 2 + window))


@torch.no_grad()
@pytest.mark.parametrize("centred", [True, False])
def test_centred_writing_weights_make_every_residual_average_to_zero(model_folder, centred):
    processing = Processing(center_writing_weights=centred)
    bridge = boot(PathModel(name="x", path=str(model_folder("gpt2")), processing=processing), dtype=torch.float64)
    decoder = extract_decoder(bridge)
    _, residuals = decoder.blocks(decoder.embed(_tokens()), 0, 3, [residual_before(i, 3) for i in range(4)])
    means = torch.stack([resid.mean(-1).abs().max() for resid in residuals.values()])
    assert (means < _CENTRED).all() if centred else (means > 1e-3).all()


@torch.no_grad()
@pytest.mark.parametrize("centred", [True, False])
def test_centred_unembedding_makes_logits_average_to_zero(model_folder, centred):
    processing = Processing(center_unembed=centred)
    bridge = boot(PathModel(name="x", path=str(model_folder("gpt2")), processing=processing), dtype=torch.float64)
    mean = extract_decoder(bridge).forward(_tokens()).mean(-1).abs()
    assert mean.max() < _CENTRED if centred else mean.max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("folded", [True, False])
def test_folded_normalisation_leaves_no_scale_in_the_norms(model_folder, folded):
    processing = Processing(fold_ln=folded)
    bridge = boot(PathModel(name="x", path=str(model_folder("gpt2")), processing=processing), dtype=torch.float64)
    weight = extract_decoder(bridge).weights.get("blocks.1.ln1.w")
    trivial = weight is None or torch.equal(weight, torch.ones_like(weight))
    assert trivial is folded


@torch.no_grad()
@pytest.mark.parametrize("folded", [True, False])
def test_folded_value_biases_leave_no_value_bias(model_folder, folded):
    processing = Processing(fold_value_biases=folded)
    bridge = boot(PathModel(name="x", path=str(model_folder("gpt2")), processing=processing), dtype=torch.float64)
    value_bias = extract_decoder(bridge).weights["blocks.1.attn.qkv.b"][64:]
    assert bool((value_bias == 0).all()) is folded


def test_an_unknown_family_is_not_extracted(bridge_of):
    with pytest.raises(NotImplementedError, match="'opt'"):
        extract_decoder(bridge_of("opt"))


def test_attention_scaled_by_layer_is_not_extracted(model_folder, tmp_path):
    config = _CONFIGS["gpt2"]()
    config.scale_attn_by_inverse_layer_idx = True
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    _write_tokenizer(tmp_path)
    with pytest.raises(NotImplementedError, match="scaled by layer"):
        extract_decoder(boot(PathModel(name="x", path=str(tmp_path))))


@pytest.mark.parametrize(("field", "value"), [("activation", "mish"), ("norm", "batch")])
def test_an_unknown_variant_is_refused(field, value):
    fields = Decoder(_tiny_architecture(), {}).describe()["arch"] | {field: value}
    with pytest.raises(NotImplementedError, match=value):
        Architecture(**fields)


def _tiny_architecture() -> Architecture:
    return Architecture(
        n_layers=1,
        d_model=4,
        n_heads=1,
        n_kv_heads=1,
        d_head=4,
        d_vocab=5,
        n_ctx=8,
        norm="layer",
        eps=1e-5,
        rotary_dim=0,
        activation="gelu",
        parallel=False,
        attn_scale=0.5,
        windows=(0,),
    )


@torch.no_grad()
@pytest.mark.parametrize("family", ["gpt2", "mistral"])
def test_a_saved_decoder_loads_as_the_same_decoder(bridge_of, tmp_path, family):
    decoder = extract_decoder(bridge_of(family))
    decoder.save(tmp_path / "decoder.safetensors")
    record = json.loads(json.dumps(decoder.describe()))
    loaded = Decoder.load(tmp_path / "decoder.safetensors", record["arch"], record["rope_scale"])
    assert loaded.arch == decoder.arch
    assert torch.equal(loaded.forward(_tokens()), decoder.forward(_tokens()))


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.3)])
def test_a_copy_in_another_type_keeps_the_rotary_angles_and_leaves_the_original(bridge_of, dtype, tolerance):
    decoder = extract_decoder(bridge_of("gpt_neox"))
    copy = decoder.to(dtype=dtype)
    assert (copy.dtype, decoder.dtype) == (dtype, torch.float64)
    assert torch.equal(copy.weights["inv_freq"], decoder.weights["inv_freq"])
    torch.testing.assert_close(copy.forward(_tokens()).double(), decoder.forward(_tokens()), rtol=tolerance, atol=tolerance)


def test_the_bridge_model_refuses_to_sample(bridge_of):
    with pytest.raises(UserError, match="use a `text` or `hub` corpus"):
        BridgeModel(bridge_of("opt")).embed(_tokens(), offset=3)


def _boot_error(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        boot(PathModel(name="x", path=str(path)))
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_a_missing_directory_is_one_sentence(tmp_path):
    assert _boot_error(tmp_path / "nowhere").endswith("nowhere does not exist; correct `model.path`.")


def test_a_directory_without_tokenizer_gets_none_made_up(model_folder, tmp_path):
    for file in model_folder("gpt2").iterdir():
        if "token" not in file.name:
            shutil.copy(file, tmp_path)
    with pytest.raises(UserError, match=rf"model {tmp_path} has no tokenizer; add its tokenizer.json to its directory"):
        prepare(PathModel(name="x", path=str(tmp_path)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_name_of_the_hub_is_never_a_folder_here(model_folder, monkeypatch):
    folder = model_folder("gpt2")
    monkeypatch.chdir(folder.parent)
    with pytest.raises(UserError, match=rf"`model.name` is '{folder.name}' .*set `source: path` and `path: {folder.name}`"):
        boot(HubModel(name=folder.name))
    boot(PathModel(name="x", path=folder.name))


def test_a_directory_without_config_is_one_sentence(tmp_path):
    assert "holds no config.json" in _boot_error(tmp_path)


@pytest.mark.parametrize("fault", ["weights", "no weights", "config"])
def test_a_damaged_directory_is_one_sentence(model_folder, tmp_path, fault):
    for file in model_folder("gpt2").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    if fault == "weights":
        (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:1000])
    elif fault == "no weights":
        (tmp_path / "model.safetensors").unlink()
    else:
        (tmp_path / "config.json").write_text("{")
    assert "cannot be loaded: " in _boot_error(tmp_path)
