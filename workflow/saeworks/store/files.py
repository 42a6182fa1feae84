"""Atomic files, content hashes and disk-space checks."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
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


def sync(path: Path | str) -> None:
    """Have the disk keep a file, or the names in a folder, before anything else is done: a power cut cannot take it back."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, each name on the disk."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in reversed(missing):
        sync(place.parent)


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Give a temporary sibling of `path` to write to; it takes the final name only when the block succeeds.

    Its bytes are on the disk before it has the name, and the name before this returns: after a kill or a power cut the old file
    is there or the new one, whole.

    Raises:
        UserError: the file cannot be written; what was under the final name is still there.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        _make_folder(path.parent)
        yield partial
        sync(partial)
        os.replace(partial, path)
        sync(path.parent)
    except (OSError, SafetensorError) as error:  # libraries report a full disk in several ways
        raise UserError(
            f"{path} could not be written ({error}); {human_bytes(_free(path))} are free there. Make room, or check "
            "its permissions, and run the same command again: it continues."
        ) from error
    finally:
        with contextlib.suppress(OSError):  # where nothing can be written, nothing is left either
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


def read_json(path: Path | str, shape: Any = None, mend: str = "") -> Any:
    """Read a JSON file.

    Args:
        shape: what it must hold, as a type that pydantic checks strictly (a TypedDict, say); further keys are kept.
        mend: what to do about one that is missing or damaged.

    Raises:
        UserError: the file is missing, not JSON, or holds something else.
    """
    mend = mend or f"fetch it with `dvc pull --force {path}` if it is stored, else delete it and run what makes it again"
    try:
        value = json.loads(Path(path).read_bytes().decode("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {mend}.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {mend}.") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); {mend}.") from None
    if shape is not None:
        try:
            TypeAdapter(shape).validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(map(str, fault["loc"]))
            what = f"its `{where}` is wrong" if where else "it holds something else than it should"
            raise UserError(f"{path} is damaged ({what}: {fault['msg'].lower()}); {mend}.") from None
    return value


def publish(staging: Path, final: Path, last: str = "manifest.json") -> None:
    """Move every file of `staging` into `final`, the file named `last` at the end, then drop `staging`.

    A reader that requires `last` never sees a half-published directory.
    """
    _make_folder(final)
    (final / last).unlink(missing_ok=True)
    sync(final)  # before any other file changes
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
    folder, free = _there(folder), _free(folder)
    if needed > free:
        raise UserError(
            f"{what} needs {human_bytes(needed)} but only {human_bytes(free)} are free under {folder}; "
            "free some space, ask for fewer tokens or hook points, or set `activations.source: stream`."
        )


def _there(path: Path | str) -> Path:
    """The nearest folder above a path, or itself, that exists."""
    path = Path(path)
    return next(place for place in (path, *path.absolute().parents) if place.is_dir())


def _free(path: Path | str) -> int:
    return shutil.disk_usage(_there(path)).free


def begins_at(path: Path) -> str:
    """Where a relative path begins, in brackets."""
    return "" if path.is_absolute() else f" (it begins in the working directory, {Path.cwd()})"


def human_bytes(n: float) -> str:
    """`1536` -> `1.5 KiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(n) < 1024:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} TiB"
