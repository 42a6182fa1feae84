"""Write config/README.md and the JSON schema of the configuration files from the models that validate them."""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import models_json_schema
from pydantic_core import PydanticUndefined

from ..store.errors import UserError
from ..store.files import atomic_path
from .base import Frozen
from .experiment import Experiment, PretrainExperiment
from .names import Called

README = Path("config/README.md")
SCHEMA = Path("workflow/schemas/config.schema.json")

_PREAMBLE = """\
<!-- Written by saeworks from the models in workflow/saeworks/config; edit those, not this file. -->

# Configuration

One YAML file is one experiment. Without a choice, Snakemake runs `config/config.yaml`; choose another with

```
snakemake --cores all --configfile config/x.yaml
```

Everything an experiment makes goes to `results/<experiment>/`, named by its key `experiment`, so experiments coexist.

**Your own experiment**: `saeworks new mine` writes a commented `config/mine.yaml`; or copy the file nearest to what you want and
give it a new `experiment` name. Change what differs, and run it as above. A dry run (`snakemake -n --configfile config/mine.yaml`) checks the file and lists what would
be computed. Keys left out take the defaults below; a misspelt key is an error that suggests the right one. After a change, only
the steps that depend on the changed key run again.

The smallest experiment there is:

```yaml
experiment: mine
model:
  source: own
  name: novels-1m
runs:
  local:
    objective: local
    hook_points: [blocks.4.hook_resid_pre]
    sparsity_coeffs: [1, 3, 9]
```

Editors that read JSON schemas complete and check these files with
[`config.schema.json`](../workflow/schemas/config.schema.json); put this line first:
`# yaml-language-server: $schema=../workflow/schemas/config.schema.json`.

A whole number may be written `1_000_000` or `1e6`; none may exceed 10^15, no other number 10^9. Relative paths begin in the working
directory, which is the root of the repository. A key that stands twice is an error.

In the tables, a key with a dot lies inside a block: `training.lr` is the key `lr` of the block `training`.
"""


def readme() -> str:
    """The text of config/README.md: a preamble, then every key with its type, default and meaning, block by block."""
    parts = [_PREAMBLE, "## Keys of an experiment\n", _overview(Experiment)]
    for name, field in Experiment.model_fields.items():
        if _models(field.annotation):
            parts.append(_block(name, field))
    parts += [
        "## Keys of a file that trains a language model\n",
        f"{_sentence(PretrainExperiment)}\n",
        _table(_rows(PretrainExperiment, "")),
    ]
    return "\n".join(parts)


def schema() -> str:
    """The JSON schema (draft 2020-12) of both kinds of configuration file."""
    references, definitions = models_json_schema([(Experiment, "validation"), (PretrainExperiment, "validation")])
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration file of saeworks",
        # not `anyOf`: the messages of a validator are about one kind of file then, not about both
        "if": {"type": "object", "required": ["pretrain"]},
        "then": references[(PretrainExperiment, "validation")],
        "else": references[(Experiment, "validation")],
        **definitions,
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def main(root: str = ".", check: bool = False) -> None:
    """Write config/README.md and the JSON schema from the configuration models.

    Args:
        root: root of the repository.
        check: only compare the files with the models.

    Raises:
        UserError: `root` has no such files; or, with `check`, one of them differs from what the models say.
    """
    if missing := [folder for folder in (README.parent, SCHEMA.parent) if not (Path(root) / folder).is_dir()]:
        raise UserError(f"{root} is not the root of the repository (it has no folder {missing[0]}); name that with `--root`.")
    for relative, text in ((README, readme()), (SCHEMA, schema())):
        path = Path(root) / relative
        if not check:
            with atomic_path(path) as partial:
                partial.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            raise UserError(f"{path} does not match the configuration models; write it again with `saeworks document`.")


def _overview(model: type[BaseModel]) -> str:
    rows = []
    for name, field in model.model_fields.items():
        if _models(field.annotation):
            source = _default_source(field)
            default = "required" if field.is_required() else f"`source: {source}`" if source else "its defaults"
            rows.append((f"`{name}`", f"[block](#{name})", default, field.description or ""))
        else:
            rows.append(_row(name, field))
    return _table(rows)


