"""Reading text files into documents."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from pathlib import Path

from ..store.errors import UserError

SEPARATOR = "<|endoftext|>"


def read_documents(paths: list[str] | tuple[str, ...], field: str = "text") -> Iterator[str]:
    """Yield the documents of local text files, in order.

    A `.txt` or `.txt.xz` file holds documents between lines `<|endoftext|>`; a `.jsonl` file holds one JSON object per
    line with the text under `field`.

    Raises:
        UserError: a file is missing, of another kind, or not readable as such.
    """
    for name in paths:
        path = Path(name)
        if not path.exists():
            raise UserError(f"text file {path} does not exist; correct its path in the configuration.")
        try:
            if path.suffix == ".jsonl":
                yield from _json_lines(path, field)
            elif path.name.endswith(".txt.xz"):
                yield from lzma.decompress(path.read_bytes()).decode("utf-8").split(f"\n{SEPARATOR}\n")
            elif path.suffix == ".txt":
                yield from path.read_text(encoding="utf-8").split(f"\n{SEPARATOR}\n")
            else:
                raise UserError(f"text file {path} is of an unknown kind; .txt, .txt.xz and .jsonl can be read.")
        except (lzma.LZMAError, EOFError, UnicodeDecodeError) as error:
            raise UserError(f"text file {path} cannot be read ({error}); fetch it again.") from None


def _json_lines(path: Path, field: str) -> Iterator[str]:
    with path.open(encoding="utf-8") as handle:
        for number, line in enumerate(handle, start=1):
            try:
                yield json.loads(line)[field]
            except (json.JSONDecodeError, KeyError, TypeError):
                raise UserError(f"line {number} of {path} is not a JSON object with a field {field!r}.") from None
