"""What is current, on made-up jobs: settings, code, inputs, files and facts each count, a neutral new setting does not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from pydantic import Field
from tests.each import each

from saeworks.config.base import Frozen
from saeworks.plan import hashes
from saeworks.plan.code import Code
from saeworks.plan.job import Job, Settings, nested
from saeworks.plan.record import begin_record
from saeworks.plan.state import State
from saeworks.plan.why import explanation, explanations
from saeworks.store.errors import UserError
from saeworks.store.files import sha256_file

from .conftest import finish


class _Inner(Frozen):
    size: int = 2


class _Block(Frozen):
    rate: float = 0.5
    names: list[str] = Field(default=["a"])
    every: int = 10
    inner: _Inner = _Inner()


class _Grown(_Block):
    extra: float | None = None


class _Workplace:
    """Two jobs, `first` and `second/x`, that reads it; and the package that makes them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "pack").mkdir()
        (root / "pack" / "__init__.py").write_text("")
        self.write_code("return 1")
        (root / "text.txt").write_text("text")

    def write_code(self, body: str) -> None:
        (self.root / "pack" / "work.py").write_text(f"def one():\n    {body}\n\n\ndef two():\n    return 2\n")

    def state(self, block: Frozen | None = None, facts: dict | None = None, files: tuple[str, ...] = ("text.txt",)) -> State:
        settings = Settings.of(("b.names",), ("b.every",), b=block or _Block())
        first = Job("first", ("out/first",), "out/first.json", settings, ("work:one",), files=files, facts=facts or {"n": 1})
        second = Job("second/x", ("out/second",), "out/second.json", entries=("work:two",), inputs=("first",))
        return State([first, second], self.root, Code(self.root / "pack", ()))

    def make(self, *names: str, **changes: object) -> None:
        finish(self.state(**changes), *names)


@pytest.fixture
def place(tmp_path) -> _Workplace:
    found = _Workplace(tmp_path)
    found.make()
    return found


def test_what_was_just_made_is_current(place):
    assert place.state().stale() == []


def test_without_a_record_or_an_output_nothing_is_current(place):
    (place.root / "out" / "first").unlink()
    assert place.state().stale() == ["first"]  # whose identity is known, so that what was made from it is still good
    (place.root / "out" / "first.json").unlink()
    assert place.state().stale() == ["first"]
    (place.root / "out" / "second.json").write_text("{")
    assert place.state().stale() == ["first", "second/x"]


@each(
    "key, wrong",
    [("settings", []), ("definitions", None), ("inputs", 3), ("facts", "a"), ("files", {"a": 1}), ("outputs", []), ("code", 5)],
)
def test_a_record_with_something_else_in_it_counts_as_none(place, key, wrong):
    record = place.root / "out" / "first.json"
    before = record.read_text()
    record.write_text(json.dumps(json.loads(before) | {key: wrong}))
    assert "first" in place.state().stale() and explanation(place.state(), "first")
    record.write_text("[" * 200_000)
    assert "first" in place.state().stale()
    record.write_text(before)
    assert place.state().stale() == []


def test_results_that_are_there_but_not_current_are_marked_and_missing_ones_are_not(place):
    assert [place.state().mark(name) for name in ("first", "second/x")] == [[], []]
    changed = place.state(block=_Block(rate=0.4))
    assert [changed.mark(name) for name in ("first", "second/x")] == [["scratch/stale/first"], ["scratch/stale/second/x"]]
    assert (place.root / "scratch" / "stale" / "second" / "x").exists()
    (place.root / "out" / "first").unlink()
    assert [place.state().mark(name) for name in ("first", "second/x")] == [[], []]
    assert place.state(block=_Block(rate=0.4)).mark("first") == []


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"block": _Block(rate=0.4)}, "setting b.rate was 0.5 and is 0.4"),
        ({"block": _Block(inner=_Inner(size=3))}, "setting b.inner.size was 2 and is 3"),
        ({"block": _Grown(extra=0.1)}, "setting b.extra was None and is 0.1"),
        ({"facts": {"n": 2}}, "fact n was 1 and is 2"),
    ],
)
def test_a_change_makes_the_job_and_what_reads_it_stale_and_is_said(place, changes, what):
    state = place.state(**changes)
    assert state.stale() == ["first", "second/x"]
    assert what in explanation(state, "first")
    assert f"first has changed, since for first, {what}." in explanation(state, "second/x")
    place.make(**changes)
    assert place.state(**changes).stale() == []


@pytest.mark.parametrize("block", [_Block(every=3), _Block(names=["b"]), _Grown()])
def test_a_setting_without_effect_and_a_new_one_at_its_default_do_not_count(place, block):
    before = {name: place.state().identity_json(name) for name in place.state().jobs}
    state = place.state(block=block)
    assert state.stale() == []
    assert {name: state.identity_json(name) for name in state.jobs} == before


def test_a_new_default_of_an_old_setting_counts(place):
    class Other(_Block):
        rate: float = 0.6

    assert place.state(block=Other()).stale() == ["first", "second/x"]


def test_a_setting_that_is_gone_counts(place):
    (place.root / "out" / "first.json").unlink()
    place.make(block=_Grown())
    assert place.state().stale() == ["first", "second/x"]


