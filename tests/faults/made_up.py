"""What tests of made-up inputs draw: values that are wrong in many ways, and changes of a value or of bytes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from saeworks.store.errors import UserError

QUICK, SLOW = 100, 10_000  # examples


def examples(number: int) -> Callable[[Callable], Callable]:
    """The same examples at every call, and none kept between calls."""
    health = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    return settings(max_examples=number, derandomize=True, database=None, deadline=None, suppress_health_check=health)


def is_a_sentence(error: UserError) -> None:
    words = str(error)
    assert "\n" not in words and words.rstrip(")").endswith(".") and 10 < len(words) < 1500, words


# JSON values that are wrong in many ways, as often as not of the right kind

_NUMBERS = st.one_of(
    st.integers(-3, 300),
    st.integers(),
    st.floats(),
    st.sampled_from([0, 1, -1, 0.0, 1.0, 0.5, 2**31, 2**63, 10**20, 1e-9, 1e9, 1e308, 5e-324]),
)
WORDS = st.one_of(
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
ANY = st.recursive(
    st.none() | st.booleans() | _NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.integers(), inner, max_size=3),
    max_leaves=6,
)
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
        return data.draw(st.sampled_from(_KEYWORDS) | WORDS | ANY)
    return data.draw((_NUMBERS if isinstance(old, int | float) else ANY) | ANY)


def mutated(data: st.DataObject, value: Any, new_keys: list[str]) -> Any:
    """`value` with one to four changes: another value, a key removed, renamed or added, a value put elsewhere."""
    value = copy.deepcopy(value)
    for _ in range(data.draw(st.integers(1, 4))):
        places = _places(value)
        path = places[data.draw(st.integers(0, len(places) - 1))]
        if not path:
            if data.draw(st.integers(0, 20)) == 0:
                return data.draw(ANY)
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
                block[data.draw(WORDS | st.sampled_from(new_keys) | st.integers())] = block.pop(last)
            case "add" if isinstance(block, dict):
                block[data.draw(st.sampled_from(new_keys))] = data.draw(ANY)
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


def damaged(data: st.DataObject, content: bytes) -> bytes:
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
