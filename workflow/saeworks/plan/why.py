"""What a result was made from, and what differs now, in words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..config.base import read_config
from ..store.errors import UserError, did_you_mean
from .job import Job
from .opening import open_plan
from .state import ABSENT, Difference, State

_LISTED = 4  # items of a kind that are named
_LONG = 60  # characters of a value that are shown


def why(target: str, /, configfile: str | None = None) -> None:
    """Say what a result was made from and what differs now: which setting, which function, which input.

    Args:
        target: a file under results or data, a job such as `train/blocks.4.hook_resid_pre/local-c1-s0`, or a rule or study such as
            `train`, `geometry` or `pareto`.
        configfile: the configuration; by default config/config.yaml, or the one in config/ whose experiment the file belongs to.

    Raises:
        UserError: the configuration has no such file or job.
    """
    path = Path(configfile) if configfile else configuration_of(target)
    for paragraph in explanations(open_plan(read_config(path)), target):
        print(paragraph)


def configuration_of(target: str, folder: Path = Path("config")) -> Path:
    """The file in `folder` that a file under results/<experiment>, data/corpora/<experiment> or data/models/<name> belongs to."""
    parts = Path(target).parts
    if parts[:2] == ("data", "models") and len(parts) > 2 and (folder / f"{parts[2]}.yaml").exists():
        return folder / f"{parts[2]}.yaml"
    named = parts[1] if parts[:1] == ("results",) and len(parts) > 2 else parts[2] if parts[:2] == ("data", "corpora") else None
    if named is not None:
        for path in sorted(folder.glob("*.yaml")):
            with contextlib.suppress(UserError):  # said of a file that is asked for
                if read_config(path).get("experiment") == named:
                    return path
        raise UserError(f"no file in {folder} is of the experiment {named!r}; name its file with `--configfile`.")
    return folder / "config.yaml"


def explanations(state: State, target: str) -> list[str]:
    """A paragraph for each job that makes `target`, is called so, or is of that stage; those of current jobs only if they are few.

    Raises:
        UserError: there is no such job.
    """
    names = [job.name for job in state.jobs.values() if _is_meant(job, target)]
    if not names:
        known = {job.name for job in state.jobs.values()} | {part for job in state.jobs.values() for part in job.name.split("/")}
        raise UserError(
            f"nothing in this configuration makes {target!r}{did_you_mean(target, known)}; name a file, a rule or a job."
        )
    stale = [name for name in names if not state.is_current(name)]
    told = names if len(names) <= _LISTED else stale
    paragraphs = [explanation(state, name) for name in told]
    if len(told) < len(names):
        paragraphs.append(f"{len(names) - len(told)} of {len(names)} are current.")
    return paragraphs


def explanation(state: State, name: str) -> str:
    """What a job's results were made from, and what differs now."""
    job, record = state.jobs[name], state.recorded(name)
    what = job.outputs[0] + (f" and {len(job.outputs) - 1} more" if len(job.outputs) > 1 else "")
    missing = [path for path in job.outputs if not (state.root / path).exists()]
    if record is None:
        return f"{name} ({what}): " + (
            "not made yet." if missing else f"there is no readable record of what it was made from ({job.record})."
        )
    made = [
        f"{len(record['settings'])} settings" if record["settings"] else "",
        f"{len(record['definitions'])} functions and constants",
        _listed(list(record["inputs"]), "input"),
        _listed(list(record["files"]), "file"),
    ]
    text = f"{name} ({what}) was made from {', '.join(filter(None, made))}."
    reasons = [*_reasons(state, name), *([f"{missing[0]} is missing"] if missing else [])]
    return f"{text} {'It is not current: ' + '; '.join(reasons) if reasons else 'None of it has changed'}."


def _reasons(state: State, name: str) -> Iterator[str]:
    """What differs in a job itself, and then, of all that it was made from, what changed first."""
    yield from _own_reasons(state, name)
    for item in state.differences(name):
        if item.kind == "again":
            yield f"{item.name}, which it was made from, is made again"
    changed = [item for item in state.differences(name) if item.kind == "input"]
    for item in [item for item in changed if ABSENT in (item.before, item.after)]:
        yield f"{item.name} is {'a new input' if item.before is ABSENT else 'no input any more'}"
    if earlier := [item.name for item in changed if ABSENT not in (item.before, item.after)]:
        causes = list(dict.fromkeys(cause for name in earlier for cause in _causes(state, name)))
        why = f", since {_listed(causes, 'change', '; ')}" if causes else " since"
        yield f"{_listed(earlier, 'input')} {'has' if len(earlier) == 1 else 'have'} changed{why}"


def _causes(state: State, name: str) -> Iterator[str]:
    for reason in _own_reasons(state, name):
        yield f"for {name}, {reason}"
    for item in state.differences(name):
        if item.kind == "input" and item.name in state.jobs:
            yield from _causes(state, item.name)


def _own_reasons(state: State, name: str) -> list[str]:
    found = [item for item in state.differences(name) if item.kind not in ("input", "again")]
    code = [_definition(item) for item in found if item.kind == "definition"]
    others = [_in_words(item) for item in found if item.kind != "definition"]
    return [*others, *([_listed(code, "change of code")] if code else [])]


def _in_words(item: Difference) -> str:
    if item.kind == "record":
        return "it was not made yet"
    if item.kind == "output":
        return f"{item.name} is not the file that it made, but another"
    return f"{item.kind} {item.name} was {_shown(item.before)} and is {_shown(item.after)}"


def _definition(item: Difference) -> str:
    return f"{item.name} {'is new' if item.before is ABSENT else 'is gone' if item.after is ABSENT else 'has changed'}"


def _listed(names: list[str], what: str, joint: str = ", ") -> str:
    if not names:
        return ""
    shown = joint.join(names[:_LISTED])
    return shown if len(names) <= _LISTED else f"{shown} and {len(names) - _LISTED} more {what}s"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONG else f"{text[: _LONG - 1]}…"


_RULES = {"saes": ("train",), "all_tables": ("gather", "claims")}  # that stand for stages


def _is_meant(job: Job, target: str) -> bool:
    """Whether a target is a file of a job, its name or a part of it, or the rule that runs it."""
    parts = job.name.split("/")
    rules = {"measure": [f"measure_{name}" for name in parts[1:2]], "gather": [f"{name}_tables" for name in parts[1:]]}
    return (
        str(Path(target)) in (*job.outputs, job.record, job.name)
        or target in parts
        or job.name.startswith(f"{target}/")
        or target in rules.get(job.stage, ())
        or job.stage in _RULES.get(target, ())
    )
