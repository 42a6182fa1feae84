# Rules ask the plan (`saeworks.plan`) what there is, where it lies, what it depends on and whether it is current. Snakemake goes by
# times: so all inputs of an unchanged job are `ancient`, and a changed one whose results are there has an input that is new.
# Results are declared with `update`, so that Snakemake does not delete them before a job, and brings them back if it fails; but not
# prepared models and caches, whose further files it does not know.
import os
import shlex
import shutil
import sys

from saeworks.cli.process import report as report_fault
from saeworks.config.base import read_config
from saeworks.plan import presence
from saeworks.plan.opening import open_plan
from saeworks.store.notebooks import notebook_title

# rules call `saeworks`: take the one of this very environment, activated or not
exported = f"export PATH={shlex.quote(os.path.dirname(sys.executable))}:$PATH; "

try:
    for file in workflow.configfiles:  # Snakemake keeps the last of a key that stands twice
        read_config(file)
    PLAN = open_plan(config)
    if workflow.is_main_process:
        at_work = presence.announce("snakemake", shlex.join(["snakemake", *sys.argv[1:]]))
        for other in presence.take_over():
            print(f"saeworks: another Snakemake is at work here: {other}; let it end before another makes the same files.", file=sys.stderr)
        if at_work:
            exported += f"export {presence.VARIABLE}={shlex.quote(str(at_work))}; "
except Exception as error:
    raise SystemExit(report_fault(error)) from None

shell.prefix(exported.replace("{", "{{").replace("}", "}}"))

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
    """An input function: what a job reads. `job` is its name, or the name for its wildcards.

    Snakemake passes over an exception, and over an input that is missing, where a result is there; only this ends it.
    """

    def files(wildcards):
        try:
            found, changed = PLAN.inputs(job(wildcards) if callable(job) else job)
        except Exception as error:
            raise SystemExit(report_fault(error)) from None
        return found if changed else [*map(ancient, found)]

    return files


def identity(job):
    """A parameter: what a job is asked for."""
    return lambda wildcards: PLAN.asked(PLAN.identity_json(job(wildcards) if callable(job) else job))


def spec(job, block):
    """A parameter: one block of a job's settings."""
    return lambda wildcards: PLAN.asked(PLAN.spec(job(wildcards) if callable(job) else job, block))
