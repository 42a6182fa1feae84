"""The base of every configuration model, and parsing whose errors a user can read."""

from __future__ import annotations

import typing
from typing import Any, NewType, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from ..store.errors import UserError, did_you_mean

Json = NewType("Json", str)
"""Settings as JSON text, as they pass from a rule to a command; on the command line also `@file`, or `-` for standard input."""


class Frozen(BaseModel):
    """Immutable settings; an unknown or misspelt key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Model = TypeVar("Model", bound=BaseModel)


def parse(model: type[Model], values: Any, where: str = "") -> Model:
    """Validate `values` as `model`, or as one of a union of models that their `source` tells apart; `where` is the dotted path of `values` in the configuration.

    Raises:
        UserError: one sentence about the first fault, with the key, the value and the mend.
    """
    try:
        return TypeAdapter(model).validate_python(values)
    except ValidationError as error:
        raise UserError(_sentence(model, error.errors()[0], where)) from None


def _sentence(model: type[BaseModel], fault: Any, where: str) -> str:
    path, owner = _resolve(model, fault["loc"])
    key = ".".join(part for part in (where, *path) if part)
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
        return (
            f"configuration key `{key}` is {given!r}; it must be one of {', '.join(options)}{did_you_mean(str(given), options)}."
        )
    if kind == "union_tag_not_found":
        return f"configuration key `{key}.source` is missing; add it (see config/README.md)."
    if kind in ("model_type", "model_attributes_type"):
        return f"configuration block `{key}` is {given!r}; it must be a block of keys (see config/README.md)."
    message = fault["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if kind == "value_error":
        return f"configuration block `{key or 'runs'}`: {message}."
    return f"configuration key `{key}` is {given!r}: {message}."


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
