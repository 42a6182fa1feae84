"""The base of every configuration model, and parsing whose errors a user can read."""

from __future__ import annotations

import functools
import math
import re
import reprlib
import typing
from pathlib import Path
from typing import Annotated, Any, NewType, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ..store.errors import UserError, did_you_mean

Json = NewType("Json", str)
"""Settings as JSON text, as they pass from a rule to a command; on the command line also `@file`, or `-` for standard input."""


Seed = Annotated[int, Field(ge=0, lt=2**32)]  # as far as every library takes one


class Frozen(BaseModel):
    """Immutable settings; an unknown or misspelt key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Model = TypeVar("Model", bound=BaseModel)


def parse(model: type[Model], values: Any, where: str = "") -> Model:
    """Validate `values` as `model`, or as one of a union of models that their `source` tells apart.

    `where` is the dotted path of `values` in the configuration. `1e6`, which YAML reads as text or as a fraction, is a whole number where one is wanted.

    Raises:
        UserError: one sentence about the first fault, with the key, the value and what to do.
    """
    try:
        return TypeAdapter(model).validate_python(_with_numbers(model, values, where))
    except ValidationError as error:
        raise UserError(_sentence(model, error.errors()[0], where)) from None
    except RecursionError:
        raise UserError(
            f"configuration block `{where or 'experiment'}` has too many levels or contains itself; write it without anchors, on fewer levels."
        ) from None


_LARGEST_WHOLE, LARGEST = 10**15, 1e9  # of any number; keys whose size costs memory have smaller bounds of their own
_EXPONENT = re.compile(r"[+-]?[0-9][0-9_]*(\.[0-9_]*)?[eE][+-]?[0-9]{1,3}")


def _with_numbers(annotation: Any, value: Any, key: str) -> Any:
    """`value` with numbers where the type `annotation` asks for some.

    Raises:
        UserError: it has a truth value in the place of one, or one that is too large for anything.
    """
    return _of_kinds(_members(annotation), value, key)


def _of_kinds(kinds: list[Any], value: Any, key: str) -> Any:
    """`_with_numbers` of a type with these members."""
    if isinstance(value, dict):
        models = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        models = [m for m in models if len(models) == 1 or m.model_fields["source"].default == value.get("source")]
        inner = _fields(models[0]) if models else {}
        others = next((_members(typing.get_args(kind)[1]) for kind in kinds if typing.get_origin(kind) is dict), [None])
        return {name: _of_kinds(inner.get(name, others), item, f"{key}.{name}".lstrip(".")) for name, item in value.items()}
    if isinstance(value, list):
        inner = next((_members(typing.get_args(kind)[0]) for kind in kinds if typing.get_origin(kind) is list), [None])
        return [_of_kinds(inner, item, f"{key}.{i}") for i, item in enumerate(value)]
    if isinstance(value, set):
        raise UserError(f"configuration key `{key}` is a set, which has no order; write a list.")
    if bool in kinds or not (int in kinds or float in kinds):
        return value
    if isinstance(value, bool):
        raise UserError(f"configuration key `{key}` is {str(value).lower()}, where a number belongs; correct it.")
    number = float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value.strip()) else value
    if int in kinds and isinstance(number, float) and number.is_integer():
        number = int(number)
    largest = _LARGEST_WHOLE if int in kinds else LARGEST
    if isinstance(number, int | float) and abs(number) > largest and number not in (math.inf, -math.inf):
        raise UserError(
            f"configuration key `{key}` is {reprlib.repr(value)}, but no number may exceed {largest:g}; check its exponent."
        )
    return number


@functools.cache
def _fields(model: type[BaseModel]) -> dict[str, list[Any]]:
    """Members of the type of each field."""
    return {name: _members(field.annotation) for name, field in model.model_fields.items()}


def _sentence(model: type[BaseModel], fault: Any, where: str) -> str:
    path, owner = _resolve(model, fault["loc"])
    key = ".".join(part for part in (where, *path) if part).removesuffix(".[key]")
    kind, given = fault["type"], fault.get("input")
    if kind == "extra_forbidden":
        known = sorted(owner.model_fields) if owner else []
        hint = did_you_mean(path[-1], known) or f" (known here: {', '.join(known)})"
        return f"unknown configuration key `{key}`{hint}."
    if kind == "missing":
        return f"configuration key `{key}` is missing; add it (see config/README.md)."
    if kind in ("union_tag_invalid", "literal_error"):
        expected = fault["ctx"].get("expected_tags") or fault["ctx"].get("expected", "")
        if kind == "union_tag_invalid":
            key, given = f"{key}.source", fault["ctx"]["tag"]
        options = [option.strip(" '") for option in expected.replace(" or ", ",").split(",")]
        return f"configuration key `{key}` is {reprlib.repr(given)}; it must be one of {', '.join(options)}{did_you_mean(str(given), options)}."
    if kind == "union_tag_not_found":
        return f"configuration key `{key}.source` is missing; add it (see config/README.md)."
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"configuration block `{key}` is {reprlib.repr(given)}; it must be a block of keys (see config/README.md)."
    message = fault["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if kind == "value_error":
        return f"configuration block `{key or 'runs'}`: {message}."
    return f"configuration key `{key}` is {reprlib.repr(given)}: {message}."


def read_config(path: Path | str) -> dict[str, Any]:
    """The content of a configuration file, YAML or JSON.

    Raises:
        UserError: it cannot be read, is no YAML, holds no keys, or has one twice in one block.
    """
    import yaml  # only where a file is read

    class Loader(yaml.SafeLoader):
        """Of a key that stands twice the library keeps the last, without a word."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            lines: dict[str, int] = {}
            for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
                name, line = str(key.value), key.start_mark.line + 1
                if name in lines and key.tag != "tag:yaml.org,2002:merge":
                    raise UserError(
                        f"{path} has the key `{name}` in line {lines[name]} and again in line {line}; keep one of them."
                    )
                lines[name] = line
            return super().construct_mapping(node, deep)

    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), Loader)
    except FileNotFoundError:
        raise UserError(f"configuration file {path} is missing; correct its path.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"configuration file {path} cannot be read ({error}); it should be UTF-8 text that you may read."
        ) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or type(error).__name__
        raise UserError(f"configuration file {path} is not valid YAML{where} ({what}); correct it.") from None
    if not isinstance(values, dict):
        raise UserError(f"configuration file {path} holds no keys; begin with one that `saeworks new <name>` writes.")
    return values


