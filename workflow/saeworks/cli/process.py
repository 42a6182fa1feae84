"""The process of a command: what it needs before it computes, the records it leaves, and how it says what went wrong.

The parameters of `keep_log`, `prepare_torch` and `begin_records` are options of the commands that call them, beside those of their function.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, Literal, TextIO

from ..config.base import Json
from ..device import usable
from ..store.errors import Interrupted, UserError
from ..store.files import write_json

_FAULT, _MENDABLE, _INTERRUPTED, _UNREAD = 70, 2, 130, 141
STATUSES = {  # of a command that does not succeed
    _MENDABLE: "an error that you can correct; a sentence says how",
    _FAULT: "a fault of saeworks; a sentence says where its traceback is",
    _INTERRUPTED: "interrupted",
    _UNREAD: "what reads the output has ended",
}
_MOST_THREADS = max(64, os.cpu_count() or 1)  # many more do not start
# what is wrong with a path that a command was given
_PATHS = (
    errno.ENOENT,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)
_PACKAGE = Path(__file__).parents[1]


def prepare_torch(device: Literal["auto", "cpu", "cuda"] = "auto", threads: int | None = None) -> str:
    """Ready torch for a command and return the device to compute on, `cpu` or `cuda`.

    Args:
        device: where to compute: cpu, cuda, or auto for cuda where there is one.
        threads: CPU threads; torch's own choice if not given.

    Raises:
        UserError: there cannot be so many threads, or there is no such device.
    """
    if threads is not None and not 1 <= threads <= _MOST_THREADS:
        raise UserError(f"`--threads` is {threads}; give a number from 1 to {_MOST_THREADS}, or leave it out.")
    _keep_freed_memory()
    import torch  # slow import

    if threads is not None:
        torch.set_num_threads(threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if usable(device) != "cpu":
        from ..store.determinism import use_deterministic_algorithms

        use_deterministic_algorithms()
    return device


def _keep_freed_memory() -> None:
    """Tell glibc not to return large freed blocks to the system: page faults cost a fifth of a training step otherwise."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        m_trim_threshold, m_mmap_threshold = -1, -3
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, (1 << 31) - 1)
    except (OSError, AttributeError):
        pass  # another C library: slower, that is all


_terminal: TextIO | None = None  # where stderr went before `keep_log`


def keep_log(log: Path | None = None) -> None:
    """Send all that the command prints from here on to a file, but for the sentence that it fails with, which goes to both.

    Args:
        log: file for what the command prints.
    """
    global _terminal
    if log is None:
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        _terminal = os.fdopen(os.dup(2), "w")
        for descriptor in (1, 2):  # also of C libraries and of processes that the command starts
            os.dup2(file.fileno(), descriptor)


def begin_records(record: list[Path] | None = None, identity: list[Json] | None = None) -> list[tuple[Path, dict[str, Any]]]:
    """The records of a stage that begins, with the code that runs it, and where they go when it has succeeded.

    Args:
        record: file to say in what the result was made from, when the stage has succeeded; one for each identity.
        identity: what the stage was asked for: its settings, inputs, files, code and outputs.

    Raises:
        UserError: there are not as many identities as records.
    """
    if len(record or []) != len(identity or []):
        raise UserError(f"every --record needs an --identity; {len(record or [])} and {len(identity or [])} are given.")
    if not record:
        return []
    from ..plan.record import begin_record

    try:
        return [(path, begin_record(text)) for path, text in zip(record, identity, strict=True)]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"`--identity` is not one that the workflow gives ({error}); leave out both it and `--record`.") from None


def flush() -> None:
    """Write what was printed, while a failure can still be told.

    Raises:
        OSError: the disk is full, or what reads the output has ended.
    """
    if sys.stdout is not None:
        sys.stdout.flush()


def end_records(begun: list[tuple[Path, dict[str, Any]]]) -> None:
    """Write the records of a stage that has succeeded."""
    for path, record in begun:
        from ..plan.record import end_record

        write_json(path, end_record(record))


def report(error: BaseException) -> int:
    """Say in a sentence on stderr what went wrong, and return the exit status for it."""
    status, sentence = _in_words(error)
    for stream in filter(None, (sys.stderr, _terminal)) if sentence else ():
        with contextlib.suppress(OSError, ValueError):  # closed, or on a full disk itself
            print(f"saeworks: {sentence}", file=stream, flush=True)
    try:
        flush()
    except (OSError, ValueError):  # Python would try once more at its end, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return status


def _in_words(error: BaseException) -> tuple[int, str]:
    match error:
        case UserError():
            return _MENDABLE, str(error)
        case Interrupted():
            return _INTERRUPTED, str(error)
        case KeyboardInterrupt():
            return _INTERRUPTED, "interrupted; the same command continues."
        case BrokenPipeError():
            return _UNREAD, ""
        case MemoryError():
            return _MENDABLE, _out_of_memory(error)
        case RuntimeError() if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):  # of torch
            return _MENDABLE, _out_of_memory(error)
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            where = f" while writing {error.filename}" if error.filename else ""
            return _MENDABLE, f"the disk is full{where}; free some space and run the same command again, it continues."
        case OSError() if (
            error.errno in _PATHS and error.filename and not Path(os.fsdecode(error.filename)).is_relative_to(_PACKAGE)
        ):
            path = os.fsdecode(error.filename)
            return _MENDABLE, f"{path} cannot be used ({error.strerror}); correct the path, or its permissions."
    what = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
    return _FAULT, f"{what}; this is a fault of saeworks, please report it with {_kept_traceback(error)}"


def _out_of_memory(error: BaseException) -> str:
    reason = " ".join(str(error).split())
    return f"out of memory ({reason}); lower the batch size or the number of features, or use a larger machine."


def _kept_traceback(error: BaseException) -> str:
    """Write the traceback to a file of its own and say which: in logs/ where that exists, as in the repository."""
    folder = Path("logs") if Path("logs").is_dir() else Path(tempfile.gettempdir())
    path = folder / f"fault-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    text = "".join(traceback.format_exception(error))
    try:
        path.write_text(f"saeworks {' '.join(sys.argv[1:])}\n\n{text}", encoding="utf-8")
    except OSError:
        return f"its traceback, which could not be written to {path} and follows.\n{text}"
    return f"the log file {path}."
