"""Files appear whole or not at all, equal values have equal hashes, and damage is one sentence."""

from __future__ import annotations

import hashlib
import json
import os
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from tests.each import each

from saeworks.store import files
from saeworks.store.checkpoint import load_checkpoint, restore, save_checkpoint
from saeworks.store.errors import UserError, did_you_mean
from saeworks.store.files import (
    atomic_path,
    canonical_json,
    content_hash,
    human_bytes,
    publish,
    read_json,
    require_space,
    sha256_file,
    write_json,
)


def test_a_file_takes_its_name_only_when_the_block_succeeds(tmp_path):
    path = tmp_path / "deep" / "down" / "x.txt"
    with atomic_path(path) as partial:
        partial.write_text("whole")
        assert not path.exists()
        assert partial.parent == path.parent  # a rename across disks is not atomic
    assert path.read_text() == "whole"
    assert [p.name for p in path.parent.iterdir()] == ["x.txt"]


def test_a_failed_block_leaves_the_old_file_and_no_partial_one(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="stop"), atomic_path(path) as partial:
        partial.write_text("half")
        raise RuntimeError("stop")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_a_block_that_writes_nothing_is_an_error_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(UserError, match="could not be written"), atomic_path(path):
        pass
    assert path.read_text() == "old"


def _stage(folder, names):
    folder.mkdir()
    for name in names:
        (folder / name).write_text(f"new {name}")
    return folder


def test_publish_moves_everything_and_drops_the_staging_folder(tmp_path):
    staging = _stage(tmp_path / "staging", ["manifest.json", "a", "z"])
    final = tmp_path / "runs" / "final"
    publish(staging, final)
    assert {p.name: p.read_text() for p in final.iterdir()} == {n: f"new {n}" for n in ("manifest.json", "a", "z")}
    assert not staging.exists()


def test_the_manifest_is_gone_while_files_move_and_comes_last(tmp_path, monkeypatch):
    final = _stage(tmp_path / "final", ["manifest.json", "a"])
    staging = _stage(tmp_path / "staging", ["a", "manifest.json", "z"])
    moved, real = [], os.replace

    def replace(source, target):
        assert not (final / "manifest.json").exists()
        moved.append(Path(target).name)
        real(source, target)

    monkeypatch.setattr(files.os, "replace", replace)
    publish(staging, final)
    assert moved == ["a", "z", "manifest.json"]


def test_an_interrupted_publish_leaves_no_manifest(tmp_path, monkeypatch):
    final = _stage(tmp_path / "final", ["manifest.json", "a"])
    staging = _stage(tmp_path / "staging", ["manifest.json", "a"])

    def replace(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "replace", replace)
    with pytest.raises(UserError, match="disk full"):
        publish(staging, final)
    assert not (final / "manifest.json").exists()


def test_publishing_without_the_last_file_is_a_programming_error(tmp_path):
    staging = _stage(tmp_path / "staging", ["a"])
    with pytest.raises(ValueError, match=r"manifest\.json"):
        publish(staging, tmp_path / "final")
    publish(staging, tmp_path / "other", last="a")
    assert (tmp_path / "other" / "a").exists()


def test_equal_values_have_equal_json_whatever_the_order_of_keys():
    assert canonical_json({"b": [1, 2.5, None], "a": {"ä": True}}) == r'{"a":{"\u00e4":true},"b":[1,2.5,null]}'
    assert canonical_json({"a": 1, "b": 2}) == canonical_json({"b": 2, "a": 1})
    assert canonical_json([1, 2]) != canonical_json([2, 1])


def test_the_content_hash_is_the_start_of_the_sha256_of_the_json():
    assert content_hash({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()
    assert content_hash({"a": 1}, 8) == content_hash({"a": 1})[:8]
    assert content_hash({"a": 1}) != content_hash({"a": 2})


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 1])
def test_a_file_s_hash_is_that_of_its_bytes(tmp_path, size):
    data = bytes(i % 251 for i in range(size))
    (tmp_path / "x").write_bytes(data)
    assert sha256_file(tmp_path / "x") == hashlib.sha256(data).hexdigest()


