"""Commands from functions: the options of a command, their types, defaults and help are those of its function.

A parameter before `/` is a positional argument, any other the option of its name. A list is an option given several times or with
several values; a bool is a flag; `Json` is JSON text, or `@file` for that in a file, or `-` for that on standard input. The help
of the command is its function's docstring up to the first section, that of an option its entry under `Args:`.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from typer.core import TyperCommand

from ..config.base import Json
from ..plan.presence import follow
from . import process
from .commands import Command

_SECTION = re.compile(r"^(Args|Columns|Raises|Returns|Yields):\n", flags=re.MULTILINE)
_ENTRY = re.compile(r"^    (\w+): (.*(?:\n {8}.*)*)", flags=re.MULTILINE)


def command(name: str, function: Callable[..., Any], kind: Command) -> TyperCommand:
    """The command that calls `function`, with its options and those of the process that `kind` asks for."""
    taken = _parameters(function)
    own = {}  # of the process
    if kind.computes:
        own |= {key: p for key, p in _parameters(process.prepare_torch).items() if key != "device" or key in taken}
    if kind.stage:
        own |= _parameters(process.keep_log) | _parameters(process.begin_records)

    def call(**options: Any) -> None:
        of_process = {key: options.pop(key) for key in own}
        process.keep_log(of_process.pop("log", None))
        records = {key: of_process.pop(key) for key in ("record", "identity") if key in of_process}
        begun = process.begin_records(**records)
        if begun:
            follow(f"saeworks {name}")
        positional = [options.pop(key) for key, p in taken.items() if p.kind is p.POSITIONAL_ONLY]
        if kind.computes and not (kind.unless and imported(kind.unless)(*positional)):
            device = process.prepare_torch(**of_process)
            options |= {"device": device} if "device" in taken else {}
        if "fingerprint" in taken:
            found = [content["fingerprint"] for _, content in begun]
            listed = any(get_origin(part) is list for part in _inner(taken["fingerprint"].annotation))
            options["fingerprint"] = found if listed else next(iter(found), None)
        function(*positional, **options)
        process.end_records(begun)

    shown = {key: p for key, p in taken.items() if key != "fingerprint"}  # which `--identity` gives
    call.__signature__ = inspect.Signature([p.replace(kind=p.KEYWORD_ONLY) for p in (shown | own).values()])
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name, cls=_Command, help=read_docstring(function.__doc__)[0])(call)
    return typer.main.get_command(app)


def imported(target: str) -> Callable[..., Any]:
    """The function `module:function` of the package."""
    module, function = target.split(":")
    return getattr(importlib.import_module(f"{__package__.split('.')[0]}.{module}"), function)


def read_docstring(docstring: str | None) -> tuple[str, dict[str, str]]:
    """The text of a docstring before its first section, and the entries of its section `Args:`, each on one line."""
    text, *sections = _SECTION.split(inspect.cleandoc(docstring or ""))
    entries = dict(zip(sections[::2], sections[1::2], strict=True)).get("Args", "")
    return text.strip(), {name: " ".join(words.split()) for name, words in _ENTRY.findall(entries)}


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a function, annotated as Typer reads them."""
    helps = read_docstring(function.__doc__)[1]
    parameters = inspect.signature(function, eval_str=True).parameters
    return {name: p.replace(annotation=_annotation(p, helps.get(name))) for name, p in parameters.items()}


def _annotation(parameter: inspect.Parameter, text: str | None) -> Any:
    parts = [parameter.annotation, *_inner(parameter.annotation)]
    listed = [get_args(part)[0] for part in parts if get_origin(part) is list]
    kind: dict[str, Any] = {"help": text and f"{text[0].upper()}{text[1:].rstrip('.')}."}
    if Json in parts:
        kind |= {"parser": _read_json, "metavar": "JSON"}
    if parameter.kind is parameter.POSITIONAL_ONLY:
        return Annotated[parameter.annotation, typer.Argument(**kind)]
    if listed:
        kind["metavar"] = f"{kind.get('metavar') or f'<{listed[0].__name__.lower()}>'}..."
    names = [f"--{parameter.name.replace('_', '-')}"] if parameter.default is False else []  # no --no-<name> beside it
    return Annotated[parameter.annotation, typer.Option(*names, **kind)]


def _inner(annotation: Any) -> Iterator[Any]:
    for part in get_args(annotation):
        yield part
        yield from _inner(part)


def _read_json(given: str) -> str:
    try:
        text = sys.stdin.read() if given == "-" else Path(given[1:]).read_text("utf-8") if given.startswith("@") else given
        json.loads(text)
    except OSError as error:
        raise typer.BadParameter(f"{given[1:]} cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:
        what = f"{given[1:]} is " if given.startswith("@") else ""
        raise typer.BadParameter(f"{what}not valid JSON: {error}.") from None
    return text


class _Command(TyperCommand):
    """A command whose repeated options take several values at once: `--spec A B` is `--spec A --spec B`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        repeated = {name for parameter in self.params if getattr(parameter, "multiple", False) for name in parameter.opts}
        return super().parse_args(ctx, list(_one_value_each(args, repeated)))


def _one_value_each(arguments: Iterable[str], repeated: set[str]) -> Iterator[str]:
    option, has_value = "", False
    for argument in arguments:
        if argument.startswith("--"):
            option, has_value = argument.split("=")[0], "=" in argument
        elif option in repeated:
            if has_value:
                yield option
            has_value = True
        yield argument
