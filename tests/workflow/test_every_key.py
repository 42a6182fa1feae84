"""Every key of an experiment, changed alone, reruns what depends on it and nothing else."""

from __future__ import annotations

import ast
import copy
import json
import shutil
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from saeworks.config.experiment import Experiment, parse_experiment
from saeworks.config.recipes import settings_without_effect
from saeworks.config.training import TrainingConfig

from .conftest import REPOSITORY, TINY, planned, snakemake

pytestmark = pytest.mark.slow

_HOOK = "blocks.1.hook_resid_pre"
_GROUPS = {  # every training setting has an effect on one of them, and every figure something to show
    "local": {
        "objective": "local",
        "sparsity_coeffs": [0.5],
        "seeds": [0, 1],
        "training": {"penalty": "lp", "schedule": "linear_tail", "dead_features": "resample", "activation_scale": "norm"},
    },
    "gated": {"objective": "local", "sparsity_coeffs": [0.5], "training": {"architecture": "gated", "penalty": "tanh"}},
    "jumprelu": {"objective": "local", "sparsity_coeffs": [0.5], "training": {"architecture": "jumprelu"}},
    "topk": {"objective": "e2e", "k": [4], "training": {"architecture": "topk", "dead_features": "auxk"}},
    "matryoshka": {"objective": "local", "k": [4], "training": {"architecture": "matryoshka_batch_topk"}},
    "e2e_ds": {"objective": "e2e_ds", "sparsity_coeffs": [0.1]},
    "fast": {"objective": "e2e_ds", "sparsity_coeffs": [0.1], "training": {"lr": 0.01}},
    "wide": {"objective": "e2e_ds", "sparsity_coeffs": [0.1], "training": {"d_sae": 96}},
    "short": {"objective": "e2e_ds", "sparsity_coeffs": [0.1], "training": {"n_tokens": 2048}},
    "near": {"objective": "e2e_ds", "sparsity_coeffs": [0.1], "training": {"downstream_next": 1}},
    "mixed": {"objective": "e2e_ds", "sparsity_coeffs": [0.1], "training": {"reconstruction_coeff": 0.5}},
    "finetune": {"objective": "finetune", "start_from": "local", "sparsity_coeffs": [0.5], "training": {"n_tokens": 2048}},
}
_ITEMS = "agreement.jsonl"
_NO_EFFECT = {"preset"}  # a name for other keys
_VALUES = {  # where the next value of the type would not do
    "model.name": "other",
    "model.path": None,  # another model: `test_dag`
    "model.trust_remote_code": None,
    "corpus.source": None,
    "corpus.context": 32,
    "experiment": None,  # a second experiment: `test_dag`
    "train_together": None,  # trains what is missing
    "draw": None,  # leaves out figures
    "evaluation.n_tokens": 512,
    "agreement.files": None,  # another study
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


def _base() -> dict[str, Any]:
    values = yaml.safe_load(TINY.read_text())
    values["training"] |= {"n_tokens": 4096, "dead_window_tokens": 1024}
    del values["draw"]
    values["agreement"] = {"files": {"simple": _ITEMS}}
    values["runs"] = {name: {"hook_points": [_HOOK], **copy.deepcopy(group)} for name, group in _GROUPS.items()}
    return values


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
        return {next(iter(current)): "#123456"}
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


def _mutations() -> dict[str, list[tuple[str, Any]]]:
    """Where each key is written in the file, and its other value; those of one figure together, which its own tests tell apart."""
    experiment = parse_experiment(_base())
    found: dict[str, list[tuple[str, Any]]] = {}
    for key, annotation, value in _keys(experiment):
        if (other := _other(key, annotation, value)) is not None:
            found.setdefault(".".join(key.split(".")[:2]) if key.startswith("figures.") else key, []).append((key, other))
    settings = {spec.group: spec for spec in experiment.run_specs()}
    for name, field in TrainingConfig.model_fields.items():
        users = [g for g, s in settings.items() if name not in settings_without_effect(s.objective, s.training.model_dump())]
        if name not in _NO_EFFECT:
            user = next(group for group in users if group != "finetune")
            value = _other(f"training.{name}", field.annotation, getattr(settings[user].training, name))
            found[f"training.{name}"] = [(f"runs.{user}.training.{name}", value)]
    return found | {
        "runs.sparsity_coeffs": [("runs.e2e_ds.sparsity_coeffs", [0.2])],
        "runs.k": [("runs.topk.k", [5])],
        "runs.seeds": [("runs.gated.seeds", [3])],
        "runs.hook_points": [("runs.gated.hook_points", ["blocks.2.hook_resid_pre"])],
        "runs.objective": [("runs.topk.objective", "local")],
    }


def _changed(values: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *parents, last = path.split(".")
    block = values
    for key in parents:
        block = block.setdefault(key, {})
    block[last] = value
    return values


def _figure_tables() -> dict[str, list[str]]:
    """The tables that each figure reads, as `figures.smk` lists them."""
    source = (REPOSITORY / "workflow" / "rules" / "figures.smk").read_text()
    literal = source.split("FIGURE_RULES = ", 1)[1].split("\n}\n", 1)[0] + "\n}"
    return {name: tables for name, (tables, _) in ast.literal_eval(literal).items()}


def _figures_of(experiment: Experiment, tables: set[str] | None = None) -> set[str]:
    """Figures that the experiment has, or those of them that read one of `tables`."""
    wanted = set(experiment.figures.wanted(experiment.run_specs(), experiment.studies())) - {"wall_clock"}
    return {name for name, read in _figure_tables().items() if name in wanted and (tables is None or tables & set(read))}


_GEOMETRY = {"geometry", "nearest", "matching", "matching_features"}
_TIMES = {"timing", "wall_clock"}


def _expected(key: str, before: Experiment, after: Experiment) -> dict[str, int] | set[str]:
    """Rules that a change of `key` must rerun; the number of training and evaluation jobs among them."""
    block, *rest = key.split(".")
    studies = after.studies()
    study_rules = {rule for name in studies for rule in (name, f"{name}_tables")}
    after_tables = {"geometry", "geometry_tables", "braun2024"} | study_rules | _figures_of(after)
    if block == "figures":
        return {"wall_clock"} if rest[0] == "wall_clock" else {rest[0], "braun2024"}
    if block == "geometry":
        return {"geometry", "geometry_tables", "braun2024"} | _figures_of(after, _GEOMETRY)
    if block in studies:
        return {block, f"{block}_tables", "braun2024"} | _figures_of(after, set(studies[block].tables))
    if block == "evaluation":
        return {"evaluate", "tables", *after_tables, *_TIMES}
    rules = {"train", "evaluate", "tables", *after_tables, *_TIMES}
    new_activations = block in ("model", "corpus", "activations") or after.hook_points() != before.hook_points()
    if new_activations and after.activations.source == "cache":
        rules |= {"activation_cache"}
    if block in ("model", "corpus"):
        rules |= {"corpus"}
    return rules | ({"language_model"} if block == "model" else set())


def _trained(before: Experiment, after: Experiment) -> int:
    """Runs whose settings are new, or those of the run that they continue."""
    known = {(spec.hook_point, spec.name): spec for spec in before.run_specs()}
    specs = {(spec.hook_point, spec.name): spec for spec in after.run_specs()}
    new = {at for at, spec in specs.items() if known.get(at) != spec}
    return len(new | {at for at, spec in specs.items() if (at[0], spec.start_from) in new})


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, finished: Path) -> tuple[Path, Path]:
    """A folder in which the experiment of this file was run, and its file."""
    folder = tmp_path_factory.mktemp("every-key")
    shutil.copytree(finished / "model", folder / "model")
    item = {"clean_prefix": "The dog", "patch_prefix": "The dogs", "clean_answer": " is", "patch_answer": " are"}
    (folder / _ITEMS).write_text(f"{json.dumps(item)}\n" * 8)
    config = folder / "base.yaml"
    config.write_text(yaml.safe_dump(_base(), sort_keys=False))
    snakemake(folder, config=config)
    assert planned(snakemake(folder, "-n", config=config)) == {}
    return folder, config


def test_every_key_is_changed_or_has_a_reason():
    left = {key for key, _, _ in _keys(parse_experiment(_base()))} | {f"training.{name}" for name in TrainingConfig.model_fields}
    left -= {key for mutations in _mutations().values() for key, _ in mutations} | {
        "model.source"
    }  # another source has other keys
    left -= {key for key in _mutations() if key.startswith("training.")}
    assert left == {key for key, value in _VALUES.items() if value is None and key in left} | {
        f"training.{k}" for k in _NO_EFFECT
    }


@pytest.mark.parametrize("key", list(_mutations()))
def test_a_key_reruns_what_depends_on_it_and_nothing_else(done, tmp_path, key):
    folder, _ = done
    values = _base()
    for path, value in _mutations()[key]:
        values = _changed(values, path, value)
    before, after = parse_experiment(_base()), parse_experiment(values)
    config = tmp_path / "changed.yaml"
    config.write_text(yaml.safe_dump(values, sort_keys=False))
    jobs = planned(snakemake(folder, "-n", config=config))
    assert set(jobs) == _expected(key, before, after)
    if "train" in jobs:
        everything = key.split(".")[0] in ("model", "corpus", "activations")
        assert jobs["train"] == jobs["evaluate"] == (len(after.run_specs()) if everything else _trained(before, after))
