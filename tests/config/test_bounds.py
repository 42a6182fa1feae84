"""Every number of a configuration has a range: a size that no machine has is an error before anything is allocated."""

from __future__ import annotations

import math
import typing
from collections.abc import Iterator

import pytest
from pydantic import BaseModel
from tests.each import each

from saeworks.config.architectures import ARCHITECTURES
from saeworks.config.base import Frozen, parse
from saeworks.config.corpus import SampledCorpus
from saeworks.config.experiment import Experiment
from saeworks.config.pretrain import PretrainConfig
from saeworks.store.errors import UserError


def _settings(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for below in model.__subclasses__():
        if below.__module__.startswith("saeworks."):
            yield from _settings(below)


def _numbers(annotation: typing.Any, limits: tuple = ()) -> Iterator[tuple[type, tuple]]:
    """The numbers in an annotation, each with the limits that stand beside it."""
    if typing.get_origin(annotation) is typing.Annotated:
        inner, *further = typing.get_args(annotation)
        yield from _numbers(inner, (*limits, *(one for item in further for one in getattr(item, "metadata", [item]))))
    elif annotation in (int, float):
        yield annotation, limits
    elif typing.get_origin(annotation) is not typing.Literal:
        inside = typing.get_origin(annotation) in (list, dict, tuple)
        for argument in typing.get_args(annotation):
            yield from _numbers(argument, () if inside else limits)


def test_every_whole_number_has_a_lower_and_an_upper_bound_and_no_number_is_infinite():
    options = {facts.options for facts in ARCHITECTURES.values()}  # and not those that other tests made up
    known = {model for model in _settings(Frozen) if model.__name__ != "Options"} | options
    assert Experiment in known
    assert len(known) > 50
    found, open_ended = 0, []
    for model in known:
        assert model.model_config["allow_inf_nan"] is False and model.model_config["extra"] == "forbid", model
        for name, field in model.model_fields.items():
            for kind, limits in _numbers(field.annotation, tuple(field.metadata)):
                lower, upper = (
                    any(hasattr(limit, key) for limit in limits for key in pair) for pair in (("ge", "gt"), ("le", "lt"))
                )
                found += 1
                if kind is int and not (lower and upper):
                    open_ended.append(f"{model.__name__}.{name}")
    assert found > 150
    assert not open_ended


@each("value", [math.inf, -math.inf, math.nan, 10**16, 1e16, "1e16", 2**32])
def test_a_number_beyond_all_is_one_sentence(value):
    with pytest.raises(UserError, match="`corpus.seed` is"):
        parse(SampledCorpus, {"seed": value}, "corpus")


_TEXTS = {"train_text": "a.txt", "val_text": "b.txt", "source": "a book"}


def test_the_width_of_a_model_is_shared_by_its_heads():
    assert parse(PretrainConfig, {**_TEXTS, "d_model": 48, "n_heads": 3}).d_model == 48
    with pytest.raises(
        UserError, match=r"`pretrain`: `d_model` is 48, which `n_heads` \(5\) does not divide; change one of them"
    ):
        parse(PretrainConfig, {**_TEXTS, "d_model": 48, "n_heads": 5}, "pretrain")
