"""The blocks `studies` and `figures` of an experiment file, built from the folders of `saeworks.studies`.

The one place where configuration looks at studies: at what they declare, which is as light as a configuration model.
"""

from __future__ import annotations

from pydantic import Field, create_model

from ..studies import figures, studies
from .base import Frozen


def _block(name: str, doc: str, members: dict[str, tuple[type[Frozen], str]]) -> type[Frozen]:
    """A block with one block per member, each with defaults; `members` gives its model and description."""
    fields = {key: (model, Field(default_factory=model, description=text)) for key, (model, text) in members.items()}
    return create_model(name, __base__=Frozen, __doc__=doc, __module__=__name__, **fields)


def _first_sentence(model: type[Frozen]) -> str:
    return " ".join((model.__doc__ or "").split("\n\n")[0].split())


StudiesConfig = _block(
    "StudiesConfig",
    "One block per study that has settings.",
    {name: (study.settings, study.description) for name, study in studies().items() if study.settings is not None},
)
FiguresConfig = _block(
    "FiguresConfig",
    "One block per figure.",
    {name: (settings, _first_sentence(settings)) for name, (_, settings) in figures().items()},
)