def test_json_files_are_stable_and_read_back(tmp_path):
    write_json(tmp_path / "x.json", {"b": 1, "a": [1.5]})
    assert (tmp_path / "x.json").read_text() == '{\n  "a": [\n    1.5\n  ],\n  "b": 1\n}\n'
    assert read_json(tmp_path / "x.json") == {"a": [1.5], "b": 1}


@pytest.mark.parametrize(
    ("text", "sentence"), [(None, "is missing; fetch it"), ("{", "is not valid JSON ("), ("[" * 100_000, "is not valid JSON (")]
)
def test_a_missing_or_damaged_json_file_is_one_sentence(tmp_path, text, sentence):
    path = tmp_path / "x.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path} {sentence}")
    assert "\n" not in str(caught.value)


def test_too_little_space_is_reported_with_both_numbers(tmp_path, monkeypatch):
    asked = []

    def disk_usage(folder):
        asked.append(folder)
        return namedtuple("Usage", "total used free")(10 << 30, 9 << 30, 1 << 30)

    monkeypatch.setattr(files.shutil, "disk_usage", disk_usage)
    folder = tmp_path / "not" / "there" / "yet"
    require_space(folder, 1 << 30, "the activation cache")
    with pytest.raises(UserError) as caught:
        require_space(folder, (1 << 30) + (1 << 29), "the activation cache")
    assert str(caught.value).startswith(f"the activation cache needs 1.5 GiB but only 1.0 GiB are free under {tmp_path};")
    assert asked == [tmp_path, tmp_path]  # the nearest folder that exists
    assert not folder.exists()


@pytest.mark.parametrize(
    ("n", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 20, "1.0 MiB"), (5 << 30, "5.0 GiB"), (3 << 40, "3.0 TiB")],
)
def test_sizes_are_readable(n, text):
    assert human_bytes(n) == text


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path):
    path = tmp_path / "run" / "checkpoint.safetensors"
    assert load_checkpoint(path) is None
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    tensors = {"w": weight, "turned": weight.T, "step": torch.tensor(3), "empty": torch.zeros(0, 2), "again": weight}
    save_checkpoint(path, tensors, {"step": 3, "history": [{"loss": 0.1}]})
    loaded, state = load_checkpoint(path)
    assert state == {"step": 3, "history": [{"loss": 0.1}]}
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor)
        assert not loaded[name].requires_grad


def test_a_new_checkpoint_replaces_the_old_one(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    for step in (1, 2):
        save_checkpoint(path, {"w": torch.full((2,), step)}, {"step": step})
    tensors, state = load_checkpoint(path)
    assert (tensors["w"].tolist(), state) == ([2, 2], {"step": 2})
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "no state", "no metadata"])
def test_a_damaged_checkpoint_is_one_sentence(tmp_path, damage):
    from safetensors.torch import save_file

    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, {"w": torch.zeros(100)}, {"step": 1})
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-10])
    elif damage in ("text", "empty"):
        path.write_text("not a checkpoint" * (damage == "text"))
    else:
        save_file({"w": torch.zeros(1)}, path, metadata={"other": "x"} if damage == "no state" else None)
    with pytest.raises(UserError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(f"checkpoint {path} cannot be read (")
    assert message.endswith("; delete it and run the same command again to start that run over.")
    assert "\n" not in message


@each(
    "saved, words",
    [
        ({}, "lacks tensor w"),
        ({"w": torch.zeros(2), "v": torch.zeros(1)}, "has an unknown tensor v"),
        ({"w": torch.zeros(1)}, r"has a tensor w of \(\(1,\), 'float32'\) where \(\(2,\), 'float32'\) belongs"),
        ({"w": torch.zeros(2).int()}, "int32"),
    ],
)
def test_a_checkpoint_that_does_not_fit_changes_nothing(tmp_path, saved, words):
    into = {"w": torch.ones(2)}
    with pytest.raises(UserError, match=words):
        restore(tmp_path / "checkpoint.safetensors", saved, into)
    assert into["w"].tolist() == [1, 1]
    restore(tmp_path, {"w": torch.full((2,), 3.0)}, into)
    assert into["w"].tolist() == [3, 3]


def test_a_checkpoint_without_a_key_that_is_needed_is_one_sentence(tmp_path):
    save_checkpoint(tmp_path / "checkpoint.safetensors", {"w": torch.zeros(1)}, {"step": 1})
    load_checkpoint(tmp_path / "checkpoint.safetensors", "step")
    with pytest.raises(UserError, match=r"cannot be read \('identity'\)"):
        load_checkpoint(tmp_path / "checkpoint.safetensors", "step", "identity")


class _Killed(BaseException):
    """Nothing catches it, as nothing catches a signal 9 or a power cut."""


def _disk(monkeypatch, dies_at: int) -> list[tuple[str, str]]:
    """What is done to the disk, in order; the call number `dies_at` is the last, and not done."""
    done: list[tuple[str, str]] = []
    opened: dict[int, str] = {}
    real = {name: getattr(os, name) for name in ("open", "fsync", "replace")}

    def call(name: str, what: str, *arguments):
        if len(done) == dies_at:
            raise _Killed
        done.append((name, what))
        return real[name](*arguments)

    def open_(path, *arguments, **options):
        descriptor = real["open"](path, *arguments, **options)
        opened[descriptor] = Path(path).name
        return descriptor

    monkeypatch.setattr(files.os, "open", open_)
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: call("sync", opened[descriptor], descriptor))
    monkeypatch.setattr(files.os, "replace", lambda old, new: call("replace", Path(new).name, old, new))
    real["sync"] = real["fsync"]
    return done