def _default_source(field: FieldInfo) -> str | None:
    """Source of the block that stands for a missing union, if there is one."""
    if field.is_required() or len(_models(field.annotation)) < 2:
        return None
    return field.get_default(call_default_factory=True).source


def _block(name: str, field: FieldInfo) -> str:
    members = _models(field.annotation)
    if len(members) > 1:
        return _union(name, field, members)
    model = members[0]
    named = typing.get_origin(field.annotation) is dict
    parts = [f"### `{name}`\n", f"{field.description}\n"]
    if named:
        parts.append(f"Each key under `{name}` is a name of yours, `<name>` below. {_sentence(model)}\n")
    inner = [_models(f.annotation) for f in model.model_fields.values()]
    if inner and all(len(models) == 1 for models in inner):  # a block of blocks, as `figures`
        return "\n".join([*parts, _siblings(name, model)])
    return "\n".join([*parts, _table(_rows(model, f"{name}.<name>." if named else f"{name}."))])


def _union(name: str, field: FieldInfo, members: list[type[BaseModel]]) -> str:
    default = f"`{_default_source(field)}`" if _default_source(field) else "required"
    parts = [f"### `{name}`\n", f"{field.description} `{name}.source` says which kind; it decides which other keys there are.\n"]
    sources = _either(_source(member) for member in members)
    shared = [k for k in members[0].model_fields if k != "source" and all(_same(members[0], m, k) for m in members[1:])]
    rows = [(f"`{name}.source`", sources, default, "The kind.")]
    parts += ["Whatever the source:\n", _table([*rows, *_rows(members[0], f"{name}.", only=shared)])]
    for member in members:
        parts.append(f"`source: {_source(member)}` — {_plain(member.model_fields['source'].description)}\n")
        own = [k for k in member.model_fields if k != "source" and k not in shared]
        parts.append(_table(_rows(member, f"{name}.", only=own)) if own else "No further keys.\n")
    return "\n".join(parts)


def _siblings(name: str, model: type[BaseModel]) -> str:
    blocks = {key: _models(field.annotation)[0] for key, field in model.model_fields.items()}
    # what most have: a block may give such a key a meaning of its own, which comes with its own keys then
    typical = max(blocks.values(), key=lambda block: len(_in_most(block, blocks)))
    shared = _in_most(typical, blocks)
    if not shared:
        each = [f"#### `{name}.{key}`\n\n{_plain(model.model_fields[key].description)}\n" for key in blocks]
        tables = [_table(_rows(block, f"{name}.{key}.")) for key, block in blocks.items()]
        return "\n".join(part for pair in zip(each, tables, strict=True) for part in pair)
    sharing = [key for key, block in blocks.items() if set(shared) <= set(block.model_fields)]
    common = "Keys with this meaning unless they come again below"
    parts = [f"{common} (`<name>` is {_either(sharing)}):\n", _table(_rows(typical, f"{name}.<name>.", only=shared))]
    parts.append("And of each alone:\n")
    rows = []
    for key, block in blocks.items():
        own = [k for k in block.model_fields if key not in sharing or k not in shared or not _same(typical, block, k)]
        rows += _rows(block, f"{name}.{key}.", only=own)
    parts.append(_table(rows))
    if without := [f"`{key}`" for key, block in blocks.items() if not block.model_fields]:
        parts.append(f"Without keys: {', '.join(without)}.\n")
    return "\n".join(parts)


def _in_most(block: type[BaseModel], blocks: dict[str, type[BaseModel]]) -> list[str]:
    """Keys of `block` that more than three quarters of the `blocks` have with the same meaning."""
    return [k for k in block.model_fields if 4 * sum(_same(block, other, k) for other in blocks.values()) > 3 * len(blocks)]


def _same(one: type[BaseModel], other: type[BaseModel], key: str) -> bool:
    if key not in other.model_fields:
        return False
    mine, theirs = one.model_fields[key], other.model_fields[key]
    if _models(mine.annotation) or _models(theirs.annotation):
        return mine.annotation is theirs.annotation
    return _row(key, mine) == _row(key, theirs)


