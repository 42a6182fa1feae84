"""The experiment file: every error sentence, the expansion into runs, and what the folder names depend on."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from saeworks.config.experiment import PretrainExperiment, parse_experiment
from saeworks.config.training import RunSpec
from saeworks.store.errors import UserError

_SMALL = {
    "experiment": "small",
    "model": {"source": "own", "name": "novels-1m"},
    "corpus": {"source": "sampled", "context": 128},
    "training": {"d_sae": 64, "n_tokens": 8192, "batch_tokens": 1024},
    "runs": {
        "local": {"objective": "local", "hook_points": ["blocks.4.hook_resid_pre"], "sparsity_coeffs": [1, 3]},
        "e2e": {"objective": "e2e", "hook_points": ["blocks.4.hook_resid_pre"], "sparsity_coeffs": [1]},
    },
}
_TEXT = {"source": "text", "files": ["a.txt"]}
_HUB = {"source": "hub", "name": "owner/corpus"}


def _changed(path: str, value: Any) -> dict[str, Any]:
    """`_SMALL` with one key set, or removed where `value` is `...`."""
    values = copy.deepcopy(_SMALL)
    *parents, last = path.split("/")
    block = values
    for parent in parents:
        block = block.setdefault(parent, {})
    if value is ...:
        del block[last]
    else:
        block[last] = value
    return values


_NAME = "string should match pattern '^[A-Za-z0-9][A-Za-z0-9._-]*$'"
_ADD = "is missing; add it (see config/README.md)."

_FAULTS = [
    # unknown keys, at every depth and through unions
    ("trainning", {}, "unknown configuration key `trainning` (did you mean 'training'?)."),
    ("training/dsae", 3, "unknown configuration key `training.dsae` (did you mean 'd_sae'?)."),
    ("model/nmae", 3, "unknown configuration key `model.nmae` (did you mean 'name'?)."),
    ("model/path", "a", "unknown configuration key `model.path` (known here: name, processing, source)."),
    ("model/processing/fold", 1, "unknown configuration key `model.processing.fold` (did you mean 'fold_ln'?)."),
    ("runs/local/seds", [0], "unknown configuration key `runs.local.seds` (did you mean 'seeds'?)."),
    ("runs/local/training/lrr", 3, "unknown configuration key `runs.local.training.lrr` (did you mean 'lr'?)."),
    ("figures/pareto/colour", "red", "unknown configuration key `figures.pareto.colour` (did you mean 'colors'?)."),
    # missing keys
    ("experiment", ..., f"configuration key `experiment` {_ADD}"),
    ("model/name", ..., f"configuration key `model.name` {_ADD}"),
    ("model/source", ..., f"configuration key `model.source` {_ADD}"),
    ("corpus", {"source": "text"}, f"configuration key `corpus.files` {_ADD}"),
    ("runs/local/objective", ..., f"configuration key `runs.local.objective` {_ADD}"),
    # a choice among names
    (
        "model/source", "hubb",
        "configuration key `model.source` is 'hubb'; it must be one of hub, path, own (did you mean 'hub'?).",
    ),
    (
        "runs/local/objective", "locl",
        "configuration key `runs.local.objective` is 'locl'; it must be one of local, e2e, e2e_ds (did you mean 'local'?).",
    ),
    (
        "activations/dtype", "int8",
        "configuration key `activations.dtype` is 'int8'; it must be one of float32, float16, bfloat16.",
    ),
    # values
    (
        "training/d_sae", "big",
        "configuration key `training.d_sae` is 'big': input should be a valid integer, unable to parse string as an integer.",
    ),
    ("training/warmup_fraction", 2, "configuration key `training.warmup_fraction` is 2: input should be less than 1."),
    ("training/lr", float("nan"), "configuration key `training.lr` is nan: input should be a finite number."),
    ("training/grad_clip", 0, "configuration key `training.grad_clip` is 0: input should be greater than 0."),
    ("runs/local/training", {"lr": -1}, "configuration key `runs.local.training.lr` is -1: input should be greater than 0."),
    ("runs/local/seeds", [0, -1], "configuration key `runs.local.seeds.1` is -1: input should be greater than or equal to 0."),
    (
        "runs/local/sparsity_coeffs", [],
        "configuration key `runs.local.sparsity_coeffs` is []: list should have at least 1 item after validation, not 0.",
    ),
    ("corpus", {"source": "text", "files": [3]}, "configuration key `corpus.files.0` is 3: input should be a valid string."),
    ("figures/pareto/colors", {"e2e": 3}, "configuration key `figures.pareto.colors.e2e` is 3: input should be a valid string."),
    ("experiment", "a/b", f"configuration key `experiment` is 'a/b': {_NAME}."),
    # settings that contradict each other
    ("runs/local/seeds", [0, 0], "configuration block `runs`: `local.seeds` lists a value twice."),
    (
        "runs/local/training", {"kl_coeff": 3},
        "`runs.local.training.kl_coeff` has no effect on objective `local`; remove it.",
    ),
    (
        "runs/e2e/training", {"downstream_layers": [5]},
        "`runs.e2e.training.downstream_layers` has no effect on objective `e2e`; remove it.",
    ),
    (
        "runs/e2e/training", {"batch_tokens": 100},
        "`batch_tokens` of group `e2e` is 100, but objective `e2e` reads whole rows: "
        "make it a multiple of `corpus.context` (128).",
    ),
    (
        "runs/local/training", {"n_tokens": 100},
        "`n_tokens` of group `local` is 100, less than one batch of 1024 (`batch_tokens`); raise it.",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "sentence"), _FAULTS, ids=[sentence[:70] for _, _, sentence in _FAULTS])
def test_a_fault_is_one_sentence_with_the_key_the_value_and_the_mend(path, value, sentence):
    with pytest.raises(UserError) as caught:
        parse_experiment(_changed(path, value))
    assert str(caught.value) == sentence


@pytest.mark.parametrize("value", [None, 3, "text", [1]])
@pytest.mark.parametrize("key", ["training", "model", "corpus", "runs", "figures"])
def test_a_block_that_is_no_block_is_named(key, value):
    with pytest.raises(UserError, match=rf"^configuration key `{key}` is .*: input should be a valid dictionary.*\.$"):
        parse_experiment(_changed(key, value))


def test_a_local_group_may_have_batches_that_are_not_whole_rows():
    (spec, *_) = parse_experiment(_changed("runs/local/training", {"batch_tokens": 100})).run_specs()
    assert spec.training.batch_tokens == 100


def test_runs_are_the_grid_of_each_group_in_the_order_of_the_file():
    group = {
        "objective": "e2e_ds",
        "hook_points": ["blocks.6.hook_resid_pre", "blocks.2.hook_resid_pre"],
        "sparsity_coeffs": [3, 0.5],
        "seeds": [1, 0],
    }
    experiment = parse_experiment(_SMALL | {"runs": {"later": group, "first": _SMALL["runs"]["local"]}})
    specs = experiment.run_specs()
    grid = [
        (hook_point, coeff, seed)
        for hook_point in ("blocks.6.hook_resid_pre", "blocks.2.hook_resid_pre")
        for coeff in (3.0, 0.5)
        for seed in (1, 0)
    ]
    assert [(s.hook_point, s.sparsity_coeff, s.seed) for s in specs[:8]] == grid
    assert [s.name for s in specs[:4]] == ["later-c3-s1", "later-c3-s0", "later-c0.5-s1", "later-c0.5-s0"]
    assert {(s.group, s.objective) for s in specs[:8]} == {("later", "e2e_ds")}
    assert [s.name for s in specs[8:]] == ["first-c1-s0", "first-c3-s0"]
    assert experiment.hook_points() == ["blocks.6.hook_resid_pre", "blocks.2.hook_resid_pre", "blocks.4.hook_resid_pre"]


def test_a_group_overrides_the_training_block_for_itself_only():
    experiment = parse_experiment(_changed("runs/local/training", {"lr": 0.25, "grad_clip": None}))
    local, e2e = experiment.run_specs()[0].training, experiment.run_specs()[-1].training
    assert e2e == experiment.training
    assert local.model_dump() == experiment.training.model_dump() | {"lr": 0.25, "grad_clip": None}


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("lr: 5e-4\nn_tokens: 2_000_000\n")
    experiment = parse_experiment(_SMALL | {"training": yaml.safe_load(file.read_text())})
    assert (experiment.training.lr, experiment.training.n_tokens) == (5e-4, 2_000_000)


_GPT2 = {"source": "hub", "name": "gpt2"}


@pytest.mark.parametrize("change", [("corpus", _TEXT), ("corpus", _HUB), ("model", _GPT2), ("training/lr", 0.1)])
def test_a_round_trip_through_json_gives_an_equal_experiment_and_equal_runs(change):
    experiment = parse_experiment(_changed(*change))
    again = parse_experiment(json.loads(json.dumps(experiment.model_dump())))
    assert again == experiment
    assert (again.model_key(), again.activations_key()) == (experiment.model_key(), experiment.activations_key())
    for spec in experiment.run_specs():
        assert RunSpec.model_validate_json(spec.model_dump_json()) == spec


def test_settings_cannot_be_changed_after_parsing():
    experiment = parse_experiment(_SMALL)
    with pytest.raises(ValueError, match="frozen"):
        experiment.training.lr = 1.0


def _keys(values: dict[str, Any]) -> tuple[str, str, str]:
    experiment = parse_experiment(values)
    return experiment.model_key(), experiment.corpus_key(), experiment.activations_key()


@pytest.mark.parametrize(
    ("path", "value", "changes"),
    [
        ("model/name", "other", (True, True, True)),
        ("model/processing/fold_ln", False, (True, True, True)),
        ("corpus/n_tokens", 4096, (False, True, True)),
        ("corpus/eval_tokens", 4096, (False, True, True)),
        ("corpus/context", 64, (False, True, True)),
        ("corpus/seed", 1, (False, True, True)),
        ("corpus/temperature", 0.5, (False, True, True)),
        ("corpus", _TEXT, (False, True, True)),
        ("activations/dtype", "float16", (False, False, True)),
        ("activations/seed", 1, (False, False, True)),
        ("activations/block_rows", 8, (False, False, True)),
        ("activations/source", "stream", (False, False, False)),  # the same rows in the same order
        ("experiment", "other", (False, False, False)),
        ("training/lr", 0.1, (False, False, False)),
        ("runs/local/hook_points", ["blocks.2.hook_resid_pre"], (False, False, False)),
        ("evaluation/n_tokens", 1024, (False, False, False)),
        ("geometry/seed", 1, (False, False, False)),
        ("figures/pareto/dpi", 100, (False, False, False)),
    ],
)
def test_folder_names_change_with_what_the_artefact_depends_on_and_nothing_else(path, value, changes):
    before, after = _keys(_SMALL), _keys(_changed(path, value))
    assert tuple(a != b for a, b in zip(before, after, strict=True)) == changes


def test_the_corpus_of_files_is_named_after_its_files():
    keys = {_keys(_changed("corpus", _TEXT | {"files": files}))[1] for files in (["a.txt"], ["b.txt"], ["a.txt", "b.txt"])}
    assert len(keys) == 3


def test_spelling_out_a_default_changes_no_folder_name():
    assert _keys(_changed("activations/seed", 0)) == _keys(_SMALL)
    assert _keys(_changed("model/processing", {"fold_ln": True})) == _keys(_SMALL)


def test_folder_names_are_single_path_components_that_name_the_model():
    for key in _keys(_changed("model", {"source": "hub", "name": "owner/model"})):
        assert key.startswith("owner--model-")
        assert Path(key).name == key


def test_the_default_experiment_of_the_repository_is_valid():
    experiment = parse_experiment(yaml.safe_load((Path(__file__).parents[2] / "config" / "config.yaml").read_text()))
    names = [(spec.hook_point, spec.name) for spec in experiment.run_specs()]
    assert len(set(names)) == len(names) > 0


def test_a_pretraining_file_is_parsed_strictly():
    pretrain = {"train_text": "a.txt", "val_text": "b.txt", "source": "x"}
    assert PretrainExperiment(name="m", pretrain=pretrain).pretrain.n_layers == 8
    with pytest.raises(ValueError, match="extra"):
        PretrainExperiment(name="m", pretrain=pretrain | {"layers": 3})


def test_a_shared_setting_reaches_only_the_runs_that_use_it():
    plain = {spec.name: spec for spec in parse_experiment(_SMALL).run_specs()}
    changed = {
        spec.name: spec
        for spec in parse_experiment(_changed("training", _SMALL.get("training", {}) | {"kl_coeff": 0.25})).run_specs()
    }
    for name, spec in plain.items():
        assert (changed[name] == spec) == (spec.objective == "local")
