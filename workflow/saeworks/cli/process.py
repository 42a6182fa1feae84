"""The process of a command: what it needs before it computes, the records it leaves, and how it says what went wrong.

The parameters of `keep_log`, `prepare_torch` and `begin_records` are options of the commands that call them, beside those of their function.
"""

from __future__ import annotations

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
from ..store.errors import Interrupted, UserError


def prepare_torch(device: Literal["auto", "cpu", "cuda"] = "auto", threads: int | None = None) -> str:
    """Ready torch for a command and return the device to compute on, `cpu` or `cuda`.

    Args:
        device: where to compute: cpu, cuda, or auto for cuda where there is one.
        threads: CPU threads; torch's own choice if not given.
    """
    _keep_freed_memory()
    import torch  # slow import

    if threads is not None:
        torch.set_num_threads(threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device != "cpu":
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
    _terminal = os.fdopen(os.dup(2), "w")
    with log.open("w") as file:
        for descriptor in (1, 2):  # also of C libraries and of processes that the command starts
            os.dup2(file.fileno(), descriptor)


def begin_records(record: list[Path] | None = None, identity: list[Json] | None = None) -> list[tuple[Path, dict[str, Any]]]:
    """The records of a stage that begins, with the code that runs it, and where they go when it has succeeded.

    Args:
        record: file to say in what the result was made from, when the stage has succeeded; one for each identity.
        identity: what the stage was asked for: its settings, inputs, files and code.

    Raises:
        UserError: there are not as many identities as records.
    """
    if len(record or []) != len(identity or []):
        raise UserError(f"every --record needs an --identity; {len(record or [])} and {len(identity or [])} are given.")
    if not record:
        return []
    from ..plan.record import begin_record

    return [(path, begin_record(text)) for path, text in zip(record, identity, strict=True)]


def report(error: BaseException) -> int:
    """Say in a sentence on stderr what went wrong, and return the exit status for it."""
    status, sentence = _in_words(error)
    for stream in filter(None, (sys.stderr, _terminal)):
        print(f"saeworks: {sentence}", file=stream, flush=True)
    return status


def _in_words(error: BaseException) -> tuple[int, str]:
    match error:
        case UserError():
            return 2, str(error)
        case Interrupted():
            return 130, str(error)
        case KeyboardInterrupt():
            return 130, "interrupted; the same command continues."
        case MemoryError():
            return 2, f"out of memory ({error}); lower the batch size or the number of features, or use a larger machine."
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            where = f" while writing {error.filename}" if error.filename else ""
            return 2, f"the disk is full{where}; free some space and run the same command again, it continues."
    what = f"{type(error).__name__}: {error}".splitlines()[0]
    return 70, f"a fault of saeworks, not of your input ({what}); {_kept_traceback(error)}"


def _kept_traceback(error: BaseException) -> str:
    """Write the traceback to a file of its own and say which: in logs/ where that exists, as in the repository."""
    folder = Path("logs") if Path("logs").is_dir() else Path(tempfile.gettempdir())
    path = folder / f"fault-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    text = "".join(traceback.format_exception(error))
    try:
        path.write_text(f"saeworks {' '.join(sys.argv[1:])}\n\n{text}", encoding="utf-8")
    except OSError:
        return f"its traceback could not be written to {path}, so it follows.\n{text}"
    return f"please report it with its traceback, in {path}."
