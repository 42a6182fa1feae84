"""The command line: one command per stage, for the rules, and a few for people.

`commands` is their list, `derive` makes a command from a function, `application` puts them together, `process` readies the process
that runs one and says what went wrong in it; `new`, `runs` and `claims` are commands themselves.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence

import typer

from .application import application
from .process import flush, report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status: 0, or one of `process.STATUSES`."""
    try:
        app = application()
        with app.make_context("saeworks", list(sys.argv[1:] if arguments is None else arguments)) as context:
            app.invoke(context)
        flush()
    except typer.Exit as end:  # `--help`, `--version`
        return end.exit_code
    except typer.TyperException as wrong:  # an option, or none at all
        with contextlib.suppress(OSError):  # there is no standard error
            wrong.show()
        return wrong.exit_code
    except (Exception, KeyboardInterrupt) as error:
        return report(error)
    return 0
