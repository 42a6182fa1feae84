"""The command line: one command per stage, for the rules, and a few for people.

`commands` is their list, `derive` makes a command from a function, `application` puts them together, `process` readies the process
that runs one and says what went wrong in it; `new` and `runs` are commands themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

from .application import application


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status: 0, 2 for what the user can mend, 70 for a fault of saeworks, 130 when interrupted."""
    try:
        application().main(arguments, prog_name="saeworks")
    except SystemExit as end:  # Typer's way to end
        return int(end.code or 0)
    return 0
