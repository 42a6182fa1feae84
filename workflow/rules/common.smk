# Rules ask the plan (`saeworks.plan`) what there is, where it lies, what it depends on and whether it is current. Snakemake goes by
# times: so all inputs of an unchanged job are `ancient`, and a changed one whose results are there has an input that is new.
import os
import shlex
import shutil
import sys

from snakemake.exceptions import WorkflowError

from saeworks.plan.opening import open_plan
from saeworks.store.errors import UserError
from saeworks.store.notebooks import notebook_title

# rules call `saeworks`: take the one of this very environment, activated or not
shell.prefix(f"export PATH={shlex.quote(os.path.dirname(sys.executable))}:$PATH; ")

try:
    PLAN = open_plan(config)
except UserError as error:
    raise WorkflowError(str(error)) from None

# a counter that keeps jobs from sharing a GPU; 0 on a machine without one, so that CPU jobs run side by side
GPU = int(not workflow.local_exec or shutil.which("nvidia-smi") is not None)
LOGS = f"logs/{PLAN.name}"


wildcard_constraints:
    hook_point=r"[A-Za-z0-9_.]+",
    run=r"[A-Za-z0-9_.+-]+",


def at(wildcards):
    """Run or hook point of a job."""
    return "/".join(wildcards)


def reads(job):
    """Inputs of a job."""
    files, changed = PLAN.inputs(job)
    return files if changed else [*map(ancient, files)]
