"""The record of a job: what its results were made from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..store.files import content_hash, sha256_file
from .code import Code

_LENGTH = 16  # hex digits of a fingerprint


def fingerprint(identity: dict[str, Any]) -> str:
    """What stands for an identity: equal for equal settings, code, inputs and files."""
    return content_hash([identity[key] for key in ("settings", "code", "inputs", "files", "facts")], _LENGTH)


def code_hash(definitions: dict[str, str]) -> str:
    """What stands for the definitions of a closure."""
    return content_hash(definitions, _LENGTH)


def begin_record(identity: str, code: Code | None = None) -> dict[str, Any]:
    """The record of a job that begins, to be written when it has succeeded.

    Args:
        identity: JSON with what the job was asked for: settings, inputs, files, facts, and the entries of its code, whose
            definitions are those of the package that runs it; and the paths of its outputs.
        code: the package, another than this one in tests.
    """
    record = json.loads(identity)
    definitions = (code or Code()).closure(*record["entries"])
    record |= {"code": code_hash(definitions), "definitions": definitions}
    return record | {"fingerprint": fingerprint(record)}


def end_record(record: dict[str, Any]) -> dict[str, Any]:
    """The record of a job that has succeeded: with a hash of each of its outputs, by file name."""
    return record | {"outputs": output_hashes(record.get("outputs", []))}


def output_hashes(paths: Iterable[str | Path]) -> dict[str, str]:
    """SHA-256 by file name; the outputs of a job have different ones, and may lie elsewhere when they are compared."""
    return {Path(path).name: sha256_file(path) for path in paths}
