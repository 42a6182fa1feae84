"""The experiment file: every error sentence, the expansion into runs, and what the folder names depend on."""

from __future__ import annotations

import copy
import itertools
import json
import reprlib
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.each import each
from tests.tiny_pipeline import tiny_decoder

from saeworks.config.architectures import ARCHITECTURES
from saeworks.config.base import parse, read_config
from saeworks.config.experiment import Experiment, PretrainExperiment, check_model, parse_experiment
from saeworks.config.recipes import PRESETS
from saeworks.config.training import Preset, RunSpec, TrainingConfig
from saeworks.lm.several import in_order
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
_HOOK = "blocks.4.hook_resid_pre"
_TUNED = {"objective": "finetune", "hook_points": [_HOOK], "sparsity_coeffs": [1], "start_from": "local"}
_PAIR = {"objective": "e2e", "hook_points": ["blocks.2.hook_mlp_out", _HOOK], "sparsity_coeffs": [1], "spliced": "together"}
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


_NAME = "folders are named after it, so use letters from A to Z, digits, `.`, `_` and `-`, beginning with a letter or digit, at most 64 of them"
_HOOKS = (
    "a hook point is `blocks.L.hook_resid_pre`, `blocks.L.hook_resid_post`, `blocks.L.hook_mlp_out`, `blocks.L.hook_attn_out` or "
    "`blocks.L.attn.hook_z`, with a block's number for L"
)
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
        "configuration key `runs.local.objective` is 'locl'; it must be one of local, e2e, e2e_ds, finetune, continued (did you mean 'local'?).",
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
        "`runs.local.training.kl_coeff` has no effect on objective `local` with architecture `relu`; remove it.",
    ),
    (
        "runs/e2e/training", {"downstream_hook_points": ["blocks.5.hook_resid_pre"]},
        "`runs.e2e.training.downstream_hook_points` has no effect on objective `e2e` with architecture `relu`; remove it.",
    ),
    (
        "runs/e2e/training", {"batch_tokens": 100},
        "`batch_tokens` of group `e2e` is 100, but its runs read whole rows: "
        "make it a multiple of `corpus.context` (128).",
    ),
    (
        "runs/local/training", {"n_tokens": 100},
        "`n_tokens` of group `local` is 100, less than one batch of 1024 (`batch_tokens`); raise it.",
    ),
    # recipes
    (
        "training/preset", "gao2025",
        "configuration key `training.preset` is 'gao2025'; it must be one of braun2024, bloom2024, gao2024, gated2024, "
        "anthropic-april2024, batchtopk2024 (did you mean 'gao2024' or 'gated2024'?).",
    ),
    (
        "runs/local/training", {"architecture": "top_k"},
        "configuration key `runs.local.training.architecture` is 'top_k'; it must be one of relu, topk, batch_topk, "
        "matryoshka_batch_topk, gated, jumprelu (did you mean 'topk'?).",
    ),
    (
        "runs/local/training", {"penalty": "l1", "tanh_scale": 2},
        "`runs.local.training.tanh_scale` has no effect on objective `local` with architecture `relu`, penalty `l1`; remove it.",
    ),
    (
        "runs/local/training", {"jumprelu_bandwidth": 0.1},
        "`runs.local.training.jumprelu_bandwidth` has no effect on objective `local` with architecture `relu`; remove it.",
    ),
    ("draw", ["paretto"], "configuration block `draw`: `draw` names the figure 'paretto', which does not exist (did you mean 'pareto'?)."),
    ("training/auxk_coeff", 0.1, "`training.auxk_coeff` has no effect on any run of this experiment; remove it."),
    ("training/downstream_next", 2, "`training.downstream_next` has no effect on any run of this experiment; remove it."),
    (
        "training/weight_ema", 1,
        "configuration key `training.weight_ema` is 1: input should be less than 1.",
    ),
    # sparsity
    ("runs/local/k", [4], "group `local` has architecture `relu`: set `sparsity_coeffs` and not `k`."),
    ("runs/local/sparsity_coeffs", ..., "group `local` has architecture `relu`: set `sparsity_coeffs` and not `k`."),
    (
        "runs/local/training", {"architecture": "topk"},
        "group `local` has architecture `topk`: set `k` and not `sparsity_coeffs`.",
    ),
    ("runs/local/k", [4, 4], "configuration block `runs`: `local.k` lists a value twice."),
    (
        "runs/topk", {"objective": "local", "hook_points": [_HOOK], "k": [64, 65], "training": {"architecture": "topk"}},
        "group `topk` asks for k = 65, more than its 64 features (`d_sae`); lower it.",
    ),
    (
        "runs/topk", {"objective": "local", "hook_points": [_HOOK], "k": [3], "training": {"architecture": "topk", "penalty": "l1"}},
        "`runs.topk.training.penalty` has no effect on objective `local` with architecture `topk`, penalty `l1`; remove it.",
    ),
    (
        "runs/local/training", {"penalty": "l0"},
        "`penalty` of group `local` is `l0`, which architecture `relu` does not have; choose among `l1`, `lp`, `l1_decoder_norm`, "
        "`tanh`.",
    ),
    (
        "runs/m",
        {
            "objective": "local", "hook_points": [_HOOK], "k": [3],
            "training": {"architecture": "matryoshka_batch_topk", "matryoshka_fractions": [0.5, 0.25]},
        },
        "configuration block `runs.m.training.matryoshka_fractions`: the shares add up to 0.75; make it 1.",
    ),
    (
        "runs/local/training", {"dead_features": "auxk"},
        "`dead_window_tokens` of group `local` is 100,000, so that no feature can be dead within its 8,192 training tokens and "
        "`dead_features: auxk` would do nothing; lower it.",
    ),
    (
        "runs/local/training", {"dead_features": "resample", "dead_window_tokens": 100, "resample_tokens": [100, 9000]},
        "`resample_tokens` of group `local` goes beyond its 8,192 training tokens (`n_tokens`), where it would do nothing; lower it.",
    ),
    (
        "runs/local/training", {"decoder": "free"},
        "group `local` penalises `l1` with `decoder: free`, where the decoder would grow instead of the codes; use `l1_decoder_norm` or "
        "`tanh`, or another `decoder`.",
    ),
    # end to end
    (
        "runs/ds",
        {
            "objective": "e2e_ds", "hook_points": [_HOOK], "sparsity_coeffs": [3],
            "training": {"downstream_hook_points": ["blocks.5.hook_resid_pre"], "downstream_next": 1},
        },
        "group `ds` sets both `downstream_hook_points` and `downstream_next`; keep one.",
    ),
    (
        "runs/e2e/training", {"kl_coeff": 0},
        "every coefficient of group `e2e` is 0, so that it would learn nothing; raise `kl_coeff`.",
    ),
    (
        "runs/local/hook_points", ["blocks.4.hook_resid_prae"],
        f"configuration key `runs.local.hook_points.0` is 'blocks.4.hook_resid_prae': {_HOOKS}.",
    ),
    (
        "runs/local/hook_points", ["blocks.१.hook_resid_pre"],
        f"configuration key `runs.local.hook_points.0` is 'blocks.१.hook_resid_pre': {_HOOKS}.",
    ),
    (
        "runs/local/hook_points", ["blocks.04.hook_resid_pre"],
        f"configuration key `runs.local.hook_points.0` is 'blocks.04.hook_resid_pre': {_HOOKS}.",
    ),
    # names that become folders
    *(
        ("experiment", name, f"configuration key `experiment` is {reprlib.repr(name)}: {_NAME}.")
        for name in ("", " a", "a b", "../a", ".a", "-a", "a\n", "é", "१", "a;b", "$(a)", "a" * 65)
    ),
    ("runs/a b", _SMALL["runs"]["local"], f"configuration key `runs.a b` is 'a b': {_NAME}."),
    (
        "model", {"source": "hub", "name": "a;touch pwned;"},
        "configuration key `model.name` is 'a;touch pwned;': a name on the Hugging Face hub is `name` or `owner/name`, each of at most 96 letters "
        "from A to Z, digits, `.`, `_` and `-`.",
    ),
    *(
        (
            "model", {"source": "hub", "name": name},
            f"configuration key `model.name` is {name!r}: a name on the Hugging Face hub is `name` or `owner/name`, each of at most 96 letters "
            "from A to Z, digits, `.`, `_` and `-`.",
        )
        for name in ("", "/etc", "../a", "a/../b", "./a", "a/", "a/b/c", "~/a", "a--b", "a\n")
    ),
    (
        "model", {"source": "hub", "name": "a", "revision": "../x"},
        "configuration key `model.revision` is '../x': a branch, tag or commit has letters from A to Z, digits, `.`, `_`, `-` and `/`.",
    ),
    (
        "corpus", {"source": "text", "files": ["a\0b"]},
        "configuration key `corpus.files.0` is 'a\\x00b': a path has a character at least, and neither braces, line breaks nor control characters.",
    ),
    # sizes
    *(
        (key, value, f"configuration key `{key.replace('/', '.')}` is {shown}: input should be {bound}.")
        for key, value, shown, bound in [
            ("training/d_sae", 10**9, "1000000000", "less than or equal to 16777216"),
            ("training/lr", 1e8, "100000000.0", "less than or equal to 10"),
            ("activations/batch_rows", 10**9, "1000000000", "less than or equal to 65536"),
            ("figures/pareto/dpi", 1, "1", "greater than or equal to 20"),
            ("figures/pareto/width", 1400, "1400", "less than or equal to 50"),
            ("figures/pareto/height", 0.01, "0.01", "greater than or equal to 0.5"),
            ("corpus/temperature", 1e-300, "1e-300", "greater than or equal to 0.001"),
        ]
    ),
    *(
        (key, value, f"configuration key `{key.replace('/', '.')}` is {reprlib.repr(value)}, but no number may exceed {largest}; check its exponent.")
        for key, value, largest in [
            ("training/d_sae", 10**20, "1e+15"),
            ("training/lr", 1e30, "1e+09"),
            ("training/lr", "1e30", "1e+09"),
            ("training/n_tokens", "1e99", "1e+15"),
        ]
    ),
    ("training/d_sae", True, "configuration key `training.d_sae` is true, where a number belongs; correct it."),
    ("runs/local/seeds", [False], "configuration key `runs.local.seeds.0` is false, where a number belongs; correct it."),
    ("runs/local/training", {"lr": True}, "configuration key `runs.local.training.lr` is true, where a number belongs; correct it."),
    ("training/d_sae", "1e-3", "configuration key `training.d_sae` is 0.001: input should be a valid integer, got a number with a fractional part."),
    (
        "figures/pareto", {"width": 50, "height": 50, "dpi": 1200},
        "figure `pareto` would have 60,000 × 60,000 pixels; lower its `width`, its `height` (of each of 1 rows) or its `dpi`.",
    ),
    *(
        (
            "figures/pareto/colors", {"e2e": color},
            f"configuration key `figures.pareto.colors.e2e` is {color!r}: matplotlib knows no such colour, so write it as `#0072B2`, or by a "
            "name such as `red`.",
        )
        for color in ("redd", "#12345", "#GGGGGG", "")
    ),
    # runs that would have one name
    (
        "runs/local/sparsity_coeffs", [1, 1.0000000000001, 2],
        "`runs.local` has values that a run's name cannot tell apart (1.0, 1.0000000000001 are all `c1`); keep one of them, or round them.",
    ),
    # finetuning
    (
        "runs/local/start_from", "e2e",
        "`runs.local.start_from` belongs to objective `finetune` or `continued`, and to it alone; add or remove it.",
    ),
    (
        "runs/tuned", {"objective": "finetune", "hook_points": [_HOOK], "sparsity_coeffs": [1]},
        "`runs.tuned.start_from` belongs to objective `finetune` or `continued`, and to it alone; add or remove it.",
    ),
    (
        "runs/tuned", _TUNED | {"start_from": "local", "training": {"decoder": "free"}},
        "`runs.tuned.training.decoder` is given by the run that group `tuned` starts from; remove it.",
    ),
    (
        "runs/tuned", _TUNED | {"start_from": "locl"},
        "`runs.tuned.start_from` is 'locl', which is not a group of runs trained from the beginning; name one.",
    ),
    (
        "runs/tuned", _TUNED | {"start_from": "tuned"},
        "`runs.tuned.start_from` is 'tuned', which is not a group of runs trained from the beginning; name one.",
    ),
    *(
        (
            "runs/tuned", _TUNED | change,
            f"group `tuned` starts from run {run}, which is not among the runs before it; "
            "add that hook point, sparsity and seed to group `local`, and write the group first.",
        )
        for change, run in [
            ({"sparsity_coeffs": [2]}, f"{_HOOK}/local-c2-s0"),
            ({"seeds": [1]}, f"{_HOOK}/local-c1-s1"),
            ({"hook_points": ["blocks.2.hook_resid_pre"]}, "blocks.2.hook_resid_pre/local-c1-s0"),
        ]
    ),
    (
        "runs/tuned", _TUNED | {"training": {"d_sae": 32}},
        "`runs.tuned.training.d_sae` has no effect on objective `finetune` with architecture `relu`; remove it.",
    ),
    (
        "runs/tuned", _TUNED | {"training": {"downstream_hook_points": ["blocks.5.hook_resid_pre"]}},
        "`runs.tuned.training.downstream_hook_points` has no effect on objective `finetune` with architecture `relu`; remove it.",
    ),
    # sets that train together
    (
        "runs/pair", _PAIR | {"hook_points": [_HOOK]},
        "`runs.pair.spliced` is `together`, but the group has one hook point; list two at least, or remove it.",
    ),
    (
        "runs/pair", _PAIR | {"hook_points": [_HOOK, "blocks.2.hook_mlp_out"]},
        "`runs.pair.spliced` is `together`, but its hook points are not in the order of the model; list them so: blocks.2.hook_mlp_out, "
        f"{_HOOK}.",
    ),
    *(
        (
            "runs/pair", _PAIR | {"objective": objective} | start,
            f"`runs.pair.spliced` is `together`, which objective `{objective}` has no use for; choose `e2e` or `e2e_ds`, or remove it.",
        )
        for objective, start in [("local", {}), ("finetune", {"start_from": "local"})]
    ),
    (
        "runs/pair",
        {key: value for key, value in _PAIR.items() if key != "sparsity_coeffs"}
        | {"k": [4], "training": {"architecture": "matryoshka_batch_topk"}},
        "SAEs of architecture `matryoshka_batch_topk` cannot be trained together, because each prefix has an output of its own; choose another "
        "`architecture`, or remove `runs.pair.spliced`.",
    ),
    (
        "runs/local/sparsity_factors", {"blocks.2.hook_resid_pre": 2},
        "`runs.local.sparsity_factors.blocks.2.hook_resid_pre` has no effect on group `local`, which has no runs there; remove it.",
    ),
    (
        "runs/local", {"objective": "local", "hook_points": [_HOOK], "k": [4], "sparsity_factors": {_HOOK: 2}, "training": {"architecture": "topk"}},
        f"`runs.local.sparsity_factors.{_HOOK}` has no effect on group `local`, whose runs have no λ; remove it.",
    ),
]  # fmt: skip


