"""The list of commands. Everything else about a command is read from its function."""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """A function of the package, as `module:function`, that is a command.

    The command of a `stage` may keep a record of what its result depends on (`--record`, `--identity`). One that `computes` with
    torch takes the number of threads, and the device if its function does; `unless` names a function that says, from the positional
    arguments, whether this call does without torch, which is then not loaded.
    """

    target: str
    stage: bool = True
    computes: bool = True
    unless: str = ""


def _for_people(target: str) -> Command:
    return Command(target, stage=False, computes=False)


COMMANDS = {
    "new": _for_people("cli.new:new"),
    "runs": _for_people("cli.runs:runs"),
    "why": _for_people("plan.why:why"),
    "claims": _for_people("cli.claims:claims"),
    "export": _for_people("export:main"),
    "document": _for_people("config.document:main"),
    "novels": Command("lm.novels:main", computes=False),
    "pretrain": Command("lm.pretrain:pretrain_from_json"),
    "prepare": Command("lm.prepare:main"),
    "corpus": Command("lm.shared_corpus:main"),
    "cache": Command("activations.cache:main"),
    "train": Command("training.run:main"),
    "measure": Command("studies.measure:measure", unless="studies.measure:without_torch"),
    "gather": Command("studies.gather:gather", computes=False),
    "test-claims": Command("studies.claims:write_claims", computes=False),
    "agreement-data": Command("studies.agreement.data:download_items", computes=False),
    "figure": Command("studies.draw:figure", computes=False),
    "notebook": Command("studies.notebook:notebook", computes=False),
}
