"""A job: what it makes, and what that depends on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel


@dataclass(frozen=True)
class Settings:
    """Settings that have an effect on a result, by dotted key, and the defaults of those that have one.

    A record that lacks a key was made before there was such a setting, with what is its default now. `others` change how a
    result is reached, not the result: they are passed on, and do not count.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    others: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, idle: Collection[str] = (), others: Collection[str] = (), **blocks: BaseModel) -> Settings:
        """The settings of some blocks, each under its name. The dotted keys `idle` have no effect and are left out."""
        leaves = {key: rest for name, block in blocks.items() for key, *rest in _leaves(block, name) if key not in idle}
        return cls(
            {key: value for key, (value, _) in leaves.items() if key not in others},
            {key: default[0] for key, (_, default) in leaves.items() if default and key not in others},
            {key: value for key, (value, _) in leaves.items() if key in others},
        )


@dataclass(frozen=True)
class Job:
    """One call of the command line: its results and what they depend on.

    Args:
        name: stage, and place where there are several: `train/blocks.4.hook_resid_pre/local-c1-s0`.
        outputs: files that it makes, relative to the working directory.
        record: where its identity is kept.
        entries: definitions of the package that its computation begins with, see `Code.closure`.
        inputs: names of the jobs whose results it reads.
        files: files that no job makes.
        facts: further values that it depends on, by what they are.
    """

    name: str
    outputs: tuple[str, ...]
    record: str
    settings: Settings = field(default_factory=Settings)
    entries: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stage(self) -> str:
        """The first part of its name."""
        return self.name.split("/", 1)[0]


def nested(values: Mapping[str, Any], block: str) -> dict[str, Any]:
    """The settings of one block as it is written in a configuration."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        name, *parents = key.split(".")
        if name != block:
            continue
        inner = tree
        for parent in parents[:-1]:
            inner = inner.setdefault(parent, {})
        inner[parents[-1]] = value
    return tree


def _leaves(block: BaseModel, path: str) -> list[tuple[str, Any, tuple[Any, ...]]]:
    """`(dotted key, value, (default,) or ())` of every setting in a block."""
    found = []
    for name, info in type(block).model_fields.items():
        key, value = f"{path}.{name}", getattr(block, name)
        if isinstance(value, BaseModel):
            found += _leaves(value, key)
            continue
        default = () if info.is_required() else (info.get_default(call_default_factory=True),)
        found.append((key, _plain(value), tuple(map(_plain, default))))
    return found


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return value