@each("path, value, sentence", _FAULTS)
def test_a_fault_is_one_sentence_with_the_key_the_value_and_the_mend(path, value, sentence):
    with pytest.raises(UserError) as caught:
        parse_experiment(_changed(path, value))
    assert str(caught.value) == sentence


def test_a_set_is_read_if_a_model_can_have_it_in_that_order():
    names = [
        f"blocks.{block}.{hook}"
        for block in (0, 1)
        for hook in ("hook_resid_pre", "attn.hook_z", "hook_attn_out", "hook_mlp_out", "hook_resid_post")
    ]
    read = []
    for pair in itertools.permutations(names, 2):
        try:
            in_order(pair, tiny_decoder(0).arch, "sets")
        except UserError:
            with pytest.raises(UserError, match=r"list them so: |are of one place in the model; keep one"):
                parse_experiment(_changed("runs/pair", _PAIR | {"hook_points": list(pair)}))
        else:
            parse_experiment(_changed("runs/pair", _PAIR | {"hook_points": list(pair)}))
            read.append(pair)
    assert len(read) == 45 - 3  # of z and the attention's output of a block, and of one residual under two names, one


@each("key", ["training", "model", "corpus", "runs", "figures"])
def test_a_block_that_is_no_block_is_named(key):
    for value in (None, 3, "text", [1]):
        with pytest.raises(UserError, match=rf"^configuration block `{key}` is .*; it must be a block of keys"):
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


