"""Every key of an experiment, changed alone, makes stale what depends on it and nothing else."""

from __future__ import annotations

import functools
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from tests.each import each

from saeworks.config.experiment import Experiment, parse_experiment
from saeworks.config.recipes import settings_without_effect
from saeworks.config.training import TrainingConfig
from saeworks.studies import figures, studies

from .experiment import experiment

_NOTEBOOKS = {"notebook/braun2024", "notebook/gurnee2024"}
_NO_EFFECT = {"preset"}  # a name for other keys
_NO_BYTES = {"training.checkpoint_every", "activations.shard_tokens"}  # how a result is reached, not what it is
_VALUES = {  # where the next value of the type would not do
    "model.name": "other",
    "model.path": None,  # another model
    "corpus.context": 32,
    "corpus.source": None,
    "experiment": None,  # a second experiment
    "train_together": None,  # trains what is missing
    "draw": None,  # leaves out figures
    "studies.fidelity.n_tokens": 512,
    "studies.agreement.files": None,  # another study
    "studies.rates.choose": None,  # likewise
    "studies.spliced.sets": None,
    "studies.texts.files": None,
    "studies.errors.n_tokens": 256,
    "studies.errors.interventions": ["sae", "random"],
    "studies.errors.lengths": [0.5],
    "studies.errors.cosines": [0.5],
    "training.architecture": "gated",
    "training.batch_tokens": 512,
    "training.dead_features": "none",
    "training.dead_window_tokens": 1536,
    "training.decoder": "renormalised",
    "training.downstream_hook_points": ["blocks.2.hook_mlp_out"],
    "training.matryoshka_fractions": [0.25, 0.75],
    "training.penalty": "tanh",
    "training.n_tokens": 3072,
    "training.precision": "bf16",
    "training.resample_tokens": [1024],
    "training.auxk_k": 3,
    "training.decoder_bias_init": "zero",
    "training.decoder_init_norm": 0.5,
    "training.mse_norm": "variance",
}


def _other(key: str, annotation: Any, current: Any) -> Any:
    """Another value of the type, or None where there is none that would do."""
    if key in _VALUES:
        return _VALUES[key]
    if typing.get_origin(annotation) is typing.Annotated:
        return _other(key, typing.get_args(annotation)[0], current)
    options = [option for option in typing.get_args(annotation) if option is not type(None)]
    if typing.get_origin(annotation) is typing.Literal:
        return next((option for option in options if option != current), None)
    if typing.get_origin(annotation) is dict:
        return {next(iter(current), "local"): "#123456"}
    if len(options) == 1:
        return _other(key, options[0], current)
    if annotation is bool:
        return not current
    if annotation is int:
        return 7 if current is None else current + 1
    if annotation is float:
        return 0.7 if current is None else (current * 0.9 if current else 0.1)
    raise TypeError(f"{key}: {annotation!r}")


