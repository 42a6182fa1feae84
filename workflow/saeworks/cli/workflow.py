"""What the Snakefile asks for: the plan of its configuration, and functions of a job's wildcards. A failure ends Snakemake."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..config.base import read_config
from ..plan import presence
from ..plan.experiment import ExperimentPlan
from ..plan.opening import open_plan
from ..plan.pretrain import PretrainPlan
from .process import report

# rules call `saeworks`: that of this very environment, activated or not
_PATH = f"export PATH={shlex.quote(os.path.dirname(sys.executable))}:$PATH; "
SHELL_PREFIX = _PATH.replace("{", "{{").replace("}", "}}")  # Snakemake formats it


# options with which Snakemake runs no job
_LOOKS = ("dryrun", "lint", "unlock", "list_rules", "list_target_rules", "print_compilation", "dag", "rulegraph", "filegraph", "d3dag", "summary",
          "detailed_summary", "list_changes", "list_input_changes", "list_params_changes", "list_untracked", "report", "archive", "containerize",
          "export_cwl")  # fmt: skip


def _only_looks() -> bool:
    """Whether this Snakemake was started to say something, and so must leave everything as it is."""
    from snakemake.cli import parse_args  # there already

    with contextlib.suppress(Exception, SystemExit), contextlib.redirect_stderr(io.StringIO()):
        options = parse_args(sys.argv[1:])[1]
        return any(getattr(options, name, None) for name in _LOOKS)
    return False


def begin(values: dict[str, Any], files: Iterable[Path | str], main: bool) -> ExperimentPlan | PretrainPlan:
    """The plan of a configuration.

    Args:
        values: the configuration as Snakemake merged it.
        files: the files that it read, of which it keeps the last of a key that stands twice.
        main: whether this is the Snakemake that a user started, and not one that runs a job of it.
    """
    try:
        for file in files:
            read_config(file)
        plan = open_plan(values)
        if main and _only_looks():
            if presence.were_left():
                print(
                    "saeworks: a Snakemake that was killed left its locks here; the next one that runs removes them.",
                    file=sys.stderr,
                )
        elif main:
            at_work = presence.announce("snakemake", shlex.join(["snakemake", *sys.argv[1:]]))
            for other in presence.take_over():
                print(
                    f"saeworks: another Snakemake is at work here: {other}; let it end before another makes the same files.",
                    file=sys.stderr,
                )
            if at_work:
                os.environ[presence.VARIABLE] = str(at_work)  # of its jobs
    except Exception as error:
        raise SystemExit(report(error)) from None
    return plan


def of_job(job: str | Callable[[Any], str], ask: Callable[[str], Any]) -> Callable[[Any], Any]:
    """A function of wildcards: `ask` of the job's name, which is given or made from them.

    Snakemake passes over an exception, and over an input that is missing, where a result is there; only this ends it.
    """

    def found(wildcards: Any) -> Any:
        try:
            return ask(job(wildcards) if callable(job) else job)
        except Exception as error:
            raise SystemExit(report(error)) from None

    return found
