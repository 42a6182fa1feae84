"""Many values in one test: where a product of parameters would be thousands of cases that say the same."""

from __future__ import annotations

import functools
import inspect
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def each(names: str, values: Iterable[Any]) -> Callable[[Callable], Callable]:
    """Run a test for every one of `values` of the argument `names` (tuples for several, comma-separated), in one case.

    A failure says for which value. What fixtures give is shared by all of them; `new_folder`, if a test asks for it, is another
    one for each.
    """
    arguments, values = [name.strip() for name in names.split(",")], list(values)
    assert values, f"no values of {names}"

    def decorate(test: Callable) -> Callable:
        signature = inspect.signature(test)
        needs_folder = "new_folder" in signature.parameters

        @functools.wraps(test)
        def run(**fixtures: Any) -> None:
            parent = fixtures.pop("tmp_path") if needs_folder else None
            for value in values:
                given = dict(zip(arguments, value if len(arguments) > 1 else [value], strict=True))
                new = {"new_folder": Path(tempfile.mkdtemp(dir=parent))} if needs_folder else {}
                try:
                    test(**fixtures, **given, **new)
                except BaseException as error:
                    error.add_note(f"for {given}")
                    raise

        kept = [parameter for name, parameter in signature.parameters.items() if name not in (*arguments, "new_folder")]
        if needs_folder:
            kept.append(inspect.Parameter("tmp_path", inspect.Parameter.POSITIONAL_OR_KEYWORD))
        run.__signature__ = signature.replace(parameters=kept)
        return run

    return decorate
