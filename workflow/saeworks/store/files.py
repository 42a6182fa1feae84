"""Atomic files, content hashes and disk-space checks."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from .errors import UserError

_CHUNK = 1 << 20


def sha256_file(path: Path | str) -> str:
    """Hex sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def canonical_json(value: Any) -> str:
    """Compact JSON with sorted keys: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def content_hash(value: Any, length: int = 64) -> str:
    """First `length` hex digits of the sha256 of a JSON-serialisable value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Give a temporary sibling of `path` to write to; it takes the final name only when the block succeeds.

    Raises:
        UserError: the file cannot be written; what was under the final name is still there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        yield partial
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:  # libraries report a full disk in several ways
        raise UserError(
            f"{path} could not be written ({error}); {human_bytes(shutil.disk_usage(path.parent).free)} are free there. Make room, or check "
            "its permissions, and run the same command again: it continues."
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def write_tensors(path: Path | str, tensors: dict[str, Any], metadata: dict[str, str] | None = None) -> None:
    """Write torch tensors as safetensors, atomically."""
    from safetensors.torch import save_file  # imports torch, which figures do without

    with atomic_path(path) as partial:
        save_file(tensors, partial, metadata=metadata or {"format": "pt"})


def write_array(path: Path | str, array: Any) -> None:
    """Write a NumPy array as .npy, atomically."""
    import numpy as np

    with atomic_path(path) as partial, partial.open("wb") as handle:
        np.save(handle, array)


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, atomically."""
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is missing or not JSON.
    """
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run the stage that makes it, or fetch it with `dvc pull`.") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON ({error}); delete it and rerun the stage that makes it.") from None


def publish(staging: Path, final: Path, last: str = "manifest.json") -> None:
    """Move every file of `staging` into `final`, the file named `last` at the end, then drop `staging`.

    A reader that requires `last` never sees a half-published directory.
    """
    final.mkdir(parents=True, exist_ok=True)
    (final / last).unlink(missing_ok=True)
    names = sorted(p.name for p in staging.iterdir())
    if last not in names:
        raise ValueError(f"nothing named {last} in {staging}")
    names.remove(last)
    for name in [*names, last]:
        with atomic_path(final / name) as partial:  # the two folders may lie on different disks
            shutil.move(staging / name, partial)
    shutil.rmtree(staging)


def require_space(folder: Path | str, needed: int, what: str) -> None:
    """Check that the disk of `folder` can take `needed` more bytes.

    Raises:
        UserError: naming both numbers, when it cannot.
    """
    folder = Path(folder)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{what} needs {human_bytes(needed)} but only {human_bytes(free)} are free under {folder}; "
            "free some space, ask for fewer tokens or hook points, or set `activations.source: stream`."
        )


def human_bytes(n: float) -> str:
    """`1536` -> `1.5 KiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(n) < 1024:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} TiB"