def test_code_counts_by_definition(place):
    place.write_code("return 3")
    assert place.state().stale() == ["first", "second/x"]
    assert "work:one has changed" in explanation(place.state(), "first")
    place.make("first")
    assert place.state().stale() == ["second/x"]
    assert "It is not current: first has changed since." in explanation(place.state(), "second/x")


def test_the_code_of_a_record_is_what_ran_not_what_was_planned(place):
    planned = place.state().identity_json("first")
    place.write_code("return 4")
    (place.root / "out" / "first.json").write_text(
        json.dumps(begin_record(planned, Code(place.root / "pack", ())) | {"outputs": {}})
    )
    assert "first" not in place.state().stale()


def test_files_count_by_content_and_only_those_at_hand(place):
    (place.root / "text.txt").write_text("other")
    assert place.state().stale() == ["first", "second/x"]
    assert "file text.txt was" in explanation(place.state(), "first")
    (place.root / "text.txt").unlink()
    assert place.state().stale() == []
    assert place.state(files=("text.txt", "more.txt")).stale() == []
    (place.root / "more.txt").write_text("")
    assert place.state(files=("more.txt",)).stale() == ["first", "second/x"]


def test_the_settings_that_a_command_gets_hold_those_that_do_not_count_too(place):
    block = _Block(every=3, names=["b"])
    assert json.loads(place.state(block=block).spec("first", "b")) == {"rate": 0.5, "every": 3, "inner": {"size": 2}}
    assert nested({"b.x.y": 1, "c.z": 2}, "b") == {"x": {"y": 1}}


def test_a_record_says_what_a_result_was_made_from(place):
    text = explanation(place.state(), "first")
    assert text == "first (out/first) was made from 2 settings, 1 functions and constants, text.txt. None of it has changed."
    (place.root / "out" / "first").unlink()
    assert "It is not current: out/first is missing." in explanation(place.state(), "first")


def test_a_target_is_a_file_a_job_or_a_stage(place):
    state = place.state()
    for target in ("out/second", "out/second.json", "second/x", "second", "x", "./out/second"):
        assert explanations(state, target) == [explanation(state, "second/x")]
    with pytest.raises(UserError, match="nothing in this configuration makes 'secnd' .did you mean 'second'"):
        explanations(state, "secnd")


def test_a_result_that_is_another_file_than_was_made_is_not_current_and_what_follows_from_it_neither(place):
    made = {name: place.state().identity_json(name) for name in place.state().jobs}
    (place.root / "out" / "second").write_text("other")
    assert place.state().stale() == ["second/x"]
    assert "out/second is not the file that it made, but another" in explanation(place.state(), "second/x")
    (place.root / "out" / "first").write_text("another")
    state = place.state()
    assert state.stale() == ["first", "second/x"]
    assert [state.inputs(name) for name in state.jobs] == [
        (state.mark("first"), True),
        (["out/first", *state.mark("second/x")], True),
    ]
    assert "first, which it was made from, is made again" in explanation(place.state(), "second/x")
    assert {name: place.state().identity_json(name) for name in place.state().jobs} == made
    for name in ("first", "second"):
        (place.root / "out" / name).write_text("made by first" if name == "first" else "made by second/x")
    assert place.state().stale() == []


def test_a_record_from_before_there_were_hashes_says_nothing_of_its_files(place):
    record = json.loads((place.root / "out" / "first.json").read_text())
    (place.root / "out" / "first.json").write_text(json.dumps({key: value for key, value in record.items() if key != "outputs"}))
    (place.root / "out" / "first").write_text("other")
    assert place.state().stale() == []


def test_a_job_that_is_not_current_wants_its_sources(place):
    (place.root / "text.txt").unlink()
    assert place.state().inputs("first") == ([], False)
    with pytest.raises(UserError, match="text.txt is missing; correct its path in the configuration."):
        place.state(facts={"n": 2}).inputs("first")


def test_the_hash_of_a_large_file_is_remembered_until_it_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(hashes, "_LARGE", 4)
    monkeypatch.setattr(hashes, "_SETTLED", -1e12)
    read: list[Path] = []
    monkeypatch.setattr(hashes, "sha256_file", lambda path: read.append(path) or sha256_file(path))
    (tmp_path / "large").write_text("12345")
    (tmp_path / "small").write_text("1")

    def found() -> list[str]:
        known = hashes.Hashes(tmp_path / "scratch" / "hashes.json")
        return [known(tmp_path / name) for name in ("large", "small", "large")]

    assert found() == found() == [sha256_file(tmp_path / name) for name in ("large", "small", "large")]
    assert [path.name for path in read] == ["large", "small", "small"]
    stat = (tmp_path / "large").stat()
    (tmp_path / "large").write_text("54321")
    os.utime(tmp_path / "large", ns=(stat.st_atime_ns, stat.st_mtime_ns))  # of the same size and time
    assert found()[0] == sha256_file(tmp_path / "large")
    for damaged in ("[", "[" * 200_000, '{"a": 3}', "[]"):
        (tmp_path / "scratch" / "hashes.json").write_text(damaged)
        assert found()[0] == sha256_file(tmp_path / "large")
