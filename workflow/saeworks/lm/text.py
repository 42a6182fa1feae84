"""Reading text files into documents."""

from __future__ import annotations

import codecs
import contextlib
import json
import lzma
import reprlib
from collections.abc import Iterator, Sized
from pathlib import Path
from typing import Any

from ..store.errors import UserError
from ..store.files import begins_at

SEPARATOR = "<|endoftext|>"


def read_documents(paths: list[str] | tuple[str, ...], field: str = "text") -> Iterator[str | list[int]]:
    """Yield the documents of local text files, in order.

    A `.txt` or `.txt.xz` file holds documents between lines `<|endoftext|>`; a `.jsonl` file holds one JSON object per
    line with the text, or token ids, under `field`.

    Raises:
        UserError: a file is missing, of another kind, or not readable as such.
    """
    for name in paths:
        path = Path(name)
        if not path.is_file():
            what = "is no file" if path.exists() else f"does not exist{begins_at(path)}"
            raise UserError(f"text file {path} {what}; correct its path in the configuration.")
        try:
            if path.suffix == ".jsonl":
                yield from _json_lines(path, field)
            elif path.name.endswith(".txt.xz"):
                yield from lzma.decompress(path.read_bytes()).decode("utf-8").split(f"\n{SEPARATOR}\n")
            elif path.suffix == ".txt":
                yield from path.read_text(encoding="utf-8").split(f"\n{SEPARATOR}\n")
            else:
                raise UserError(f"text file {path} is of an unknown kind; .txt, .txt.xz and .jsonl can be read.")
        except (lzma.LZMAError, OSError, EOFError, UnicodeDecodeError) as error:
            raise UserError(
                f"text file {path} cannot be read ({error}); replace it with a complete UTF-8 file that you may read."
            ) from None


def check_texts(paths: list[str] | tuple[str, ...]) -> None:
    """Refuse what `read_documents` reads, but differently from what its writer meant. What is no file is left to it.

    Raises:
        UserError: a file begins with a byte order mark, a .txt.xz file has the line ends of Windows, or a line of a .jsonl file has a key twice.
    """
    for path in filter(Path.is_file, map(Path, paths)):
        opened = lzma.open if path.name.endswith(".txt.xz") else open
        with contextlib.suppress(lzma.LZMAError, OSError, EOFError), opened(path, "rb") as handle:
            begins = True
            for number, line in enumerate(handle, start=1):
                if begins and line.startswith(_MARKS):
                    raise UserError(f"text file {path} begins with a byte order mark; save it as UTF-8 without one.")
                if opened is lzma.open and line.endswith(b"\r\n"):  # in the other files Python reads them as \n
                    raise UserError(
                        f"line {number} of {path} ends as on Windows (CRLF); pack the text with \\n at the ends of its lines."
                    )
                if path.suffix == ".jsonl":
                    with contextlib.suppress(ValueError, RecursionError):
                        json.loads(line, object_pairs_hook=lambda pairs, at=f"line {number} of {path}": _once(pairs, at))
                elif opened is open:
                    break
                begins = False


_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def _once(pairs: list[tuple[str, Any]], where: str) -> None:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise UserError(f"{where} has the key {name!r} twice; keep one of them.")
        seen.add(name)


def _json_lines(path: Path, field: str) -> Iterator[str | list[int]]:
    with path.open(encoding="utf-8") as handle:
        for number, line in enumerate(handle, start=1):
            try:
                document = json.loads(line)
            except (ValueError, RecursionError):
                document = None
            if not isinstance(document, dict) or field not in document:
                raise UserError(f"line {number} of {path} is not a JSON object with a field {field!r}; correct or remove it.")
            yield checked(document[field], f"field {field!r} in line {number} of {path}")


def checked(document: Any, where: str) -> Any:
    """A document: a text, or token ids.

    Raises:
        UserError: it is neither; `where` says which.
    """
    if isinstance(document, str):
        with contextlib.suppress(UnicodeEncodeError):
            document.encode()
            return document
    elif not isinstance(document, dict) and isinstance(document, Sized) and all(_is_id(token) for token in document):
        return document
    raise UserError(
        f"{where} is {reprlib.repr(document)}, neither text nor a list of token ids (whole numbers from 0); correct or remove it."
    )


def _is_id(token: Any) -> bool:
    return type(token) is int and token >= 0  # a bool is none
