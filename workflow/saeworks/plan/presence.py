"""Which processes work in a folder: what a dead one left behind is told from what a living one holds.

Each process has a file under `.snakemake/presence` that it locks (`flock`) as long as it lives, so that no process number is guessed
at, and a process on another machine counts where the disk that they share passes locks on.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import secrets
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

from ..store.errors import UserError

FOLDER = Path(".snakemake", "presence")
VARIABLE = "SAEWORKS_STARTED_BY"  # of a job's environment: the file of the Snakemake that started it
_own: set[str] = set()  # names of this process's files
_WAIT = 60.0  # seconds for jobs that a killed Snakemake left to save what they have


def announce(kind: str, words: str, folder: Path = FOLDER) -> Path | None:
    """Say until this process ends that it is here; `words` describe it to others.

    Args:
        kind: `snakemake`, or `job` for what one started.

    Returns:
        The file that says so; None on a disk without locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # process numbers come again, and containers may share them with the machine's name
    path = folder.absolute() / f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}.{kind}"
    new = path.with_name(f".{path.name}")
    handle = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC)  # stays open
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        new.unlink()
        return None
    os.write(handle, f"process {os.getpid()} on {socket.gethostname()}, `{words}`".encode())
    os.replace(new, path)
    _own.add(path.name)
    atexit.register(_leave, path, os.getpid())
    return path


def _leave(path: Path, process: int) -> None:
    if os.getpid() == process:  # not one that was forked from it
        path.unlink(missing_ok=True)


def others(folder: Path = FOLDER) -> tuple[list[Path], list[Path]]:
    """The files of the processes that live, without this one's, and of those that died without leaving."""
    living, dead = [], []
    for path in sorted(folder.glob("[!.]*")):
        if path.name not in _own:
            (living if _is_locked(path) else dead).append(path)
    return living, dead


def _is_locked(path: Path) -> bool:
    try:
        with path.open() as handle:
            # shared: two may look at once, and some disks lock a file exclusively only for one who may write it
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def take_over(folder: Path = FOLDER, locks: Path = Path(".snakemake", "locks"), wait: float = _WAIT) -> list[str]:
    """Remove Snakemake's locks if they are of a process that was killed; return who else is at work, if there are locks.

    Raises:
        UserError: a job that a killed Snakemake started does not end.
    """
    end = time.monotonic() + wait
    while True:
        living, dead = others(folder)
        if not living or any(path.suffix == ".snakemake" for path in living):
            break
        if time.monotonic() > end:
            raise UserError(
                f"a job of a Snakemake that was killed still runs here ({_words(living[0])}); wait for it, or end it."
            )
        time.sleep(0.1)
    if living:
        return [_words(path) for path in living if path.suffix == ".snakemake"] if any(locks.glob("*.lock")) else []
    if dead:
        shutil.rmtree(locks, ignore_errors=True)
    for path in dead:
        path.unlink(missing_ok=True)
    return []


def were_left(folder: Path = FOLDER, locks: Path = Path(".snakemake", "locks")) -> bool:
    """Whether there are locks of a Snakemake that was killed, which `take_over` would remove."""
    living, dead = others(folder)
    return bool(dead) and not any(path.suffix == ".snakemake" for path in living) and any(locks.glob("*.lock"))


def _words(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return path.stem


def follow(words: str) -> None:
    """In a job: end, as with a signal, when the Snakemake that started it on this machine is killed."""
    starter = Path(os.environ.get(VARIABLE, ""))
    if starter.name.rsplit("-", 2)[0] != socket.gethostname():
        return
    announce("job", words, starter.parent)
    threading.Thread(target=_end_with, args=[starter], daemon=True).start()


def _end_with(starter: Path) -> None:
    try:
        with starter.open() as handle:
            fcntl.flock(handle, fcntl.LOCK_SH)  # waits for the process that holds it
    except FileNotFoundError:
        pass
    except OSError:
        return
    os.kill(os.getpid(), signal.SIGTERM)
