"""Errors that a user can cause, each one sentence that says what is wrong and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A fault in the input, shown to the user as one sentence without a traceback."""

    def __str__(self) -> str:
        """The sentence, on one line that any terminal shows, whatever names it quotes from a file."""
        text = super().__str__()
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class Interrupted(Exception):
    """A signal asked the program to stop; its state was saved."""


def did_you_mean(word: str, known: Iterable[str], n: int = 3) -> str:
    """Return `` (did you mean 'a' or 'b'?)`` for the names in `known` closest to `word`, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=n, cutoff=0.6)
    return f" (did you mean {' or '.join(repr(c) for c in close)}?)" if close else ""
