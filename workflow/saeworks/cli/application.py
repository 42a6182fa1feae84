"""All commands together: the list that `--help` shows, and how a command is found, run and ended."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from .. import __version__
from .commands import COMMANDS
from .derive import command, imported
from .process import STATUSES

_PACKAGE = Path(__file__).parents[1]
_COLUMNS = 100  # of a help text, at most


def application() -> TyperGroup:
    """The whole command line, as the click group that Typer makes of it; its `commands` are derived one by one, when looked up."""
    width = {"max_content_width": _COLUMNS}
    app = typer.Typer(cls=_Group, add_completion=False, no_args_is_help=True, rich_markup_mode=None, context_settings=width)
    statuses = "; ".join(f"{status}: {meaning}" for status, meaning in STATUSES.items())
    app.callback(help="Train, compare and understand sparse autoencoders, reproducibly.", epilog=f"Exit status: {statuses}.")(
        _options_without_command
    )
    return typer.main.get_command(app)


def first_line(target: str) -> str:
    """First line of the docstring of `module:function`, read from the source without importing it."""
    module, function = target.split(":")
    tree = ast.parse(_PACKAGE.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8"))
    (found,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
    return (ast.get_docstring(found) or "").split("\n")[0]


class _Commands(Mapping[str, TyperCommand]):
    """The commands by name; looking one up imports its module."""

    def __getitem__(self, name: str) -> TyperCommand:
        return command(name, imported(COMMANDS[name].target), COMMANDS[name])

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _Group(TyperGroup):
    """The command line, whose commands are imported when they run."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings | {"commands": _Commands()})

    def format_commands(self, ctx: typer.Context, formatter: Any) -> None:
        for heading, stage in (("Commands for people", False), ("Stages, which the rules of the workflow run", True)):
            with formatter.section(heading):
                formatter.write_dl([(name, first_line(c.target)) for name, c in COMMANDS.items() if c.stage is stage])


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


def _options_without_command(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None: ...