def _rows(model: type[BaseModel], prefix: str, only: list[str] | None = None) -> Iterator[tuple[str, str, str, str]]:
    for name, field in model.model_fields.items():
        if only is not None and name not in only:
            continue
        inner = _models(field.annotation)
        if inner:
            yield from _rows(inner[0], f"{prefix}{name}.")
        else:
            yield _row(prefix + name, field)


def _row(path: str, field: FieldInfo) -> tuple[str, str, str, str]:
    default = "required" if field.is_required() else f"`{_yaml(field.get_default(call_default_factory=True))}`"
    return f"`{path}`", _words(field.annotation, field.metadata), default, field.description or ""


def _plain(text: str) -> str:
    """Markdown in which `<name>` outside code is text, not an HTML tag that disappears."""
    parts = text.split("`")
    return "`".join(part if i % 2 else re.sub(r"<(?=\w)", r"\<", part) for i, part in enumerate(parts))


def _table(rows: Iterable[tuple[str, str, str, str]]) -> str:
    lines = ["| Key | Type | Default | Meaning |", "| --- | --- | --- | --- |"]
    lines += ["| " + " | ".join(_plain(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _sentence(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split("\n\n")[0].split())


def _source(model: type[BaseModel]) -> str:
    return model.model_fields["source"].default


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The settings models an annotation is made of: one for a block, several for a union, none for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, Frozen):
        return [annotation]
    return [model for argument in typing.get_args(annotation) for model in _models(argument)]


def _words(annotation: Any, metadata: Any = ()) -> str:
    """A type in plain words: `Annotated[int, Gt(0)] | None` -> `whole number ≥ 1, or null`."""
    if typing.get_origin(annotation) is typing.Annotated:
        annotation, *more = typing.get_args(annotation)
        return _words(annotation, [*metadata, *more])
    constraints = [c for m in metadata for c in (m.metadata if isinstance(m, FieldInfo) else [m])]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if type(None) in arguments:
        (plain,) = (a for a in arguments if a is not type(None))
        return f"{_words(plain, metadata)}, or null"
    if origin is typing.Literal:
        return _either(arguments)
    if origin is list:
        non_empty = "non-empty " if any(isinstance(c, MinLen) for c in constraints) else ""
        return f"{non_empty}list of {_plural(_words(*arguments))}"
    if origin is dict:
        return "block of keys" if arguments[1] is Any else f"block with {_words(arguments[1])} per key"
    if annotation is bool:
        return "true or false"
    if annotation is str:
        return next((c.words for c in constraints if isinstance(c, Called)), "text")
    if annotation in (int, float):
        limits = [c for kinds in ((Gt, Ge), (Lt, Le)) for c in constraints if isinstance(c, kinds)]
        limits = [c for c in limits if not (isinstance(c, Gt) and any(isinstance(other, Ge) for other in limits))]
        bounds = [_bound(c, whole=annotation is int) for c in limits]
        return " ".join(["whole number" if annotation is int else "number", ", ".join(bounds)]).strip()
    raise TypeError(f"no words for the type {annotation!r}")


def _either(options: Iterable[str]) -> str:
    return " or ".join(", ".join(f"`{option}`" for option in options).rsplit(", ", 1))


def _plural(words: str) -> str:
    for noun in ("whole number", "number", "name", "hook point"):
        if words.startswith(noun):
            return f"{noun}s{words.removeprefix(noun)}"
    return words


def _bound(constraint: Gt | Ge | Lt | Le, whole: bool) -> str:
    symbol, value = next((s, getattr(constraint, k)) for k, s in _SYMBOLS.items() if hasattr(constraint, k))
    if whole and symbol == ">":
        return f"≥ {value + 1}"
    return f"{symbol} {value:,}" if isinstance(value, int) else f"{symbol} {value:g}"


_SYMBOLS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


def _yaml(value: Any) -> str:
    """A default as it would stand in the file."""
    if value is PydanticUndefined:
        raise TypeError("a required key has no default")
    if isinstance(value, bool) or value is None or isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int):
        return f"{value:_}" if value >= 10_000 else str(value)
    return str(value)
