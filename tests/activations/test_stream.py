"""The stream gives what the cache gives, in the same order, without a file."""

from __future__ import annotations

import pytest
import torch
from tests.activations.conftest import PARTS, WIDE
from tests.each import each
from tests.tiny_pipeline import CONTEXT, D_MODEL, HOOK, N_LAYERS

from saeworks.activations.cache import ActivationCache, write_cache
from saeworks.activations.stream import ActivationStream, open_activations
from saeworks.config.activations import ActivationsConfig
from saeworks.lm.decoder import Decoder
from saeworks.store.errors import UserError

_ROWS = 30
_N = _ROWS * CONTEXT


def _both(tmp_path, model, corpus, hook: str = HOOK, **changes: object) -> tuple[ActivationCache, ActivationStream]:
    config = ActivationsConfig(**({"batch_rows": 4, "shard_tokens": 8 * CONTEXT} | changes))
    write_cache(config, [hook], model, corpus, tmp_path / "cache")
    streamed = config.model_copy(update={"source": "stream"})
    opened = [open_activations(c, hook, tmp_path / "cache", model, corpus) for c in (config, streamed)]
    assert [type(source) for source in opened] == [ActivationCache, ActivationStream]
    return tuple(opened)


def _assert_same(ours: torch.Tensor, theirs: torch.Tensor, dtype: str) -> None:
    """Equal up to the rounding of a forward pass over other rows, which may tip a value into its 16-bit neighbour."""
    assert ours.dtype == theirs.dtype == torch.float32
    assert ours.shape == theirs.shape
    if dtype != "float32":
        assert (ours == theirs).float().mean() > 0.99
    tolerance = {"float32": 1e-5, "float16": 2**-10, "bfloat16": 2**-7}[dtype]
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=1e-5)


@each("dtype", ["float32", "float16", "bfloat16"])
@each("block_rows", [None, 1, 7, 30, 100])
def test_the_stream_equals_the_cache_in_every_type_and_block_size(new_folder, tiny_model, tiny_corpus, dtype, block_rows):
    cache, stream = _both(new_folder, tiny_model, tiny_corpus, dtype=dtype, block_rows=block_rows)
    for start, count in [(0, _N), (5, 1), (40, 100), (_N - 30, 70), (_N, 20), (3 * _N + 11, 2 * _N + 3)]:
        _assert_same(stream.tokens(start, count), cache.tokens(start, count), dtype)
    for start, count in [(0, _ROWS), (4, 1), (27, 8), (_ROWS, 5), (95, 61)]:
        _assert_same(stream.sequences(start, count), cache.sequences(start, count), dtype)


@each("hook", ["blocks.0.hook_resid_pre", f"blocks.{N_LAYERS - 1}.hook_resid_post"])
def test_the_stream_equals_the_cache_at_both_ends_of_the_model(new_folder, tiny_model, tiny_corpus, hook):
    cache, stream = _both(new_folder, tiny_model, tiny_corpus, hook)
    _assert_same(stream.tokens(100, 300), cache.tokens(100, 300), "float32")
    _assert_same(stream.sequences(25, 10), cache.sequences(25, 10), "float32")


@each("hook", PARTS)
@each("dtype", ["float32", "bfloat16"])
def test_the_stream_equals_the_cache_at_the_parts_of_a_block(new_folder, wide_heads, tiny_corpus, hook, dtype):
    cache, stream = _both(new_folder, wide_heads, tiny_corpus, hook, dtype=dtype, block_rows=7)
    assert cache.d_in == stream.d_in == (WIDE if hook.endswith("z") else D_MODEL)
    _assert_same(stream.tokens(40, 350), cache.tokens(40, 350), dtype)
    _assert_same(stream.sequences(25, 10), cache.sequences(25, 10), dtype)


def test_several_hook_points_of_the_same_sequences_come_from_one_pass(tmp_path, wide_heads, tiny_corpus, monkeypatch):
    config, names = ActivationsConfig(batch_rows=4), [PARTS[-1], "blocks.1.hook_resid_mid"]
    write_cache(config, names, wide_heads, tiny_corpus, tmp_path / "cache")
    cache = open_activations(config, names[0], tmp_path / "cache", wide_heads, tiny_corpus)
    streamed = config.model_copy(update={"source": "stream"})
    stream = open_activations(streamed, names[0], tmp_path / "cache", wide_heads, tiny_corpus)
    passes, real = [], Decoder.embed
    monkeypatch.setattr(Decoder, "embed", lambda self, tokens: passes.append(len(tokens)) or real(self, tokens))
    ours, theirs = stream.sequences_at(28, 7, names), cache.sequences_at(28, 7, names)
    assert passes == [4, 3]
    assert list(ours) == list(theirs) == names
    for name in names:
        _assert_same(ours[name], theirs[name], "float32")
    assert torch.equal(ours[names[0]], stream.sequences(28, 7))


def test_both_describe_the_same_data(tmp_path, tiny_model, tiny_corpus):
    cache, stream = _both(tmp_path, tiny_model, tiny_corpus, block_rows=7)
    for name in ("manifest", "context", "n_rows", "d_in"):
        assert getattr(cache, name) == getattr(stream, name)
    assert (stream.context, stream.n_rows, stream.d_in) == (CONTEXT, _ROWS, D_MODEL)
    for name in ("sequence_order", "token_order"):
        assert torch.equal(getattr(cache, name), getattr(stream, name))


def test_the_stream_runs_the_model_once_per_block_and_holds_one(tmp_path, tiny_model, tiny_corpus, monkeypatch):
    _, stream = _both(tmp_path, tiny_model, tiny_corpus, block_rows=10)
    ran, real = [], stream._activations

    def activations(rows):
        ran.append(len(rows))
        return real(rows)

    monkeypatch.setattr(stream, "_activations", activations)
    for start in range(0, _N, 24):
        stream.tokens(start, 24)
    assert ran == [10, 10, 10]
    assert stream._held[1].shape == (10, CONTEXT, D_MODEL)


def test_the_stream_needs_no_folder(tmp_path, tiny_model, tiny_corpus):
    config = ActivationsConfig(source="stream")
    stream = open_activations(config, HOOK, tmp_path / "nowhere", tiny_model, tiny_corpus)
    assert stream.tokens(0, 10).shape == (10, D_MODEL)
    assert not list(tmp_path.iterdir())


def test_an_unknown_hook_point_is_one_sentence_in_a_stream_too(tmp_path, tiny_model, tiny_corpus):
    with pytest.raises(UserError, match=r"'blocks\.7\.hook_resid_pre' does not exist .*valid ones near it: blocks\.2"):
        open_activations(ActivationsConfig(source="stream"), "blocks.7.hook_resid_pre", tmp_path, tiny_model, tiny_corpus)


def test_a_stale_cache_is_refused_on_opening(tmp_path, tiny_model, tiny_corpus):
    write_cache(ActivationsConfig(), [HOOK], tiny_model, tiny_corpus, tmp_path / "cache")
    with pytest.raises(UserError, match="stale: its settings differ"):
        open_activations(ActivationsConfig(seed=1), HOOK, tmp_path / "cache", tiny_model, tiny_corpus)