@each("text", ["1e6", "1E6", "1.0e+6", "1_000_000", "1000000.0", "0x F4240".replace(" ", "")])
def test_a_whole_number_may_be_written_with_an_exponent(tmp_path, text):
    (tmp_path / "x.yaml").write_text(f"n_tokens: {text}\nd_sae: 1e2\nresample_tokens: [1e3, 2_000]\nlr: 1e-3\n")
    settings = parse(TrainingConfig, read_config(tmp_path / "x.yaml"))
    assert (settings.n_tokens, settings.d_sae, settings.resample_tokens, settings.lr) == (1_000_000, 100, [1000, 2000], 1e-3)
    assert all(type(value) is int for value in [settings.n_tokens, settings.d_sae, *settings.resample_tokens])


@each(
    "text, words",
    [
        ("a: 1\nb: 2\na: 3\n", "has the key `a` in line 1 and again in line 3; keep one of them."),
        ("runs:\n  x: {k: 1}\n  x: {k: 2}\n", "has the key `x` in line 2 and again in line 3; keep one of them."),
        ('{"a": 1,\n "a": 2}', "has the key `a` in line 1 and again in line 2; keep one of them."),
        ("a: [1, {b: 1, b: 2}]", "has the key `b` in line 1 and again in line 1; keep one of them."),
        ("a: [1", "is not valid YAML in line 1 (expected ',' or ']', but got '<stream end>'); correct it."),
        ("a:\n\t- 1", "is not valid YAML in line 2 (found character '\\t' that cannot start any token); correct it."),
        (
            "!x [ls]",
            "is not valid YAML in line 1 (could not determine a constructor for the tag '!x'); correct it.",
        ),
        ("[" * 10_000, "is not valid YAML (RecursionError); correct it."),
        (
            b"a: \xff",
            "cannot be read ('utf-8' codec can't decode byte 0xff in position 3: invalid start byte); it should be UTF-8 text that you may read.",
        ),
    ],
)
def test_a_file_that_says_a_thing_twice_or_nothing_is_one_sentence(tmp_path, text, words):
    path = tmp_path / "x.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as caught:
        read_config(path)
    assert str(caught.value) in (f"{path} {words}", f"configuration file {path} {words}")


