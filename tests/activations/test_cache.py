"""The cache holds the model's activations, survives interruptions, and refuses whatever is not the data it was made from."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.activations.conftest import PARTS, WIDE
from tests.each import each
from tests.tiny_pipeline import CONTEXT, D_MODEL, HOOK, N_LAYERS, tiny_decoder, write_corpus, write_model

from saeworks.activations import cache as module
from saeworks.activations.cache import ActivationCache, identity, write_cache
from saeworks.activations.stream import ActivationStream
from saeworks.config.activations import ActivationsConfig
from saeworks.lm.corpus import load_rows
from saeworks.lm.decoder import Decoder
from saeworks.lm.prepare import load_model
from saeworks.store import files
from saeworks.store.errors import UserError

_ROWS = 30
_DTYPES = ["float32", "float16", "bfloat16"]
_TORCH = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_LAST = f"blocks.{N_LAYERS - 1}.hook_resid_post"


def _config(**changes: object) -> ActivationsConfig:
    return ActivationsConfig(**({"batch_rows": 4, "shard_tokens": 8 * CONTEXT + 5} | changes))  # 8 rows a shard, 4 shards


@pytest.fixture
def write(tmp_path, tiny_model, tiny_corpus):
    def call(*hooks: str, name: str = "cache", **changes: object) -> Path:
        write_cache(_config(**changes), list(hooks or (HOOK,)), tiny_model, tiny_corpus, tmp_path / name)
        return tmp_path / name

    return call


@torch.no_grad()
def _literal(corpus: Path, layer: int, dtype: str = "float32") -> torch.Tensor:
    """Activations (rows, context, d_in) one row at a time, rounded to the stored type."""
    model = tiny_decoder()
    rows = [torch.from_numpy(row.astype(np.int64))[None] for row in load_rows(corpus, "train")]
    return torch.cat([model.blocks(model.embed(row), 0, layer)[0] for row in rows]).to(_TORCH[dtype])


def _assert_stored(values: torch.Tensor, expected: torch.Tensor, dtype: str) -> None:
    """Equal up to the rounding of the forward pass, which may tip a value into the neighbour of its 16-bit type."""
    if dtype == "float32":
        torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-5)
    else:
        assert (values == expected.float()).float().mean() > 0.99
        torch.testing.assert_close(values, expected.float(), rtol=2**-7 if dtype == "bfloat16" else 2**-10, atol=1e-5)


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "verified.json"}


def _sentence(folder: Path, hook: str = HOOK, expected: dict | None = None) -> str:
    with pytest.raises(UserError) as caught:
        ActivationCache(folder, hook, expected)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


@each("dtype", _DTYPES)
@each("shard_rows", [1, 8, 30, 1000])
def test_sequences_and_tokens_are_the_model_s_activations(write, tiny_corpus, dtype, shard_rows):
    folder = write(name=f"{dtype}-{shard_rows}", dtype=dtype, shard_tokens=shard_rows * CONTEXT)
    cache = ActivationCache(folder, HOOK)
    assert (cache.n_rows, cache.context, cache.d_in) == (_ROWS, CONTEXT, D_MODEL)
    expected = _literal(tiny_corpus, 1, dtype)
    sequences = cache.sequences(0, _ROWS)
    assert sequences.dtype == torch.float32 and sequences.shape == (_ROWS, CONTEXT, D_MODEL)
    _assert_stored(sequences, expected[cache.sequence_order], dtype)
    tokens = cache.tokens(0, _ROWS * CONTEXT)
    assert tokens.dtype == torch.float32 and tokens.shape == (_ROWS * CONTEXT, D_MODEL)
    _assert_stored(tokens, expected.flatten(0, 1)[cache.token_order], dtype)


def test_tokens_and_sequences_are_read_in_a_circle(write):
    cache = ActivationCache(write(), HOOK)
    tokens, sequences = cache.tokens(0, _ROWS * CONTEXT), cache.sequences(0, _ROWS)
    for start, count in [(0, 5), (13, 100), (350, 20), (359, 1), (360, 3), (725, 400)]:
        assert torch.equal(cache.tokens(start, count), tokens[(torch.arange(count) + start) % (_ROWS * CONTEXT)]), (start, count)
    for start, count in [(0, 1), (7, 9), (28, 5), (30, 3), (95, 40)]:
        assert torch.equal(cache.sequences(start, count), sequences[(torch.arange(count) + start) % _ROWS]), (start, count)


def test_every_hook_point_is_written_in_one_pass_of_the_model(write, tiny_corpus, monkeypatch):
    passes, real = [], Decoder.embed

    def embed(self, tokens, offset=0):
        passes.append(len(tokens))
        return real(self, tokens, offset)

    monkeypatch.setattr(Decoder, "embed", embed)
    hooks = {"blocks.0.hook_resid_pre": 0, HOOK: 1, "blocks.2.hook_resid_post": 3, _LAST: N_LAYERS}
    folder = write(*hooks)
    assert passes == [4, 4] * 3 + [4, 2]
    monkeypatch.undo()
    for hook, layer in hooks.items():
        cache = ActivationCache(folder, hook)
        _assert_stored(cache.sequences(0, _ROWS), _literal(tiny_corpus, layer)[cache.sequence_order], "float32")


@each(
    "hooks, attentions, mlps",
    [
        (["blocks.0.hook_resid_pre"], [], []),
        (["blocks.0.hook_resid_pre", "blocks.2.hook_resid_pre"], [0, 1], [0, 1]),
        (["blocks.1.hook_resid_post"], [0, 1], [0, 1]),
        (["blocks.1.attn.hook_z", "blocks.1.hook_resid_mid", "blocks.0.hook_mlp_out"], [0, 1], [0]),
    ],
)
def test_the_model_runs_no_further_than_the_deepest_hook_point(write, monkeypatch, hooks, attentions, mlps):
    ran = {"_attention": set(), "_mlp": set()}
    for part, real in [(part, getattr(Decoder, part)) for part in ran]:
        monkeypatch.setattr(
            Decoder, part, lambda self, layer, *args, part=part, real=real: ran[part].add(layer) or real(self, layer, *args)
        )
    write(*hooks, name=hooks[-1])
    assert [sorted(ran[part]) for part in ran] == [attentions, mlps]


def _values(folder: Path, corpus: Path, hook: str) -> torch.Tensor:
    """Activations (rows, context, d_in) of the model in `folder`, one row at a time."""
    model, rows = load_model(folder), [torch.from_numpy(row.astype(np.int64))[None] for row in load_rows(corpus, "train")]
    return torch.cat([model.hook_values(row, [hook])[hook] for row in rows])


@each("dtype", _DTYPES)
def test_hook_points_of_several_widths_are_cached_together(new_folder, wide_heads, tiny_corpus, capsys, dtype):
    widths = dict.fromkeys(PARTS, D_MODEL) | {"blocks.1.attn.hook_z": WIDE}
    hooks = [*PARTS, "blocks.1.hook_resid_mid", "blocks.1.hook_resid_mid"]  # one that is named twice is written once
    widths["blocks.1.hook_resid_mid"] = D_MODEL
    write_cache(_config(dtype=dtype), hooks, wide_heads, tiny_corpus, new_folder / "cache")
    arrays = [np.load(path, mmap_mode="r") for path in (new_folder / "cache").glob("blocks*/*.npy")]
    size = sum(array.nbytes for array in arrays)
    said = f"4 hook point(s), 360 tokens x {3 * D_MODEL + WIDE} values = {files.human_bytes(size)}"
    assert said in capsys.readouterr().out
    manifest = json.loads((new_folder / "cache" / "manifest.json").read_text())
    assert {hook: stored["d_in"] for hook, stored in manifest["hook_points"].items()} == widths
    for hook, d_in in widths.items():
        cache = ActivationCache(new_folder / "cache", hook)
        assert cache.d_in == d_in
        expected = _values(wide_heads, tiny_corpus, hook).to(_TORCH[dtype])
        _assert_stored(cache.sequences(0, _ROWS), expected[cache.sequence_order], dtype)
        _assert_stored(cache.tokens(0, 360), expected.flatten(0, 1)[cache.token_order], dtype)


def test_the_space_needed_counts_each_hook_point_s_own_width(tmp_path, wide_heads, tiny_corpus, monkeypatch):
    usage = namedtuple("usage", "total used free")
    write_cache(_config(), [HOOK], wide_heads, tiny_corpus, tmp_path / "cache")
    needed = WIDE * 32 * CONTEXT * 4 + _ROWS * (CONTEXT + 1) * 8  # the heads alone; the last shard counts as a whole one
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: usage(1 << 40, 0, needed - 1))
    with pytest.raises(UserError, match=f"needs {files.human_bytes(needed)} "):
        write_cache(_config(), [HOOK, "blocks.1.attn.hook_z"], wide_heads, tiny_corpus, tmp_path / "cache")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: usage(1 << 40, 0, needed))
    write_cache(_config(), [HOOK, "blocks.1.attn.hook_z"], wide_heads, tiny_corpus, tmp_path / "cache")


def test_the_same_sequences_are_read_at_several_hook_points(write):
    cache = ActivationCache(folder := write(HOOK, _LAST), HOOK)
    values = cache.sequences_at(27, 8, [_LAST, HOOK])
    assert list(values) == [_LAST, HOOK]
    for hook, value in values.items():
        assert torch.equal(value, ActivationCache(folder, hook).sequences(27, 8))
    with pytest.raises(UserError, match=rf"does not hold blocks\.0\.hook_mlp_out; it holds {HOOK}, {_LAST}"):
        cache.sequences_at(0, 1, ["blocks.0.hook_mlp_out"])


@each("dtype", _DTYPES)
def test_mean_and_norm_in_the_manifest_are_those_of_the_stored_values(write, tiny_corpus, dtype):
    folder = write(name=dtype, dtype=dtype)
    hook = json.loads((folder / "manifest.json").read_text())["hook_points"][HOOK]
    values = _literal(tiny_corpus, 1, dtype).flatten(0, 1).double()
    mean = sum(values) / len(values)
    norm = (sum((value**2).sum() for value in values) / len(values)).sqrt().item()
    tolerance = 1e-5 if dtype == "float32" else 1e-3
    assert hook["mean"] == pytest.approx(mean.tolist(), abs=tolerance)
    assert hook["rms_norm"] == pytest.approx(norm, rel=tolerance)


def test_the_manifest_says_what_the_rows_depend_on(write, tiny_model, tiny_corpus):
    folder = write()
    manifest = json.loads((folder / "manifest.json").read_text())
    model, corpus = (json.loads((f / "manifest.json").read_text()) for f in (tiny_model, tiny_corpus))
    assert manifest["identity"] == {
        "model": model["model"],
        "model_sha256": model["sha256"],
        "corpus_sha256": corpus["sha256"]["train"],
        "context": CONTEXT,
        "n_rows": _ROWS,
        "settings": _config().model_dump(exclude={"source"}),
    }
    assert [s["file"] for s in manifest["hook_points"][HOOK]["shards"]] == [f"{HOOK}/{i:05d}.npy" for i in range(4)]
    shapes = [np.load(folder / HOOK / f"{i:05d}.npy").shape for i in range(4)]
    assert shapes == [(8 * CONTEXT, D_MODEL)] * 3 + [(6 * CONTEXT, D_MODEL)]


def test_equal_settings_give_equal_bytes_and_the_size_is_announced(write, capsys):
    first = _bytes(write(name="first"))
    assert f"1 hook point(s), 360 tokens x {D_MODEL} values = 22.5 KiB" in capsys.readouterr().out
    assert _bytes(write(name="second")) == first


def test_the_seed_changes_the_order_and_not_the_values(write):
    first, other = (ActivationCache(write(name=str(seed), seed=seed), HOOK) for seed in (0, 1))
    assert not torch.equal(first.sequence_order, other.sequence_order)
    assert not torch.equal(first.token_order, other.token_order)
    back = [cache.sequences(0, _ROWS)[cache.sequence_order.argsort()] for cache in (first, other)]
    assert torch.equal(*back)


@pytest.mark.parametrize("shard", [0, 2, 3])
def test_an_interrupted_write_keeps_its_whole_shards_and_ends_with_the_same_bytes(write, tmp_path, monkeypatch, shard):
    expected = _bytes(write(HOOK, _LAST, name="whole"))
    real, calls = module._shard_values, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == shard + 1:
            raise RuntimeError("power cut")
        return real(*args)

    monkeypatch.setattr(module, "_shard_values", interrupted)
    with pytest.raises(RuntimeError, match="power cut"):
        write(HOOK, _LAST)
    folder = tmp_path / "cache"
    assert not (folder / "manifest.json").exists()
    assert "manifest.json is missing" in _sentence(folder)
    kept = {p: p.stat().st_mtime_ns for p in folder.rglob("0*.npy")}
    assert len(kept) == 2 * shard
    calls.clear()
    monkeypatch.setattr(module, "_shard_values", lambda *args: calls.append(1) or real(*args))
    write(HOOK, _LAST)
    assert len(calls) == 4 - shard
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert _bytes(folder) == expected


def test_a_write_that_dies_in_the_middle_of_a_file_leaves_no_half_shard(write, tmp_path, monkeypatch):
    expected = _bytes(write(name="whole"))
    real, calls = np.save, []

    def save(handle, values):
        calls.append(1)
        real(handle, values)
        if len(calls) == 2:
            handle.truncate(100)
            raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", save)
        with pytest.raises(UserError, match=r"00001\.npy could not be written \(disk full\)"):
            write()
    assert [p.name for p in sorted((tmp_path / "cache" / HOOK).iterdir())] == ["00000.npy"]
    assert _bytes(write()) == expected


def test_another_hook_point_is_added_without_writing_the_first_again(write, tiny_corpus):
    folder = write()
    kept = {p: p.stat().st_mtime_ns for p in (folder / HOOK).iterdir()}
    write(HOOK, _LAST)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert _bytes(folder) == _bytes(write(HOOK, _LAST, name="both"))
    cache = ActivationCache(folder, _LAST)
    _assert_stored(cache.sequences(0, _ROWS), _literal(tiny_corpus, N_LAYERS)[cache.sequence_order], "float32")


def test_shards_of_other_settings_are_not_kept(write):
    folder = write(dtype="float16", shard_tokens=CONTEXT)  # more shards than the next write
    write()
    assert _bytes(folder) == _bytes(write(name="fresh"))


def test_a_deleted_shard_is_written_again(write):
    folder = write()
    expected = _bytes(folder)
    (folder / HOOK / "00002.npy").unlink()
    assert _bytes(write()) == expected


@each("file", [f"{HOOK}/00001.npy", "token_order.npy", "sequence_order.npy"])
@each("damage", ["flipped", "truncated", "missing"])
@each("opened_before", [False, True])
def test_a_damaged_file_is_one_sentence(write, file, damage, opened_before):
    folder = write(name=f"{Path(file).name}-{damage}-{opened_before}")
    if opened_before:
        ActivationCache(folder, HOOK)
    path = folder / file
    whole = path.read_bytes()
    data = bytearray(whole)
    if damage == "flipped":
        data[-5] ^= 1
        path.write_bytes(data)
    elif damage == "truncated":
        path.write_bytes(data[:-40])
    else:
        path.unlink()
    message = _sentence(folder)
    mend = folder / "manifest.json"
    assert str(path) in message and f"delete {mend} and run the same snakemake command again" in message
    assert ("is missing" if damage == "missing" else "is damaged") in message
    mend.unlink()
    ActivationCache(write(name=folder.name), HOOK).tokens(0, 10)
    assert path.read_bytes() == whole


def test_damage_to_another_hook_point_does_not_matter(write):
    folder = write(HOOK, _LAST)
    (folder / _LAST / "00000.npy").write_bytes(b"")
    ActivationCache(folder, HOOK).tokens(0, 10)


def test_checksums_are_computed_once_and_again_for_a_changed_file(write, monkeypatch):
    folder = write()
    hashed, real = [], module.sha256_file

    def sha256(path):
        hashed.append(Path(path).name)
        return real(path)

    monkeypatch.setattr(module, "sha256_file", sha256)
    ActivationCache(folder, HOOK)
    assert sorted(hashed) == ["00000.npy", "00001.npy", "00002.npy", "00003.npy", "sequence_order.npy", "token_order.npy"]
    assert len(json.loads((folder / "verified.json").read_text())) == 6
    hashed.clear()
    ActivationCache(folder, HOOK)
    assert hashed == []
    shard = folder / HOOK / "00001.npy"
    os.utime(shard, ns=(1, 1))
    ActivationCache(folder, HOOK)
    assert hashed == ["00001.npy"]
    shard.write_bytes(shard.read_bytes() + b"x")
    assert "is damaged" in _sentence(folder)
    assert "is damaged" in _sentence(folder)  # what failed is not remembered as intact


@each("stamp", ["{", "[]", "null", '{"token_order.npy": 3}', b"\xff", None])
def test_a_bad_or_unwritable_note_of_checksums_only_costs_time(write, monkeypatch, stamp):
    folder = write(name="cache")
    if stamp is not None:
        (folder / "verified.json").write_bytes(stamp if isinstance(stamp, bytes) else stamp.encode())
        ActivationCache(folder, HOOK)
        assert len(json.loads((folder / "verified.json").read_text())) == 6
        return
    (folder / "verified.json").unlink(missing_ok=True)

    def replace(old, new):
        raise PermissionError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(files.os, "replace", replace)
    ActivationCache(folder, HOOK).tokens(0, 10)
    assert not (folder / "verified.json").exists()


@each(
    "key, value",
    [
        ("identity", None),
        ("identity", {"context": 12}),
        ("dtype", "int8"),
        ("rows_per_shard", 0),
        ("rows_per_shard", "7"),
        ("hook_points", {HOOK: {"layer": 1, "d_in": 16, "shards": []}}),
        ("hook_points", []),
        ("orders", {"sequence_order": 1}),
    ],
)
def test_a_manifest_that_says_something_else_is_one_sentence(write, key, value):
    folder = write()
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {key: value}))
    message = _sentence(folder)
    assert f"{folder / 'manifest.json'} is damaged (its `{key}" in message


def test_shards_that_do_not_fit_the_manifest_are_one_sentence(write):
    folder = write()
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"rows_per_shard": manifest["rows_per_shard"] + 1}))
    assert "of shape" in _sentence(folder)


def test_the_checksums_of_several_hook_points_are_remembered_together(write, monkeypatch):
    folder = write(HOOK, _LAST)
    for hook in (HOOK, _LAST):
        ActivationCache(folder, hook)
    hashed = []
    monkeypatch.setattr(module, "sha256_file", hashed.append)
    for hook in (HOOK, _LAST):
        ActivationCache(folder, hook)
    assert hashed == []


def test_a_cache_of_another_model_or_corpus_or_setting_is_stale(write, tmp_path, tiny_model, tiny_corpus):
    folder = write()
    assert ActivationCache(folder, HOOK, identity(_config(source="stream"), tiny_model, tiny_corpus)).n_rows == _ROWS
    other_model = write_model(tmp_path / "model", seed=1)
    other_corpus = write_corpus(tmp_path / "corpus", tiny_model, seed=1)
    cases = {
        "model, model_sha256": identity(_config(), other_model, tiny_corpus),
        "corpus_sha256": identity(_config(), tiny_model, other_corpus),
        "settings": identity(_config(seed=1), tiny_model, tiny_corpus),
    }
    for stale, expected in cases.items():
        message = _sentence(folder, expected=expected)
        assert f"stale: its {stale} differ" in message and str(folder) in message


def test_new_weights_under_an_old_name_make_the_cache_stale(write, tmp_path, tiny_model, tiny_corpus):
    folder = write()
    other = write_model(tmp_path / "model", seed=1)
    record = json.loads((other / "manifest.json").read_text())
    record["model"] = json.loads((tiny_model / "manifest.json").read_text())["model"]
    (other / "manifest.json").write_text(json.dumps(record))
    assert "its model_sha256 differ" in _sentence(folder, expected=identity(_config(), other, tiny_corpus))


def test_a_hook_point_that_is_not_cached_is_one_sentence_with_those_that_are(write):
    message = _sentence(write(HOOK, _LAST), "blocks.0.hook_resid_pre")
    assert f"does not hold blocks.0.hook_resid_pre; it holds {HOOK}, {_LAST}" in message


@pytest.mark.parametrize(
    ("hook", "near"),
    [
        ("blocks.9.hook_resid_pre", "blocks.2.hook_resid_pre, blocks.3.hook_resid_pre, blocks.3.attn.hook_z"),
        ("blocks.1.hook_z", "blocks.0.hook_resid_pre, blocks.1.hook_resid_pre, blocks.2.hook_resid_pre, blocks.1.attn.hook_z"),
        ("nonsense", "blocks.0.hook_resid_pre, blocks.1.hook_resid_pre, blocks.0.attn.hook_z"),
    ],
)
def test_an_unknown_hook_point_is_one_sentence_with_valid_ones_near_it(write, tmp_path, hook, near):
    with pytest.raises(UserError) as caught:
        write(HOOK, hook)
    message = str(caught.value)
    at = near[-len("blocks.0.attn.hook_z") :].removesuffix("attn.hook_z")
    near += "".join(f", {at}{name}" for name in ("hook_attn_out", "hook_resid_mid", "hook_mlp_out", "hook_resid_post"))
    assert message.startswith(f"hook point {hook!r} does not exist in this model of {N_LAYERS} blocks")
    assert f"valid ones near it: {near}." in message and "\n" not in message
    assert not (tmp_path / "cache").exists()


def test_a_disk_that_is_too_small_is_one_sentence_with_both_numbers(write, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    values, orders = _ROWS * CONTEXT * D_MODEL * 4, _ROWS * (CONTEXT + 1) * 8
    needed = values // 30 * 32 + orders  # the last shard counts as a whole one
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: usage(1 << 40, 0, 20_000))
    with pytest.raises(UserError) as caught:
        write()
    message = str(caught.value)
    assert f"needs {files.human_bytes(needed)} but only 19.5 KiB are free" in message and "\n" not in message
    assert not list(tmp_path.rglob("*.npy")) and not (tmp_path / "cache" / "manifest.json").exists()
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: usage(1 << 40, 0, needed))
    ActivationCache(write(), HOOK)


def test_what_is_already_written_needs_no_space(write, monkeypatch):
    folder = write()
    shutil.copytree(folder, folder.with_name("copy"))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: usage(1 << 40, 0, _ROWS * (CONTEXT + 1) * 8))
    write()
    assert _bytes(folder) == _bytes(folder.with_name("copy"))


def test_reading_does_not_change_the_files(write):
    folder = write()
    before = _bytes(folder)
    cache = ActivationCache(folder, HOOK)
    cache.tokens(0, 50).zero_()
    cache.sequences(0, 5).zero_()
    assert _bytes(folder) == before
    assert cache.tokens(0, 50).abs().sum() > 0


_WRONG_PROGRESS = {
    "a key that is no shard": lambda shards: shards.update(x=next(iter(shards.values()))),
    "a key outside": lambda shards: shards.update({"../../other/0": next(iter(shards.values()))}),
    "a number in other digits": lambda shards: shards.update({f"{HOOK}/١": shards.pop(f"{HOOK}/1")}),
    "no hash": lambda shards: shards[f"{HOOK}/0"].pop("sha256"),
    "a sum that is not finite": lambda shards: shards[f"{HOOK}/0"]["sum"].__setitem__(0, float("nan")),
    "a sum that is too short": lambda shards: shards[f"{HOOK}/0"]["sum"].pop(),
    "a square below 0": lambda shards: shards[f"{HOOK}/0"].update(sum_of_squares=-1.0),
    "fewer tokens": lambda shards: shards[f"{HOOK}/0"].update(tokens=1),
    "text": lambda shards: shards.update({f"{HOOK}/0": "done"}),
}


@each("wrong", _WRONG_PROGRESS)
def test_what_is_wrong_in_the_note_of_progress_is_written_again(write, wrong):
    folder = write(name="wrong")
    expected = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    progress = json.loads((folder / "progress.json").read_text())
    _WRONG_PROGRESS[wrong](progress["shards"])
    (folder / "progress.json").write_text(json.dumps(progress))
    write(name="wrong")
    assert {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == expected


@each("dtype, factor, says", [
    ("float32", float("nan"), "are not finite: the model overflows there, or its weights are damaged"),
    ("bfloat16", float("inf"), "are not finite"),
    ("float16", 1e9, "exceed the range of float16; set `activations.dtype` to bfloat16 or float32"),
])  # fmt: skip
def test_activations_that_are_not_finite_are_one_sentence(
    write, tiny_model, tiny_corpus, monkeypatch, new_folder, dtype, factor, says
):
    values = Decoder.hook_values
    monkeypatch.setattr(Decoder, "hook_values", lambda *a: {name: value * factor for name, value in values(*a).items()})
    with pytest.raises(UserError, match=f"activations at {HOOK} {says}"):
        write(name=new_folder.name, dtype=dtype)
    stream = ActivationStream(_config(source="stream", dtype=dtype), HOOK, tiny_model, tiny_corpus)
    for read in (stream.tokens, stream.sequences):
        with pytest.raises(UserError, match=f"activations at {HOOK} {says}"):
            read(0, 2)
    monkeypatch.undo()


def test_shards_of_other_code_are_not_kept(tiny_model, tiny_corpus, tmp_path, monkeypatch):
    config, folder = ActivationsConfig(), tmp_path / "cache"
    module.write_cache(config, [HOOK], tiny_model, tiny_corpus, folder, fingerprint="old")
    real = module._shard_values
    calls = []
    monkeypatch.setattr(module, "_shard_values", lambda *args: calls.append(1) or real(*args))
    module.write_cache(config, [HOOK], tiny_model, tiny_corpus, folder, fingerprint="old")
    assert not calls
    module.write_cache(config, [HOOK], tiny_model, tiny_corpus, folder, fingerprint="new")
    assert calls
