"""What is current: the identities of an experiment's jobs against the records that lie on disk."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..store.errors import UserError
from ..store.files import atomic_path, canonical_json
from .code import Code
from .hashes import Hashes
from .job import Job, nested
from .record import code_hash, fingerprint

_KEYS = {
    "settings": dict,
    "entries": list,
    "code": str,
    "definitions": dict,
    "inputs": dict,
    "files": dict,
    "facts": dict,
    "fingerprint": str,
}
_STRINGS = ("definitions", "inputs", "files", "outputs")  # whose values are hashes


ABSENT = type("Absent", (), {"__repr__": lambda self: "not there"})()


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it was when a result was made; what is new or gone was or is `ABSENT`.

    `output`: a file of the result itself. `again`: a job whose result it was made from, and which is made again for such a file.
    """

    kind: Literal["record", "setting", "definition", "input", "file", "fact", "output", "again"]
    name: str
    before: Any = ABSENT
    after: Any = ABSENT


class State:
    """Jobs by name, and which of them have current results in `root`."""

    marks = Path("scratch/stale")  # of jobs that are not current

    def __init__(self, jobs: Iterable[Job], root: Path | str = ".", code: Code | None = None) -> None:
        self.jobs = {job.name: job for job in jobs}
        self.root, self.code = Path(root), code or Code()
        self._sha256 = Hashes(self.root / "scratch" / "hashes.json")
        self._differences: dict[str, list[Difference]] = {}
        self._identities: dict[str, dict[str, Any]] = {}
        self._recorded: dict[str, dict[str, Any] | None] = {}

    def identity(self, name: str) -> dict[str, Any]:
        """What the results of a job depend on: as recorded where nothing has changed since, else as it is now.

        Keys: settings, entries, code, inputs (the fingerprints of other jobs), files (sha256 of those at hand), facts.
        """
        if any(item.kind not in ("output", "again") for item in self.differences(name)):
            return self._now(name)
        return {key: self.recorded(name)[key] for key in ("settings", "entries", "code", "inputs", "files", "facts")}

    def identity_json(self, name: str, outputs: Iterable[str] | None = None) -> str:
        """`identity` as the command line takes it, with the files whose hashes the record is to hold: by default the job's outputs."""
        return canonical_json(self.identity(name) | {"outputs": list(outputs or self.jobs[name].outputs)})

    def fingerprint(self, name: str) -> str:
        """What stands for the identity of a job in that of others."""
        return fingerprint(self.identity(name))

    def spec(self, name: str, block: str) -> str:
        """One block of a job's settings, as JSON that its command takes."""
        return canonical_json(nested({**self.identity(name)["settings"], **self.jobs[name].settings.others}, block))

    def asked(self, text: str) -> str:
        """A file with this text, JSON, as an option takes it, so that a command stays short enough to be read.

        It lies under its hash, so that jobs of other configurations that are still at work find theirs.
        """
        path = self.marks.parent / "asked" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
        if not (self.root / path).exists():
            with atomic_path(self.root / path) as partial:
                partial.write_text(text, encoding="utf-8")
        return f"@{path}"

    def is_current(self, name: str) -> bool:
        """Whether all results of a job exist, are those that it made, and nothing that they depend on has changed."""
        return all((self.root / path).exists() for path in self.jobs[name].outputs) and not self.differences(name)

    def needs(self, name: str) -> list[str]:
        """Files that a job reads."""
        return [path for other in self.jobs[name].inputs for path in self.jobs[other].outputs]

    def inputs(self, name: str) -> tuple[list[str], bool]:
        """What a job reads, its `mark` among that, and whether something that it depends on has changed.

        Raises:
            UserError: it has, and a file that no job makes is missing.
        """
        if self.differences(name):
            self.require_sources(name)
        return self.needs(name) + self.mark(name), bool(self.differences(name))

    def require_sources(self, name: str) -> None:
        """Check that all that a job reads and no job makes is there.

        Raises:
            UserError: one sentence about the first file that is missing.
        """
        for path in self.jobs[name].files:
            if not (self.root / path).exists():
                raise UserError(self.missing(path))

    def missing(self, path: str) -> str:
        """What to do about a file that no job makes and that is not there."""
        return f"{path} is missing; correct its path in the configuration."

    def mark(self, name: str) -> list[str]:
        """A file newer than the results of a job that is not current, so that what goes by times makes them again.

        None for a job that is current, nor for one whose results are merely missing or not there at all: what goes by times makes
        these when they are asked for, so that nothing is made for results that are current without it.
        """
        there = [(self.root / path).exists() for path in self.jobs[name].outputs]
        if not any(there) or not self.differences(name):
            return []
        return self.new_mark(name)

    def new_mark(self, name: str) -> list[str]:
        """A file that is newer than all others."""
        path = self.marks / name
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(str(time.time_ns()))  # never the same: Snakemake passes over files that it has seen
        return [str(path)]

    def stale(self) -> list[str]:
        """Names of the jobs that are not current."""
        return [name for name in self.jobs if not self.is_current(name)]

    def differences(self, name: str) -> list[Difference]:
        """What has changed since the results of a job were made, and which of them are other files than it made.

        A job without a readable record has one difference. A record from before there were hashes of outputs says nothing of them.
        """
        if name not in self._differences:
            self._differences[name] = self._compare(name)
        return self._differences[name]

    def recorded(self, name: str) -> dict[str, Any] | None:
        """The record of a job; None where there is none that can be read."""
        if name not in self._recorded:
            try:
                found = json.loads((self.root / self.jobs[name].record).read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError):
                found = None
            self._recorded[name] = found if _is_record(found) else None
        return self._recorded[name]

    def _now(self, name: str) -> dict[str, Any]:
        if name not in self._identities:
            job = self.jobs[name]
            here = {path: self._sha256(self.root / path) for path in job.files if (self.root / path).is_file()}
            self._identities[name] = {
                "settings": dict(job.settings.values),
                "entries": list(job.entries),
                "code": code_hash(self.code.closure(*job.entries)),
                "inputs": {other: self.fingerprint(other) for other in job.inputs},
                "files": here,
                "facts": dict(job.facts),
            }
        return self._identities[name]

    def _compare(self, name: str) -> list[Difference]:
        job, before = self.jobs[name], self.recorded(name)
        if before is None:
            return [Difference("record", job.record)]
        now = self._now(name)
        found = _changed("setting", job.settings.defaults | before["settings"], now["settings"])
        found += _changed("definition", before["definitions"], self.code.closure(*job.entries))
        found += _changed("input", before["inputs"], now["inputs"])
        # a file that is not at hand cannot have changed what was made from it
        found += [item for item in _changed("file", before["files"], now["files"]) if item.after is not ABSENT]
        found += _changed("fact", before["facts"], now["facts"])
        made, there = before.get("outputs", {}), [path for path in job.outputs if (self.root / path).is_file()]
        pairs = [(path, made.get(Path(path).name), self._sha256(self.root / path)) for path in there if made]
        found += [Difference("output", path, *pair) for path, *pair in pairs if pair[0] != pair[1]]
        # what follows from a job is made again with it: Snakemake looks no further than at the first job of a chain that has to run
        return found + [Difference("again", other) for other in job.inputs if self._is_made_again(other)]

    def _is_made_again(self, name: str) -> bool:
        return any(item.kind in ("output", "again") for item in self.differences(name))


def _is_record(found: Any) -> bool:
    if not isinstance(found, dict) or not all(isinstance(found.get(key), kind) for key, kind in _KEYS.items()):
        return False
    hashes = [found.get(key, {}) for key in _STRINGS]
    return all(isinstance(block, dict) and all(isinstance(value, str) for value in block.values()) for block in hashes)


def _changed(kind: str, before: dict[str, Any], after: dict[str, Any]) -> list[Difference]:
    names = [*after, *(name for name in before if name not in after)]
    pairs = {name: (before.get(name, ABSENT), after.get(name, ABSENT)) for name in names}
    return [Difference(kind, name, *pair) for name, pair in pairs.items() if pair[0] != pair[1]]