def test_keys_that_are_merged_in_may_be_given_again(tmp_path):
    (tmp_path / "x.yaml").write_text("a: &a {k: 1, s: 2}\nb: {<<: *a, k: 3}\n")
    assert read_config(tmp_path / "x.yaml") == {"a": {"k": 1, "s": 2}, "b": {"k": 3, "s": 2}}


@each(
    "file, content, known",
    [
        ("config.json", {"num_hidden_layers": 4, "max_position_embeddings": 100}, True),
        ("config.json", {"n_layer": 4, "n_positions": 100}, True),
        ("config.json", {"num_layers": 4, "max_position_embeddings": 100}, True),
        ("manifest.json", {"arch": {"n_layers": 4, "n_ctx": 100}}, True),
        ("config.json", {"n_layer": "4", "n_positions": None}, False),
        ("config.json", [], False),
        ("manifest.json", {"arch": 3}, False),
    ],
)
def test_a_layer_that_the_model_lacks_is_found_where_its_sizes_are_at_hand(tmp_path, file, content, known):
    folder = tmp_path / f"{file}{json.dumps(content)}"
    folder.mkdir()
    (folder / file).write_text(json.dumps(content))
    experiment = parse_experiment(_SMALL)
    check_model(experiment, [tmp_path / "nowhere"])
    if not known:
        check_model(experiment, [folder])
        return
    with pytest.raises(
        UserError, match=r"`runs.local.hook_points` has blocks.4.hook_resid_pre, but model novels-1m has 4 blocks, 0 to 3;"
    ):
        check_model(experiment, [folder])
    for objective, hook_point, fits in (
        ("e2e_ds", "blocks.2.hook_resid_pre", True),
        ("e2e", "blocks.3.hook_resid_pre", True),
        ("e2e_ds", "blocks.3.hook_resid_pre", False),
        ("e2e_ds", "blocks.2.hook_resid_post", False),
    ):
        group = {"objective": objective, "hook_points": [hook_point], "sparsity_coeffs": [1]}
        last = parse_experiment(_changed("runs", {"last": group}))
        with pytest.raises(
            UserError, match="tokens; lower it" if fits else f"`runs.last.hook_points` has {hook_point}, behind which"
        ):
            check_model(last, [folder])
    lower = parse_experiment(_changed("runs", {"local": _SMALL["runs"]["local"] | {"hook_points": ["blocks.3.hook_resid_pre"]}}))
    with pytest.raises(UserError, match=r"`corpus.context` is 128, but model novels-1m reads at most 100 tokens; lower it"):
        check_model(lower, [folder])


