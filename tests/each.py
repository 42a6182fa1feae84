"""Many values in one test: where a product of parameters would be thousands of cases that say the same."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any


def each(names: str, values: Iterable[Any]) -> Callable[[Callable], Callable]:
    """Run a test for every one of `values` of the argument `names` (tuples for several, comma-separated), in one case.

    A failure says for which value. What fixtures give is shared by all of them.
    """
    arguments, values = [name.strip() for name in names.split(",")], list(values)
    assert values, f"no values of {names}"

    def decorate(test: Callable) -> Callable:
        @functools.wraps(test)
        def run(**fixtures: Any) -> None:
            for value in values:
                given = dict(zip(arguments, value if len(arguments) > 1 else [value], strict=True))
                try:
                    test(**fixtures, **given)
                except BaseException as error:
                    error.add_note(f"for {given}")
                    raise

        signature = inspect.signature(test)
        kept = [parameter for name, parameter in signature.parameters.items() if name not in arguments]
        run.__signature__ = signature.replace(parameters=kept)
        return run

    return decorate
