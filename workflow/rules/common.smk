# Rules ask the plan (`saeworks.plan`) what there is, where it lies, what it depends on and whether it is current. Snakemake goes by
# times: so all inputs of an unchanged job are `ancient`, and a changed one whose results are there has an input that is new.
# Results are declared with `update`, so that Snakemake does not delete them before a job, and brings them back if it fails; but not
# prepared models and caches, whose further files it does not know.
import shutil

from saeworks.cli.workflow import SHELL_PREFIX, begin, of_job
from saeworks.store.notebooks import notebook_title

PLAN = begin(config, workflow.configfiles, workflow.is_main_process)
LOGS = f"logs/{PLAN.name}"
# a counter that keeps jobs from sharing a GPU; 0 on a machine without one, so that CPU jobs run side by side
GPU = int(not workflow.local_exec or shutil.which("nvidia-smi") is not None)
shell.prefix(SHELL_PREFIX)


wildcard_constraints:
    hook_point=r"[A-Za-z0-9_.]+",
    run=r"[A-Za-z0-9_.+-]+",


def at(wildcards):  # run or hook point of a job
    return "/".join(wildcards)


def reads(job):  # its inputs
    def files(name):
        found, changed = PLAN.inputs(name)
        return found if changed else [*map(ancient, found)]

    return of_job(job, files)


def identity(job):  # what it is asked for
    return of_job(job, lambda name: PLAN.asked(PLAN.identity_json(name)))


def spec(job, block):  # one block of its settings
    return of_job(job, lambda name: PLAN.asked(PLAN.spec(name, block)))
