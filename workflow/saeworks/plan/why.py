"""What a result was made from, and what differs now, in words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ..store.errors import UserError, did_you_mean
from .opening import open_plan
from .state import ABSENT, Difference, State

_LISTED = 4  # items of a kind that are named
_BLOCKS = {"run": "", "figure": "figures.<name>."}  # settings whose block has another name in the configuration


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
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; name the experiment's file with `--configfile`.") from None
    for paragraph in explanations(open_plan(values), target):
        print(paragraph)


def configuration_of(target: str, folder: Path = Path("config")) -> Path:
    """The experiment file in `folder` that a file under results/<experiment> or data/corpora/<experiment> belongs to."""
    parts = Path(target).parts
    named = parts[1] if parts[:1] == ("results",) and len(parts) > 2 else parts[2] if parts[:2] == ("data", "corpora") else None
    if named is not None:
        for path in sorted(folder.glob("*.yaml")):
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
            if isinstance(values, dict) and values.get("experiment") == named:
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
        f"{len(record['definitions'])} definitions of code",
        _listed(list(record["inputs"]), "input"),
        _listed(list(record["files"]), "file"),
    ]
    text = f"{name} ({what}) was made from {', '.join(filter(None, made))}."
    reasons = [*_reasons(state, name), *([f"{missing[0]} is missing"] if missing else [])]
    return f"{text} {'It is not current: ' + '; '.join(reasons) if reasons else 'Nothing of that has changed'}."


def _reasons(state: State, name: str) -> Iterator[str]:
    by_kind: dict[str, list[Difference]] = {}
    for difference in state.differences(name):
        by_kind.setdefault(difference.kind, []).append(difference)
    for kind, found in by_kind.items():
        if kind == "input":
            yield from (_input_reason(state, item) for item in found[:_LISTED])
        elif kind == "definition":
            yield _listed([_definition(item) for item in found], "change of code")
        else:
            yield from (f"{kind} {item.name} was {_shown(item.before)} and is {_shown(item.after)}" for item in found[:_LISTED])
        if kind != "definition" and len(found) > _LISTED:
            yield f"{len(found) - _LISTED} more of the kind"


def _input_reason(state: State, item: Difference) -> str:
    """An input that differs, and why it does, down to what changed first."""
    if item.name not in state.jobs or item.after is ABSENT:
        return f"{item.name} is no input any more"
    if item.before is ABSENT:
        return f"{item.name} is a new input"
    deeper = "; ".join(_reasons(state, item.name))
    return f"its input {item.name} has changed" + (f" ({deeper})" if deeper else " since")


def _definition(item: Difference) -> str:
    return f"{item.name} {'is new' if item.before is ABSENT else 'is gone' if item.after is ABSENT else 'has changed'}"


def _listed(names: list[str], what: str) -> str:
    if not names:
        return ""
    shown = ", ".join(names[:_LISTED])
    return shown if len(names) <= _LISTED else f"{shown} and {len(names) - _LISTED} more {what}s"


def _shown(value: Any) -> str:
    return f"{value[:12]}…" if isinstance(value, str) and len(value) > 40 else repr(value)


def _is_meant(job: Any, target: str) -> bool:
    path = str(Path(target))
    return path in (*job.outputs, job.record, job.name) or target in job.name.split("/") or job.name.startswith(f"{target}/")