def test_bytes_are_on_the_disk_before_the_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    done = _disk(monkeypatch, dies_at=99)
    write_json(tmp_path / "new" / "x.json", 1)
    partial = f".x.json.partial-{os.getpid()}"
    assert done == [("sync", tmp_path.name), ("sync", partial), ("replace", "x.json"), ("sync", "new")]


@each("dies_at", range(4))
def test_a_kill_leaves_the_old_file_or_the_new_one_whole(tmp_path, dies_at):
    path = tmp_path / "x.json"
    write_json(path, "old")
    with pytest.MonkeyPatch.context() as patch:
        _disk(patch, dies_at)
        if dies_at < 3:
            with pytest.raises(_Killed):
                write_json(path, "new")
        else:
            write_json(path, "new")
    assert read_json(path) == ("old" if dies_at < 2 else "new")


@each("dies_at", range(9))
def test_a_kill_while_a_folder_is_published_leaves_a_manifest_only_of_what_is_there(tmp_path, dies_at):
    final = _stage(tmp_path / str(dies_at), ["a", "manifest.json"])
    (final / "a").write_text("old a")
    (final / "manifest.json").write_text("old manifest.json")
    staging = _stage(tmp_path / f"staging{dies_at}", ["a", "manifest.json"])
    with pytest.MonkeyPatch.context() as patch:
        _disk(patch, dies_at)
        if dies_at < 7:
            with pytest.raises(_Killed):
                publish(staging, final)
        else:
            publish(staging, final)
    there = {path.name: path.read_text() for path in final.iterdir()}
    assert there["a"] == ("old a" if dies_at < 3 else "new a")
    assert there.get("manifest.json") == ("new manifest.json" if dies_at > 5 else None)


def test_a_folder_that_cannot_be_written_to_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be written"):
        write_json(tmp_path / "file" / "below" / "x.json", 1)


def test_a_checkpoint_s_state_is_json_in_the_file_s_header(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, {"w": torch.zeros(1)}, {"b": 1, "a": 2})
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert header["__metadata__"] == {"state": '{"a": 2, "b": 1}'}


def test_close_names_are_suggested_and_distant_ones_are_not():
    assert did_you_mean("trainning", ["training", "corpus"]) == " (did you mean 'training'?)"
    assert did_you_mean("seeds", ["seed", "seats"]) == " (did you mean 'seed' or 'seats'?)"
    assert did_you_mean("xyz", ["training"]) == ""
    assert did_you_mean("a", []) == ""
    assert did_you_mean("lr", iter(["lr_", "lrs"]), n=1).count("'") == 2