def _resolve(model: type[BaseModel], location: tuple) -> tuple[list[str], type[BaseModel] | None]:
    """The location as configuration keys (without pydantic's union tags), and the model that owns the last key."""
    path: list[str] = []
    current: Any = model
    owner: type[BaseModel] | None = None
    for element in location:
        options = [option for option in _members(current) if isinstance(option, type) and issubclass(option, BaseModel)]
        tagged = [o for o in options if "source" in o.model_fields and o.model_fields["source"].default == element]
        if len(options) > 1 and tagged:
            current = tagged[0]
            continue
        owner = options[0] if options else None
        path.append(str(element))
        if owner is not None and element in owner.model_fields:
            current = owner.model_fields[element].annotation
        elif typing.get_origin(_members(current)[0]) in (dict, list):
            current = typing.get_args(_members(current)[0])[-1]
        else:
            current = None
    return path, owner


def _members(annotation: Any) -> list[Any]:
    """Members of a union without None, looking through Annotated; a plain annotation is its only member."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _members(typing.get_args(annotation)[0])
    arguments = typing.get_args(annotation)
    if arguments and typing.get_origin(annotation) not in (dict, list, tuple, typing.Literal):
        return [member for argument in arguments if argument is not type(None) for member in _members(argument)]
    return [annotation]
