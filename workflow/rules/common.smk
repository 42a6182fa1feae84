# Rules ask the plan (`saeworks.plan`) what there is, where it lies and what it depends on. Of a job's parameters Snakemake compares
# `identity` alone: settings that have an effect, code, inputs. The others are derived: they take `input`, which keeps them out.
import os
import shlex
import shutil
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from saeworks.plan.opening import open_plan
from saeworks.store.errors import UserError

# rules call `saeworks`: take the one of this very environment, activated or not
shell.prefix(f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; ")

try:
    PLAN = open_plan(config)
except UserError as error:
    raise WorkflowError(str(error)) from None

# a counter that keeps jobs from sharing a GPU; 0 where there is none, so that CPU jobs run side by side
GPU = int(shutil.which("nvidia-smi") is not None)
LOGS = f"logs/{PLAN.name}"


wildcard_constraints:
    hook_point=r"[A-Za-z0-9_.]+",
    run=r"[A-Za-z0-9_.+-]+",


def at(wildcards):
    """Run or hook point of a job."""
    return "/".join(wildcards.get(name) for name in ("hook_point", "run") if name in wildcards.keys())


def targets():
    for note in PLAN.notes():
        print(f"saeworks: {note}", file=sys.stderr)
    return PLAN.targets()