def _keys(values: BaseModel, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted keys of a parsed experiment with their type and value; run groups and `training` apart."""
    for name, field in type(values).model_fields.items():
        key, value = f"{path}{name}", getattr(values, name)
        if isinstance(value, BaseModel) and key != "training":
            yield from _keys(value, f"{key}.")
        elif key not in ("runs", "training"):
            annotation = field.annotation if not field.metadata else typing.Annotated[(field.annotation, *field.metadata)]
            yield key, annotation, value


@functools.cache
def _mutations() -> dict[str, dict[str, Any]]:
    """For each key, where it is written in the file and its other value."""
    parsed = parse_experiment(experiment())
    found: dict[str, dict[str, Any]] = {}
    for key, annotation, value in _keys(parsed):
        if (other := _other(key, annotation, value)) is not None:
            found[key] = {key: other}
    settings = {spec.group: spec for spec in parsed.run_specs()}
    for name, field in TrainingConfig.model_fields.items():
        users = [g for g, s in settings.items() if name not in settings_without_effect(s.objective, s.training.model_dump())]
        if name not in _NO_EFFECT:
            user = next(group for group in users if group != "finetune")
            value = _other(f"training.{name}", field.annotation, getattr(settings[user].training, name))
            found[f"training.{name}"] = {f"runs.{user}.training.{name}": value}
    return found | {
        "runs.sparsity_coeffs": {"runs.e2e_ds.sparsity_coeffs": [0.2]},
        "runs.k": {"runs.topk.k": [5]},
        "runs.seeds": {"runs.gated.seeds": [3]},
        "runs.hook_points": {"runs.gated.hook_points": ["blocks.2.hook_resid_pre"]},
        "runs.objective": {"runs.topk.objective": "local"},
    }


def _figures_of(parsed: Experiment, tables: set[str]) -> set[str]:
    return {f"figure/{name}" for name in parsed.figure_names() if tables & set(figures()[name][1].reads)}


def _after_study(parsed: Experiment, study: str) -> set[str]:
    """Stages and jobs that follow a study, itself included: its tables, the studies that read them, figures, claims, notebooks."""
    later, known = {study}, parsed.study_names()
    while more := {
        n for n in known if n not in later and {t for s in later for t in studies()[s].tables} & set(studies()[n].reads)
    }:
        later |= more
    found = {f"{stage}/{name}" for name in later for stage in ("measure", "gather") if studies()[name].tables}
    return found | _figures_of(parsed, {t for s in later for t in studies()[s].tables}) | {"claims", *_NOTEBOOKS}


def _expected(key: str, before: Experiment, after: Experiment) -> set[str]:
    """Stages, or figures and studies, that a change of `key` makes stale."""
    block, *rest = key.split(".")
    if key in _NO_BYTES:
        return {"activation_cache"} if block == "activations" else set()  # another folder, filled when it is needed
    if block == "figures":
        study = figures()[rest[0]][0]
        return {f"figure/{rest[0]}"} | (set() if study.wall_clock else {f"notebook/{study.notebook or 'braun2024'}"})
    if block == "studies":
        return _after_study(after, rest[0])
    found = {"train"}.union(*(_after_study(after, study) for study in after.study_names()))
    if key == "activations.source":
        return found
    if block in ("model", "corpus", "activations") or after.hook_points() != before.hook_points():
        found |= {"activation_cache"}
    if block in ("model", "corpus"):
        found |= {"corpus"}
    return found | ({"language_model"} if block == "model" else set())


def _trained(before: Experiment, after: Experiment) -> int:
    """Runs whose settings are new, or those of the run that they continue."""
    known = {(spec.hook_point, spec.name): spec for spec in before.run_specs()}
    specs = {(spec.hook_point, spec.name): spec for spec in after.run_specs()}
    new = {at for at, spec in specs.items() if known.get(at) != spec}
    return len(new | {at for at, spec in specs.items() if (at[0], spec.start_from) in new})


def _part(job: str) -> str:
    """A job as `_expected` has it: stage alone, or stage and study or figure."""
    stage, *rest = job.split("/")
    return f"{stage}/{rest[0]}" if stage in ("measure", "gather", "figure", "notebook") else stage


def test_every_key_is_changed_or_has_a_reason():
    left = {key for key, _, _ in _keys(parse_experiment(experiment()))} | {
        f"training.{name}" for name in TrainingConfig.model_fields
    }
    left -= set(_mutations()) | {"model.source"}  # another source has other keys
    assert left == {key for key, value in _VALUES.items() if value is None and key in left} | {
        f"training.{k}" for k in _NO_EFFECT
    }


def test_nothing_is_stale_in_what_was_just_made(stale):
    assert stale({}) == set()


@each("block", sorted({key.split(".")[0] for key in _mutations()}))
def test_a_key_makes_stale_what_depends_on_it_and_nothing_else(stale, block):
    before = parse_experiment(experiment())
    for key, changes in _mutations().items():
        if key.split(".")[0] != block:
            continue
        after, found = parse_experiment(experiment(changes)), stale(changes)
        assert {_part(job) for job in found} == _expected(key, before, after), key
        trained = sum(job.startswith("train/") for job in found)
        evaluated = sum(job.startswith("measure/fidelity/") for job in found)
        if trained:
            everything = block in ("model", "corpus", "activations")
            assert trained == evaluated == (len(after.run_specs()) if everything else _trained(before, after)), key