@each("change", [("corpus", _TEXT), ("corpus", _HUB), ("model", _GPT2), ("training/lr", 0.1)])
def test_a_round_trip_through_json_gives_an_equal_experiment_and_equal_runs(change):
    experiment = parse_experiment(_changed(*change))
    again = parse_experiment(json.loads(json.dumps(experiment.model_dump(exclude_unset=True))))
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


@each(
    "path, value, changes",
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
        ("studies/fidelity/n_tokens", 1024, (False, False, False)),
        ("studies/geometry/seed", 1, (False, False, False)),
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


# recipes


def _training(group: dict[str, Any] | None = None, **block: Any) -> TrainingConfig:
    """Settings of a run under a training block and the `training` of its group."""
    run = {"objective": "local", "hook_points": [_HOOK], "sparsity_coeffs": [1], "training": group or {}}
    preset = PRESETS[run["training"].get("preset") or block.get("preset", "braun2024")]
    if ARCHITECTURES[(preset | block | run["training"]).get("architecture", "relu")].by_k:
        run |= {"sparsity_coeffs": None, "k": [3]}
    values = _SMALL | {"training": {"d_sae": 64, "n_tokens": 2**26, "batch_tokens": 1024} | block, "runs": {"group": run}}
    return parse_experiment(values).run_specs()[0].training


@each(
    "preset, values",
    [
        (
            "braun2024",
            {"architecture": "relu", "decoder": "normalised", "lr": 5e-4, "schedule": "cosine", "warmup_fraction": 0.05},
        ),
        ("braun2024", {"mse_norm": "d_in", "pre_bias": False, "grad_clip": 10.0, "final_lr_fraction": 0.1, "adam_beta2": 0.999}),
        ("braun2024", {"decoder_init": "orthogonal", "encoder_init": "linear", "dead_features": "none"}),
        (
            "bloom2024",
            {"mse_norm": "input_norm", "lr": 4e-4, "dead_features": "ghost_grads", "decoder_bias_init": "geometric_median"},
        ),
        (
            "bloom2024",
            {"pre_bias": True, "decoder": "renormalised", "encoder_init": "kaiming_d_sae", "dead_window_tokens": 20_480_000},
        ),
        ("gao2024", {"architecture": "topk", "mse_norm": "variance", "dead_features": "auxk", "auxk_coeff": 1 / 32, "lr": 1e-4}),
        (
            "gao2024",
            {"adam_eps": 6.25e-10, "weight_ema": 0.999, "activation_scale": "layer_norm", "dead_window_tokens": 10_000_000},
        ),
        ("gao2024", {"statistics_tokens": 32_768, "encoder_init": "transpose", "schedule": "constant", "topk_relu": True}),
        ("gated2024", {"architecture": "gated", "lr": 3e-4, "adam_beta1": 0.0, "dead_features": "resample"}),
        ("anthropic-april2024", {"penalty": "l1_decoder_norm", "decoder": "free", "lr": 5e-5, "grad_clip": 1.0}),
        ("anthropic-april2024", {"sparsity_warmup_fraction": 0.05, "schedule": "linear_tail", "tail_fraction": 0.2}),
        ("anthropic-april2024", {"final_lr_fraction": 0.0, "decoder_init_norm": 0.1, "activation_scale": "norm"}),
        (
            "batchtopk2024",
            {"architecture": "batch_topk", "lr": 3e-4, "adam_beta2": 0.99, "auxk_k": 512, "auxk_normalised": False},
        ),
    ],
)
@pytest.mark.parametrize("where", ["block", "group"])
def test_a_preset_gives_the_paper_s_values_and_leaves_the_budget_alone(preset, values, where):
    training = _training(preset=preset) if where == "block" else _training({"preset": preset})
    assert {key: getattr(training, key) for key in values} == values
    assert (training.d_sae, training.n_tokens, training.batch_tokens, training.preset) == (64, 2**26, 1024, None)


def test_presets_are_checked_against_the_settings_there_are():
    assert PRESETS.keys() == set(typing.get_args(Preset))
    for values in PRESETS.values():
        TrainingConfig.model_validate(values)
        assert not values.keys() & {"d_sae", "n_tokens", "batch_tokens", "log_every", "checkpoint_every", "preset"}


@each(
    "block, group, expected",
    [
        ({}, {}, (5e-4, 10.0)),  # defaults
        ({"preset": "anthropic-april2024"}, {}, (5e-5, 1.0)),
        ({"preset": "anthropic-april2024", "lr": 1.0}, {}, (1.0, 1.0)),
        ({"preset": "anthropic-april2024", "lr": 1.0}, {"lr": 2.0}, (2.0, 1.0)),
        ({"lr": 1.0}, {"preset": "anthropic-april2024"}, (1.0, 1.0)),  # what is written goes before what a preset says
        ({"lr": 1.0, "grad_clip": 7.0}, {"preset": "anthropic-april2024", "lr": 2.0}, (2.0, 7.0)),
        ({"preset": "anthropic-april2024", "grad_clip": 7.0}, {"preset": "bloom2024"}, (4e-4, 7.0)),  # one preset, not two
        ({"preset": "bloom2024", "grad_clip": 7.0}, {"lr": 2.0}, (2.0, 7.0)),
        ({"lr": 1.0}, {"preset": "braun2024"}, (1.0, 10.0)),  # which says nothing beyond the defaults
    ],
)
def test_the_order_is_defaults_preset_block_group(block, group, expected):
    training = _training(group, **block)
    assert (training.lr, training.grad_clip) == expected


def test_a_key_that_a_preset_brings_and_the_group_has_no_use_for_is_left_out():
    training = _training({"preset": "gao2024", "dead_features": "none"})
    assert (training.auxk_k, training.auxk_coeff) == (None, 1 / 32)
    training = _training({"preset": "anthropic-april2024", "schedule": "constant"})
    assert training.final_lr_fraction == TrainingConfig().final_lr_fraction


def test_runs_with_k_are_named_after_it():
    group = {"objective": "local", "hook_points": [_HOOK], "k": [8, 4], "seeds": [0, 1], "training": {"architecture": "topk"}}
    specs = parse_experiment(_SMALL | {"runs": {"topk": group}}).run_specs()
    assert [(s.name, s.k, s.sparsity_coeff) for s in specs] == [
        ("topk-k8-s0", 8, None), ("topk-k8-s1", 8, None), ("topk-k4-s0", 4, None), ("topk-k4-s1", 4, None)
    ]  # fmt: skip


def test_a_finetuned_group_continues_the_runs_and_the_settings_of_another():
    base = {
        "objective": "e2e_ds",
        "hook_points": [_HOOK, "blocks.2.hook_resid_pre"],
        "sparsity_coeffs": [1, 3],
        "seeds": [0, 1],
        "training": {"pre_bias": True, "kl_coeff": 0.25, "downstream_coeff": 9.0, "decoder_init": "kaiming", "lr": 1e-3},
    }
    tuned = {"objective": "finetune", "hook_points": [_HOOK], "sparsity_coeffs": [3], "seeds": [1], "start_from": "base"}
    tuned["training"] = {"lr": 5e-5, "n_tokens": 2048}
    specs = parse_experiment(_SMALL | {"runs": {"base": base, "tuned": tuned}}).run_specs()
    spec = specs[-1]
    assert (len(specs), spec.name, spec.start_from, spec.objective) == (9, "tuned-c3-s1", "base-c3-s1", "finetune")
    training = spec.training
    assert (training.pre_bias, training.d_sae, training.lr, training.n_tokens) == (True, 64, 5e-5, 2048)
    assert (training.kl_coeff, training.downstream_coeff, training.reconstruction_coeff) == (None, None, None)  # of the objective
    assert training.decoder_init == TrainingConfig().decoder_init  # has no effect


def test_sets_have_one_λ_and_seed_and_a_factor_at_each_hook_point():
    pair = _PAIR | {"sparsity_coeffs": [1, 3], "seeds": [0, 1], "sparsity_factors": {_HOOK: 0.5}}
    specs = parse_experiment(_SMALL | {"runs": {"pair": pair, "alone": pair | {"spliced": "alone"}}}).run_specs()
    names = [(s.name, s.hook_point, s.sparsity_coeff) for s in specs[:8]]
    assert names[:4] == [(f"pair-c{λ}-s{seed}", "blocks.2.hook_mlp_out", λ) for λ in (1, 3) for seed in (0, 1)]
    assert names[4:] == [(f"pair-c{λ}-s{seed}", _HOOK, λ / 2) for λ in (1, 3) for seed in (0, 1)]
    assert all(s.spliced == {"blocks.2.hook_mlp_out": 1.0, _HOOK: 0.5} for s in specs[:8])
    assert [(s.hook_point, s.sparsity_coeff, s.spliced) for s in specs[8:]] == [(at, λ, None) for _, at, λ in names]
    tuned = _TUNED | {"sparsity_coeffs": [3], "start_from": "pair"}
    assert parse_experiment(_SMALL | {"runs": {"pair": pair, "tuned": tuned}}).run_specs()[-1].sparsity_coeff == 1.5
    assert all(("spliced" in s.model_dump()) == (s.group == "pair") for s in specs)  # files of others are as they were


def test_a_setting_of_the_block_that_one_group_uses_is_no_error():
    runs = _SMALL["runs"] | {
        "aux": {
            "objective": "local",
            "hook_points": [_HOOK],
            "sparsity_coeffs": [1],
            "training": {"dead_features": "auxk", "dead_window_tokens": 100},
        }
    }
    specs = parse_experiment(_SMALL | {"runs": runs, "training": _SMALL["training"] | {"auxk_coeff": 0.5}}).run_specs()
    assert {spec.group: spec.training.auxk_coeff for spec in specs} == {"local": 1 / 32, "e2e": 1 / 32, "aux": 0.5}


def test_agreement_is_studied_and_drawn_only_where_files_are_named():
    files = {"studies": {"agreement": {"files": {"simple": "a.json"}}}}
    plain, asked = (parse_experiment(_SMALL | more) for more in ({}, files))
    assert set(asked.study_names()) - set(plain.study_names()) == {"agreement"}
    assert set(asked.figure_names()) - set(plain.figure_names()) == {"agreement_table", "agreement_features"}
    assert {"pca_ablation", "umap"} <= set(plain.figure_names())


def test_an_unknown_template_of_agreement_is_named():
    with pytest.raises(UserError, match="studies.agreement.files"):
        parse_experiment(_SMALL | {"studies": {"agreement": {"files": {"simpel": "a.json"}}}})


def test_studies_that_compare_seeds_are_had_where_seeds_differ():
    one, two = (parse_experiment(_changed("runs/local/seeds", seeds)) for seeds in ([0], [0, 1]))
    assert set(two.study_names()) - set(one.study_names()) == {"firing"}
    assert "firing_agreement" in two.figure_names() and "seed_pairs" not in one.figure_names()


def test_drawing_some_figures_leaves_out_the_studies_of_the_others():
    experiment = parse_experiment(_SMALL | {"draw": ["pareto", "umap"]})
    assert experiment.study_names() == ["runs", "fidelity", "geometry", "umap", "sweeps"]
    assert experiment.figure_names() == ["pareto", "umap"]


def test_a_study_of_more_tokens_than_are_held_out_is_refused_where_the_experiment_has_it():
    def parsed(study: str, **more: object) -> Experiment:
        return parse_experiment(_SMALL | {"studies": {study: {"n_tokens": 10**9}}} | more)

    for study in ("fidelity", "principal_directions", "umap"):
        with pytest.raises(UserError, match=f"`studies.{study}.n_tokens` is 1,000,000,000, but `corpus.eval_tokens` holds out"):
            parsed(study)
    assert parsed("umap", draw=["pareto"]).study_settings("umap").n_tokens == 10**9
    assert parsed("fidelity", studies={}).study_settings("runs") is None
