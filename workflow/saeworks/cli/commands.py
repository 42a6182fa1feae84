"""The list of commands. Everything else about a command is read from its function."""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """A function of the package, as `module:function`, that is a command.

    The command of a `stage` may keep a record of what its result depends on (`--record`, `--identity`). One that `computes` with
    torch takes the number of threads, and the device if its function does.
    """

    target: str
    stage: bool = True
    computes: bool = True


def _for_people(target: str) -> Command:
    return Command(target, stage=False, computes=False)


COMMANDS = {
    "new": _for_people("cli.new:new"),
    "runs": _for_people("cli.runs:runs"),
    "claims": _for_people("figures.verdicts:print_claims"),
    "export": _for_people("export:main"),
    "document": _for_people("config.document:main"),
    "novels": Command("lm.novels:main", computes=False),
    "pretrain": Command("lm.pretrain:pretrain_from_json"),
    "prepare": Command("lm.prepare:main"),
    "corpus": Command("lm.shared_corpus:main"),
    "cache": Command("activations.cache:main"),
    "train": Command("training.run:main"),
    "evaluate": Command("measures.evaluation:main"),
    "collect": Command("measures.collect:main", computes=False),
    "geometry": Command("measures.geometry:main"),
    "join": Command("measures.geometry:join", computes=False),
    "pca": Command("measures.pca:main"),
    "firing": Command("measures.firing:main"),
    "agreement": Command("measures.agreement:main"),
    "embedding": Command("measures.embedding:main"),
    "agreement-data": Command("measures.agreement_data:main", computes=False),
    "join-study": Command("measures.studies:join", computes=False),
    "timing": Command("measures.timing:main", computes=False),
    "figure": Command("draw:figure", computes=False),
    "notebook": Command("figures.notebook:main", computes=False),
}
