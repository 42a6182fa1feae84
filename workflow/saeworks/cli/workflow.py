"""What the Snakefile asks for: the plan of its configuration, and functions of a job's wildcards. A failure ends Snakemake."""

from __future__ import annotations

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
        if main:
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
