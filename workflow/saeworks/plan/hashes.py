"""Hashes of files, those of large ones remembered from one call to the next."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path

from ..store.errors import UserError
from ..store.files import sha256_file, write_json

_LARGE = 1 << 20  # bytes; smaller ones are read each time, which takes milliseconds
_SETTLED = 2e9  # nanoseconds: what was written just now might be written again within the resolution of its time


class Hashes:
    """SHA-256 of files by path. One of a large file holds while its size, times and inode stay the same.

    Args:
        memory: JSON file that they are remembered in; where it cannot be written, they are computed each time.
    """

    def __init__(self, memory: Path) -> None:
        self.memory = memory
        self._found: dict[Path, str] = {}
        try:
            self._known = json.loads(memory.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            self._known = {}
        if not isinstance(self._known, dict) or not all(isinstance(known, list) and known for known in self._known.values()):
            self._known = {}

    def __call__(self, path: Path) -> str:
        if path not in self._found:
            self._found[path] = self._large(path) if path.stat().st_size >= _LARGE else sha256_file(path)
        return self._found[path]

    def _large(self, path: Path) -> str:
        stat, key = path.stat(), str(path.absolute())
        now = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        if self._known.get(key, [None])[:-1] == now:
            return self._known[key][-1]
        found = sha256_file(path)
        if time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) > _SETTLED:
            self._known[key] = [*now, found]
            with suppress(OSError, UserError):  # a folder that only others may write to
                write_json(self.memory, self._known)
        return found
