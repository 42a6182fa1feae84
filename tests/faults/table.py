"""Bad inputs by class: how each is made, the sentence it is answered with, the exit status, and the mend that the sentence names."""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tests.faults.place import CONFIG, EXPERIMENT, HOOK, RELU, TEXT, TOPK, Place

import saeworks

Use = Callable[[Place], Any]
FETCH = Place.named_command  # the mend is the command that the sentence names


def refetch(place: Place) -> None:
    """The mend is another SAE than that, which here is the stored one."""
    place.said = f"`dvc pull --force {RELU}`"
    place.named_command()


@dataclass(frozen=True)
class Fault:
    """A bad input.

    Args:
        name: what is wrong.
        spoil: how the input is made, in a place where everything is right.
        use: what meets it; returns the exit status, or raises.
        says: what the sentence holds, as regular expressions: the name of the thing, and the mend.
        mend: what the sentence asks for; afterwards `then`, by default `use`, works.
    """

    name: str
    spoil: Use
    use: Use
    says: tuple[str, ...]
    mend: Use
    then: Use | None = None
    status: int = 2


def nothing(place: Place) -> None:
    """The fault or the mend is in the words of the command."""


def both(*uses: Use) -> Use:
    return lambda place: [use(place) for use in uses]


# what is done with it


def why(place: Place) -> int:
    return place.saeworks("why", "train", "--configfile", CONFIG)


def job(name: str) -> Use:
    return lambda place: place.run(name)


def saeworks_(*words: str) -> Use:
    return lambda place: place.saeworks(*words)


def export(place: Place) -> int:
    return place.saeworks("export", RELU, "--to", "saelens", "--out", "exported")


def export_topk(place: Place) -> int:
    return place.saeworks("export", TOPK, "--to", "saelens", "--out", "exported")


def export_other(place: Place) -> int:
    return place.saeworks("export", "other", "--to", "saelens", "--out", "exported")


def session(place: Place) -> None:
    _, sae, activations = saeworks.load_session(RELU)
    assert sae.encode(activations.tokens(0, 3)).shape == (3, 32)


# how it is spoiled and mended


def setting(**keys: Any) -> Use:
    """Set keys of the configuration, `__` for a dot; `...` removes one."""
    return lambda place: [place.set(key.replace("__", "."), value) for key, value in keys.items()] and None


def key(name: str, bad: Any, *says: str, mend: Any, use: Use = why) -> Fault:
    """A bad value of a key of the configuration, and a good one."""
    return Fault(f"{name}: {bad!r}"[:200], lambda p: p.set(name, bad), use, says, lambda p: p.set(name, mend))


def raw(name: str, content: str | bytes, *says: str) -> Fault:
    """A configuration file with this content; the mend is the file as it was."""
    return Fault(name, lambda p: p.write(CONFIG, content), why, says, Place.write_config)


def option(name: str, bad: str, *says: str, good: str) -> Fault:
    """Words of a command, and those that the sentence asks for."""
    return Fault(name, nothing, saeworks_(*bad.split()), says, nothing, saeworks_(*good.split()))


def cfg(*says: str, mend: Use = FETCH, use: Use = export, run: str = RELU, **changes: Any) -> Fault:
    """Changed keys of the cfg.json of a run."""
    return Fault(f"cfg.json with {changes} {run}"[:120], lambda p: p.edit_json(f"{run}/cfg.json", **changes), use, says, mend)


def weights(name: str, change: Callable[[dict[str, Any]], Any], *says: str, use: Use = export, run: str = RELU) -> Fault:
    """Changed tensors of a run."""
    return Fault(name, lambda p: p.edit_tensors(f"{run}/sae_weights.safetensors", change), use, says, FETCH)


def put(name: str, content: str | bytes) -> Use:
    return lambda p: p.write(name, content) and None


def delete(name: str) -> Use:
    return lambda p: p.delete(name)


def in_data(kind: str, name: str, change: Callable[[Place, str], Any]) -> Use:
    """Change a file of the prepared model, the corpus or the cache."""
    return lambda p: change(p, f"{getattr(p.plan(), kind)}/{name}")


def filled(name: str, *indices: Any, value: float) -> Callable[[dict[str, Any]], Any]:
    return lambda tensors: tensors[name].__setitem__(*indices or (0,), value)


def dropped(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda tensors: tensors.pop(name)


def made(name: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda tensors: tensors.__setitem__(name, change(tensors[name]))


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :]


# the configuration

_CHOICES = {
    "model.source": ("hubb", "one of hub, path, own .did you mean 'hub'", "path"),
    "corpus.source": ("sample", "one of sampled, text, hub", "sampled"),
    "activations.source": ("disk", "one of cache, stream", "stream"),
    "activations.dtype": ("int8", "one of float32, float16, bfloat16", "float16"),
    "training.architecture": ("relo", "did you mean 'relu'", "relu"),
    "training.decoder": ("normalized", "did you mean 'normalised'", "normalised"),
    "training.preset": ("braun2042", "did you mean 'braun2024'", "braun2024"),
    "training.schedule": ("linear", "one of cosine, linear_tail, constant", "constant"),
    "training.precision": ("float16", "one of float32, bf16", "float32"),
    "runs.local.objective": ("e2e-ds", "did you mean 'e2e_ds'", "local"),
}
_RANGES = {
    "corpus.n_tokens": (0, "greater than 0", 512),
    "corpus.context": (1, "greater than or equal to 2", 16),
    "corpus.temperature": (-1.0, "greater than", 1.0),
    "corpus.batch_rows": (10**9, "less than or equal|at most", 64),
    "training.d_sae": (10**20, "exceed|less than or equal", 32),
    "training.lr": (1e30, "exceed|less than", 1e-3),
    "training.n_tokens": ("many", "integer", 512),
    "training.adam_beta1": (1.0, "less than 1", 0.9),
    "training.warmup_fraction": (2, "less than 1", 0.1),
    "training.grad_clip": (0, "greater than 0", 1.0),
    "training.weight_ema": (1, "less than 1", 0.99),
    "training.log_every": (-1, "greater than 0", 10),
    "training.pre_bias": ("perhaps", "boolean", True),
    "runs.local.seeds": ([-1], "greater than or equal to 0", [1]),
    "runs.local.sparsity_coeffs": ([float("inf")], "finite", [0.5]),
    "runs.topk.k": ([0], "greater than 0", [4]),
    "runs.topk.hook_points": ([], "at least 1", [HOOK]),
    "figures.pareto.dpi": (1, "greater than", 100),
    "figures.pareto.width": (1400, "less than|at most", 5.0),
    "figures.pareto.height": (float("nan"), "finite", 2.0),
    "studies.geometry.n_resamples": (-5, "greater than", 100),
}
_UNKNOWN = {
    "trainning": ("did you mean 'training'", {}),
    "training.learning_rate": ("`training.learning_rate`", 1e-3),
    "model.nmae": ("did you mean 'name'", "a"),
    "model.processing.fold": ("did you mean 'fold_ln'", True),
    "corpus.tokens": ("did you mean 'n_tokens'", 3),
    "runs.local.seds": ("did you mean 'seeds'", [0]),
    "runs.local.training.lrr": ("did you mean 'lr'", 1e-3),
    "figures.pareto.colour": ("did you mean 'colors'", "red"),
    "figures.paretto": ("did you mean 'pareto'", {}),
    "studies.geometri": ("did you mean 'geometry'", {}),
}
_MISSING = {
    "experiment": "tiny",
    "model": None,
    "model.name": "small",
    "model.path": "model",
    "runs": None,
    "runs.local.objective": "local",
}
KEYS = [
    *(key(name, bad, f"`{name}", says, mend=good) for name, (bad, says, good) in (_CHOICES | _RANGES).items()),
    *(
        Fault(f"{name} is unknown", setting(**{name.replace(".", "__"): value}), why, ("unknown", f"`{name}`", says),
              setting(**{name.replace(".", "__"): ...}))
        for name, (says, value) in _UNKNOWN.items()
    ),
    *(
        Fault(f"{name} is missing", setting(**{name.replace(".", "__"): ...}), why, (f"`{name}`", "is missing; add it"),
              lambda p: (p.values.clear(), p.values.update(Place(p.root).values), p.write_config()))
        for name in _MISSING
    ),
    *(key(name, value, f"`{name}`", "dictionary|block", mend={}) for name in ("training", "figures", "studies") for value in (3, [1], "a")),
    key("training.n_tokens", 512.5, "`training.n_tokens`", "integer", mend=512),
    key("training.d_sae", True, "`training.d_sae`", "number|integer", mend=32),
    key("figures.pareto.colors", {"e2e": "redd"}, "`figures.pareto.colors", "redd", "colou?r", mend={"e2e": "red"}),
    key("figures.pareto.colors", {"e2e": 3}, "`figures.pareto.colors", mend={"e2e": "#00ff00"}),
    key("draw", ["paretto"], "`draw`", "did you mean 'pareto'", mend=["pareto"]),
    key("draw", [], "`draw`", "at least 1", mend=None),
    key("runs.local.hook_points", ["blocks.१.hook_resid_pre"], "hook_points", "blocks.१", mend=[HOOK]),
    key("runs.local.hook_points", ["blocks.1.resid_pre"], "hook_points", "hook_resid_pre", mend=[HOOK]),
    key("runs.local.hook_points", [f"{HOOK}\n"], "hook_points", mend=[HOOK]),
    key("runs.local.hook_points", HOOK, "`runs.local.hook_points`", "list", mend=[HOOK]),
]  # fmt: skip

_SET = EXPERIMENT["runs"]["topk"] | {"spliced": "together"}
TOGETHER = [
    key("runs.local.seeds", [0, 0], "`?local.seeds`", "twice", mend=[0, 1]),
    key("runs.local.sparsity_coeffs", [1, 1.0000000000001], "local", "1.0000000000001", mend=[1, 2]),
    key("runs.local.k", [4], "`local`", "set `sparsity_coeffs` and not `k`", mend=None),
    key("runs.topk.k", None, "`topk`", "set `k` and not `sparsity_coeffs`", mend=[4]),
    key("runs.topk.k", [33], "`topk`", "k = 33", "lower it", mend=[32]),
    key("runs.topk.training.batch_tokens", 100, "`batch_tokens` of group `topk`", r"multiple of `corpus.context` \(16\)", mend=96),
    key("runs.local.training", {"n_tokens": 32}, "`n_tokens` of group `local`", "raise it", mend={"n_tokens": 64}),
    key("runs.local.training", {"kl_coeff": 1.0}, "`runs.local.training.kl_coeff` has no effect", "remove it", mend={}),
    key("training.auxk_coeff", 0.1, "`training.auxk_coeff` has no effect", "remove it", mend=...),
    key("runs.local.training", {"penalty": "l0"}, "`penalty` of group `local`", "choose among .*`tanh`", mend={"penalty": "tanh"}),
    key("runs.local.training", {"decoder": "free"}, "group `local`", "use `l1_decoder_norm`",
        mend={"decoder": "free", "penalty": "l1_decoder_norm"}),
    key("runs.local.training", {"dead_features": "resample"}, "`dead_window_tokens` of group `local`", "lower it",
        mend={"dead_features": "resample", "dead_window_tokens": 128}),
    key("runs.local.training", {"dead_features": "resample", "dead_window_tokens": 128, "resample_tokens": [600]},
        "`resample_tokens` of group `local`", "lower it",
        mend={"dead_features": "resample", "dead_window_tokens": 128, "resample_tokens": [256]}),
    key("runs.topk.training", {"architecture": "matryoshka_batch_topk", "matryoshka_fractions": [0.5, 0.25]},
        "`runs.topk.training.matryoshka_fractions`", "add up to 0.75; make it 1",
        mend={"architecture": "matryoshka_batch_topk", "matryoshka_fractions": [0.5, 0.5]}),
    key("runs.topk.training.kl_coeff", 0, "group `topk`", "raise `kl_coeff`", mend=1.0),
    key("runs.local.start_from", "topk", "`runs.local.start_from`", "add or remove it", mend=None),
    key("runs.tuned", {"objective": "finetune", "start_from": "lokal", "hook_points": [HOOK], "sparsity_coeffs": [0.5]},
        "`runs.tuned.start_from` is 'lokal'", "name one",
        mend={"objective": "finetune", "start_from": "local", "hook_points": [HOOK], "sparsity_coeffs": [0.5]}),
    key("runs.tuned", {"objective": "finetune", "start_from": "local", "hook_points": [HOOK], "sparsity_coeffs": [0.7]},
        "group `tuned`", "local-c0.7-s0", "add that hook point, sparsity and seed to group `local`",
        mend={"objective": "finetune", "start_from": "local", "hook_points": [HOOK], "sparsity_coeffs": [0.5]}),
    key("runs.tuned",
        {"objective": "finetune", "start_from": "local", "hook_points": [HOOK], "sparsity_coeffs": [0.5], "training": {"d_sae": 8}},
        "`runs.tuned.training.d_sae`", "remove it",
        mend={"objective": "finetune", "start_from": "local", "hook_points": [HOOK], "sparsity_coeffs": [0.5]}),
    *(
        key("runs.topk", _SET | {"hook_points": bad}, "`runs.topk.spliced` is `together`", says, mend=_SET | {"hook_points": good})
        for bad, says, good in [
            (["blocks.1.hook_mlp_out", HOOK], f"not in the order of the model; list them so: {HOOK}, blocks.1.hook_mlp_out",
             [HOOK, "blocks.1.hook_mlp_out"]),
            (["blocks.0.hook_resid_post", HOOK], f"blocks.0.hook_resid_post and {HOOK} are of one place in the model; keep one",
             ["blocks.0.hook_resid_post", "blocks.2.hook_resid_pre"]),
        ]
    ),
    *(
        key("runs.local", EXPERIMENT["runs"]["local"] | {"sparsity_coeffs": [λ], "sparsity_factors": {HOOK: factor}},
            f"`runs.local.sparsity_factors.{HOOK}` is {factor:g}", f"λ of {bad}", mend=EXPERIMENT["runs"]["local"] | {"sparsity_factors": {HOOK: 2}})
        for λ, factor, bad in [(1e8, 1e3, r"1e\+11"), (1e-200, 1e-200, "0 there")]
    ),
    key("studies.fidelity.n_tokens", 129, "`studies.fidelity.n_tokens` is 129", "lower the first or raise the second", mend=128),
    Fault("downstream hook points and their number",
          lambda p: p.set("runs.local", {"objective": "e2e_ds", "hook_points": [HOOK], "sparsity_coeffs": [1],
                                         "training": {"downstream_next": 1, "downstream_hook_points": ["blocks.2.hook_resid_pre"]}}),
          why, ("group `local` sets both", "keep one"), lambda p: p.set("runs.local.training.downstream_next", ...)),
]  # fmt: skip

_YAML = "experiment: tiny\nmodel: {source: path, name: small, path: model}\n"
_GROUP = f"{{objective: local, hook_points: [{HOOK}], sparsity_coeffs: [1]}}"
FILES = [
    Fault("no such file", delete(CONFIG), why, (CONFIG, "is missing", "correct its path|--configfile"), Place.write_config),
    Fault("a folder", both(delete(CONFIG), lambda p: (p / CONFIG).mkdir()), why, (CONFIG, "folder|directory"),
          both(delete(CONFIG), Place.write_config)),
    raw("nothing", "", CONFIG),
    raw("a list", "- experiment: tiny\n", CONFIG),
    raw("a word", "tiny\n", CONFIG),
    raw("null", "null\n", CONFIG),
    raw("no YAML", "experiment: [tiny\n", CONFIG, "line 2|line 1"),
    raw("a tab", "experiment: tiny\n\tmodel: {}\n", CONFIG, "line 2"),
    raw("bytes", b"\xff\xfe\x00\x80", CONFIG),
    raw("Latin-1", "experiment: tiny # für\n".encode("latin-1"), CONFIG),
    raw("two documents", f"{_YAML}---\n{_YAML}", CONFIG),
    raw("a Python object", "experiment: !!python/object/apply:os.system ['touch pwned']\n", CONFIG),
    raw("an unknown tag", "experiment: !name tiny\n", CONFIG),
    raw("an anchor that is not there", "experiment: *name\n", CONFIG),
    raw("a key twice", f"{_YAML}runs:\n  a: {_GROUP}\n  a: {_GROUP}\n", "`a` in line 4 and again in line 5", "keep one"),
    raw("a block twice", f"{_YAML}runs: {{a: {_GROUP}}}\nruns: {{b: {_GROUP}}}\n", "`runs` in line 3 and again in line 4", "keep one"),
    raw("a list as a key", "[a, b]: 3\n", CONFIG),
    raw("a number as a key", f"{_YAML}runs: {{a: {_GROUP}}}\n3: 4\n", "3"),
    raw("a number as the name of a group", f"{_YAML}runs: {{3: {_GROUP}}}\n", "runs", "3"),
    raw("a date as a name", f"experiment: 2024-01-01\n{_YAML.split(chr(10))[1]}\nruns: {{a: {_GROUP}}}\n", "`experiment`"),
    raw("on as a name", f"experiment: on\n{_YAML.split(chr(10))[1]}\nruns: {{a: {_GROUP}}}\n", "`experiment`"),
    raw("a hundred brackets too many", "experiment: " + "[" * 2000 + "\n", CONFIG),
]  # fmt: skip

HOSTILE = (
    "a b",
    "a;touch pwned;",
    "$(touch pwned)",
    "`touch pwned`",
    "../up",
    "/root",
    "-n",
    ".hidden",
    "a/b",
    "",
    "a\nb",
    "ä",
    "a" * 300,
)
NAMES = [
    *(key("experiment", name, "`experiment`", "letters|character", mend="tiny") for name in HOSTILE),
    *(key("model.name", name, "`model.name`", "letters|character", mend="small") for name in HOSTILE),
    *(
        key("model", {"source": "hub", "name": name}, "`?model.name`?", mend={"source": "path", "name": "small", "path": "model"})
        for name in HOSTILE
        if name not in ("a/b", "../up", "/root", ".hidden")
    ),
    *(
        Fault(f"group {name!r}"[:60], lambda p, n=name: p.set("runs", {n: p.values["runs"]["local"]}), why, ("runs", "letters|character"),
              lambda p: p.set("runs", {"fine": Place(p.root).values["runs"]["local"]}))
        for name in HOSTILE
    ),
    *(
        Fault(f"saeworks new {name!r}"[:60], nothing, saeworks_("new", "--", name), ("named|name", "letters|character"), nothing,
              saeworks_("new", "fine"))
        for name in HOSTILE
    ),
]  # fmt: skip

# the command line

_FIGURE = "--spec {} --tables results/tiny/tables --out drawn"  # of a display table, which is quick
OPTIONS = [
    option("an unknown command", "exprot x", "exprot", "[Dd]id you mean 'export'", good="runs tiny"),
    option("an unknown option", "runs tiny --cvs", "--cvs", "--csv", good="runs tiny --csv"),
    option("no argument", "runs", "EXPERIMENT|experiment", good="runs tiny"),
    option("one argument too many", "runs tiny other", "other", good="runs tiny"),
    option("an unknown experiment", "runs tinny", "did you mean 'tiny'", good="runs tiny"),
    option("an unknown experiment's claims", "claims tinny", "tinny", "missing", good="claims tiny"),
    option("an unknown figure", f"figure paretto {_FIGURE}", "did you mean 'pareto'", good=f"figure selection_table {_FIGURE}"),
    option("a figure of another study's name", f"figure fidelity {_FIGURE}", "no figure 'fidelity'", good=f"figure selection_table {_FIGURE}"),
    option("an unknown target", f"why nonsense --configfile {CONFIG}", "'nonsense'", "name a file, a rule or a job",
           good=f"why pareto --configfile {CONFIG}"),
    option("a target like another", f"why paretto --configfile {CONFIG}", "did you mean 'pareto'", good=f"why pareto --configfile {CONFIG}"),
    option("another experiment's file", "why results/other/figures/pareto.png", "'other'", "--configfile",
           good=f"why results/tiny/figures/pareto.png --configfile {CONFIG}"),
    option("no such configuration", "why train --configfile config/no.yaml", "config/no.yaml", "correct its path|--configfile",
           good=f"why train --configfile {CONFIG}"),
    option("another library", f"export {RELU} --to sealens --out x", "--to", "'saelens'", good=f"export {RELU} --to saelens --out x"),
    option("no library", f"export {RELU} --out x", "--to", good=f"export {RELU} --to saelens --out x"),
    option("an SAE that sparsify lacks", f"export {RELU} --to sparsify --out x", "TopK", "--to saelens",
           good=f"export {RELU} --to saelens --out x"),
    option("JSON that is none", "figure pareto --spec {a --tables results/tiny/tables --out drawn", "--spec", "JSON",
           good=f"figure selection_table {_FIGURE}"),
    option("a list for a block", "figure pareto --spec [] --tables results/tiny/tables --out drawn", "figures.pareto|--spec",
           good=f"figure selection_table {_FIGURE}"),
    option("a file that is not there", "figure pareto --spec @no.json --tables results/tiny/tables --out drawn", "no.json",
           good=f"figure selection_table {_FIGURE}"),
    option("a folder for a file", "figure pareto --spec @config --tables results/tiny/tables --out drawn", "config",
           good=f"figure selection_table {_FIGURE}"),
    option("a file that is no text", "figure pareto --spec @data/models/own/model.safetensors --tables results/tiny/tables --out drawn",
           "model.safetensors", good=f"figure selection_table {_FIGURE}"),
    option("no tables", "figure pareto --spec {} --tables nowhere --out drawn", "nowhere/.*parquet is missing", good=f"figure selection_table {_FIGURE}"),  # noqa: E501
    option("an unknown setting", 'figure pareto --spec {"dpj":3} --tables results/tiny/tables --out drawn', "figures.pareto.dpj",
           "did you mean 'dpi'", good='figure pareto --spec {"dpi":80} --tables results/tiny/tables --out drawn'),
    option("an unknown study", "measure fidelty --spec {} --experiment tiny --out x", "did you mean 'fidelity'",
           good="measure runs --spec {} --experiment tiny --out x --runs " + f"{RELU[18:]} {TOPK[18:]}"),
    option("a study without tables", "measure claims --spec {} --experiment tiny --out x", "no study 'claims'",
           good="measure runs --spec {} --experiment tiny --out x --runs " + f"{RELU[18:]} {TOPK[18:]}"),
    option("an unknown study's parts", "gather fidelty --parts results/tiny/tables/runs --out x", "did you mean 'fidelity'",
           good="gather runs --parts results/tiny/tables/runs --out x"),
    option("no model for a study", f"measure fidelity --spec {{}} --experiment tiny --at {HOOK}/none --out x", "--model",
           good=f"why train --configfile {CONFIG}"),
    option("a configuration's schema of nowhere", "document --root nowhere", "nowhere", good=f"why train --configfile {CONFIG}"),
    option("a template that is there", "new tiny", "config/tiny.yaml is there already", "choose another name", good="new another"),
]  # fmt: skip


def with_option(name: str, stage: str, *bad: str, says: tuple[str, ...], good: tuple[str, ...]) -> Fault:
    """Words added to the command of a stage."""
    return Fault(
        name,
        nothing,
        lambda p: p.saeworks(*p.command(stage), *bad),
        says,
        nothing,
        lambda p: p.saeworks(*p.command(stage), *good),
    )


def replaced(name: str, stage: str, option_: str, *values: str, says: tuple[str, ...]) -> Fault:
    """Another value of an option of a stage; the mend is the right one."""

    def use(place: Place) -> int:
        words = place.command(stage)
        at = words.index(option_) + 1
        end = next((i for i in range(at, len(words)) if words[i].startswith("--")), len(words))
        return place.saeworks(*words[:at], *values, *words[end:])

    return Fault(name, nothing, use, says, nothing, job(stage))


_TRAIN = f"train/{HOOK}/local-c0.5-s0"
STAGES = [
    *(
        with_option(f"--threads {n} of {stage}", stage, "--threads", n, says=("--threads", says), good=("--threads", "1"))
        for stage in ("language_model", "corpus", _TRAIN)
        for n, says in (("0", "1|greater|positive"), ("-1", "1|greater|positive"), ("two", "integer"))
    ),
    *(
        with_option(f"--device {name}", _TRAIN, "--device", name, says=("--device", "'cpu'"), good=("--device", "cpu"))
        for name in ("gpu", "cuda:99", "tpu", "")
    ),
    *(
        replaced(f"--spec {spec} of {stage}", stage, option_, spec, says=(says,))
        for spec in ("{}", "[]", "3", "null", '{"no": 1}')
        for stage, option_, says in [
            ("language_model", "--spec", "`?model|--spec"),
            ("corpus", "--spec", "`?corpus|--spec"),
            (_TRAIN, "--spec", "`?runs|--spec"),
        ]
    ),
    *(
        replaced(f"--{name} {spec} of {stage}", stage, f"--{name}", spec, says=("activations|--spec",))
        for spec in ("[]", "3", '{"no": 1}')
        for stage, name in [("activation_cache", "spec"), (_TRAIN, "activations")]
    ),
    replaced("a hook point that does not exist", "activation_cache", "--hook-points", "blocks.9.hook_resid_pre",
             says=("blocks.9.hook_resid_pre", "3 blocks", "blocks.2.hook_resid_pre")),
    replaced("a hook point that is none", "activation_cache", "--hook-points", "resid", says=("'resid'", "blocks.0.hook_resid_pre")),
    replaced("a run that is not there", f"measure/fidelity/{HOOK}/local-c0.5-s0", "--at", f"{HOOK}/none", says=("none",)),
    replaced("no prepared model", "corpus", "--model", "nowhere", says=("nowhere", "missing", "snakemake")),
    replaced("no corpus", _TRAIN, "--corpus", "nowhere", says=("nowhere", "missing")),
    replaced("no cache", _TRAIN, "--cache", "nowhere", says=("nowhere", "missing")),
    replaced("more folders than runs", _TRAIN, "--out", "a", "b", says=("--out", "2")),
    replaced("an identity that is none", _TRAIN, "--identity", "{}", says=("--identity",)),
    replaced("an identity that is a list", _TRAIN, "--identity", "[]", says=("--identity",)),
    Fault("a file in the place of the run's folder", both(delete(RELU), put(RELU, "x")), job(_TRAIN), (RELU,), delete(RELU)),
]  # fmt: skip

# files of runs

_NPY = "sae_weights.safetensors"
RUNS = [
    cfg("architecture", mend=refetch, architecture="relo"),
    cfg("architecture", mend=refetch, architecture=[]),
    cfg("architecture", mend=refetch, architecture=None),
    cfg("architecture", mend=refetch, architecture={"a": 1}),
    cfg("architecture", mend=refetch, architecture=...),
    cfg("d_in", d_in=...),
    cfg("d_in", d_in="16"),
    cfg("d_in", d_in=True),
    cfg("d_in|W_enc", d_in=-16),
    cfg("d_in|W_enc", d_in=17),
    cfg("d_sae|W_enc", d_sae=10**20),
    cfg("d_sae", d_sae=32.0),
    cfg("apply_b_dec_to_input", apply_b_dec_to_input="false"),
    cfg("apply_b_dec_to_input", apply_b_dec_to_input=None),
    cfg("apply_b_dec_to_input", apply_b_dec_to_input=[0]),
    cfg("normalize_activations", mend=refetch, normalize_activations="layernorm"),
    cfg("normalize_activations", mend=refetch, normalize_activations=["layer_norm"]),
    cfg("reshape_activations", mend=refetch, reshape_activations="hook"),
    cfg("k", run=TOPK, use=export_topk, k=0),
    cfg("k", run=TOPK, use=export_topk, k=-1),
    cfg("k", run=TOPK, use=export_topk, k=33),
    cfg("k", run=TOPK, use=export_topk, k=True),
    cfg("k", run=TOPK, use=export_topk, k="4"),
    cfg("k", run=TOPK, use=export_topk, k=...),
    cfg("metadata", metadata=[1]),
    *(
        Fault(f"cfg.json that is {name}", put(f"{RELU}/cfg.json", content), export, ("cfg.json",), FETCH)
        for name, content in {
            "empty": "", "cut off": '{"d_in": 1', "a list": "[]", "null": "null", "not UTF-8": b'{"a": "\xff"}', "deep": "[" * 100_000,
            "NaN": '{"architecture": "standard", "d_in": NaN, "d_sae": 32}',
        }.items()
    ),
    Fault("no cfg.json", delete(f"{RELU}/cfg.json"), export, ("cfg.json", "missing"), FETCH),
    Fault("cfg.json is a folder", both(delete(f"{RELU}/cfg.json"), lambda p: (p / RELU / "cfg.json").mkdir()), export, ("cfg.json",),
          both(delete(f"{RELU}/cfg.json"), FETCH)),
    Fault("no weights", delete(f"{RELU}/{_NPY}"), export, (_NPY, "missing"), FETCH),
    Fault("no run", delete(RELU), export, (RELU,), FETCH),
    Fault("an empty run", both(delete(RELU), lambda p: (p / RELU).mkdir()), export, (RELU,), refetch),
    *(
        Fault(f"weights {name}", lambda p, change=change: p.write(f"{RELU}/{_NPY}", change((p / RELU / _NPY).read_bytes())) and None, export,
              (_NPY,), FETCH)
        for name, change in {
            "empty": lambda b: b"", "cut off": lambda b: b[:-7], "of seven bytes": lambda b: b[:7], "longer": lambda b: b + b"x",
            "with a damaged header": lambda b: flipped(b, 20), "with a huge header": lambda b: b"\xff" * 8 + b[8:],
            "a pickle": lambda b: b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR.", "text": lambda b: b"weights",
        }.items()
    ),
    weights("no W_enc", dropped("W_enc"), _NPY, "W_enc"),
    weights("no b_dec", dropped("b_dec"), _NPY, "b_dec"),
    weights("one tensor more", lambda t: t.update(extra=torch.zeros(3)), _NPY, "extra"),
    weights("one tensor more, of another architecture", lambda t: t.update(threshold=torch.zeros(32)), _NPY, "threshold"),
    weights("NaN", filled("W_enc", (0, 0), value=float("nan")), _NPY, "W_enc", "finite|NaN"),
    weights("infinity", filled("b_dec", 0, value=float("inf")), _NPY, "b_dec", "finite|inf"),
    weights("whole numbers", made("b_enc", lambda v: v.to(torch.int8)), _NPY, "b_enc", "int8|float"),
    weights("truth values", made("W_dec", lambda v: v > 0), _NPY, "W_dec", "bool|float"),
    weights("a transposed matrix", made("W_enc", lambda v: v.T), _NPY, "W_enc", "shape"),
    weights("a bias of one number", made("b_enc", lambda v: v[:1]), _NPY, "b_enc", "shape"),
    weights("fewer features in one tensor", made("W_dec", lambda v: v[:-1]), _NPY, "W_dec", "shape"),
    weights("a scalar for a matrix", made("W_dec", lambda v: v[0, 0]), _NPY, "W_dec", "shape"),
    Fault("another run's weights", lambda p: p.write(f"{TOPK}/{_NPY}", b"") and p.edit_json(f"{TOPK}/cfg.json", d_sae=31), export_topk,
          (TOPK,), FETCH),
]  # fmt: skip


# SAEs of other libraries, in the folder `other`


def _linear(d_in: int = 6, d_sae: int = 10) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(0)
    return {
        "encoder.weight": torch.randn(d_sae, d_in, generator=draw),
        "encoder.bias": torch.zeros(d_sae),
        "decoder.weight": torch.randn(d_in, d_sae, generator=draw),
    }


def _e2e(*hooks: str) -> dict[str, Any]:
    new = {"encoder.weight": "encoder.0.weight", "encoder.bias": "encoder.0.bias", "decoder.weight": "decoder.weight"}
    own = {new[name]: value for name, value in _linear().items()} | {"decoder.bias": torch.zeros(6)}
    return {f"{hook}.{name}": value for hook in hooks for name, value in own.items()}


_DL = _linear() | {"bias": torch.zeros(6)}
_DL_TOPK = _linear() | {"b_dec": torch.zeros(6), "k": torch.tensor(3)}
_BLOCK = "blocks-1-hook_resid_pre"


def saved(name: str, content: Any) -> Use:
    """`torch.save` under other/."""

    def save(place: Place) -> None:
        (place / "other").mkdir(exist_ok=True)
        torch.save(content, place / "other" / name)

    return save


def sparsify(change: Callable[[dict[str, Any]], Any] = lambda t: None, **config: Any) -> Use:
    """A folder of sparsify's."""

    def save(place: Place) -> None:
        (place / "other").mkdir(exist_ok=True)
        values = {"activation": "topk", "k": 3, "num_latents": 10, "d_in": 6, "expansion_factor": 2} | config
        place.write("other/cfg.json", json.dumps({k: v for k, v in values.items() if v is not ...}))
        tensors = {k: v for k, v in _linear().items() if k != "decoder.weight"}
        tensors |= {"W_dec": torch.ones(10, 6), "b_dec": torch.zeros(6)}
        change(tensors)
        save_file({k: v.contiguous() for k, v in tensors.items()}, place / "other" / "sae.safetensors")

    return save


class _Object:
    """What a state dict does not hold."""

    def __reduce__(self):
        import os

        return os.system, ("touch pwned",)


def other(name: str, spoil: Use, *says: str, mend: Use) -> Fault:
    return Fault(name, spoil, export_other, says, mend)


_AE, _AE_TOPK = saved("ae.pt", _DL), saved("ae.pt", _DL_TOPK)
OTHERS = [
    other("nothing", nothing, "no SAE at other", "correct the path", mend=_AE),
    other("an empty folder", lambda p: (p / "other").mkdir(), "other holds no SAE", mend=_AE),
    other("a file of another kind", put("other/notes.md", "x"), "other holds no SAE", mend=_AE),
    other("an object in a pickle", saved("ae.pt", {"a": _Object()}), "refused", "state_dict", mend=_AE),
    other("a whole object", saved("ae.pt", _Object()), "refused", "state_dict", mend=_AE),
    other("a list", saved("ae.pt", [torch.zeros(3)]), "no state dict", mend=_AE),
    other("whole numbers as keys", saved("ae.pt", {1: torch.zeros(3)}), "ae.pt", mend=_AE),
    other("no tensors", saved("ae.pt", {}), "ae.pt", mend=_AE),
    other("text", put("other/ae.pt", "text"), "ae.pt cannot be read|refused", mend=_AE),
    other("an empty file", put("other/ae.pt", ""), "ae.pt cannot be read", mend=_AE),
    other("unknown tensors", saved("ae.pt", {"w": torch.zeros(3)}), "tensors w", mend=_AE),
    other("a tensor missing", saved("ae.pt", {k: v for k, v in _DL.items() if k != "bias"}), "ae.pt has tensors", mend=_AE),
    other("a vector for a matrix", saved("ae.pt", _DL | {"encoder.weight": torch.zeros(10)}), "encoder.weight", mend=_AE),
    other("a wrong shape", saved("ae.pt", _DL | {"bias": torch.zeros(7)}), "bias should have shape", mend=_AE),
    other("NaN", saved("ae.pt", _DL | {"bias": torch.full((6,), float("nan"))}), "bias", "finite|NaN", mend=_AE),
    other("whole numbers", saved("ae.pt", _DL | {"bias": torch.zeros(6, dtype=torch.int8)}), "bias", "int8|float", mend=_AE),
    other("k of 0", saved("ae.pt", _DL_TOPK | {"k": torch.tensor(0)}), "k", mend=_AE_TOPK),
    other("k of two numbers", saved("ae.pt", _DL_TOPK | {"k": torch.tensor([1, 2])}), "k", mend=_AE_TOPK),
    other("k beyond the features", saved("ae.pt", _DL_TOPK | {"k": torch.tensor(11)}), "k = 11", mend=_AE_TOPK),
    other("an unknown class", both(_AE, put("other/config.json", '{"trainer": {"dict_class": "Mine"}}')), "Mine",
          mend=put("other/config.json", '{"trainer": {"dict_class": "AutoEncoder"}}')),
    other("a class that is a list", both(_AE, put("other/config.json", '{"trainer": {"dict_class": []}}')), "dict_class|\\[\\]",
          mend=put("other/config.json", '{"trainer": {"dict_class": "AutoEncoder"}}')),
    other("a config.json that is none", both(_AE, put("other/config.json", "{")), "config.json is not valid JSON", "remove it",
          mend=delete("other/config.json")),
    other("several files", both(saved("a.pt", _DL), saved("b.pt", _DL)), "several files", "a.pt, b.pt", mend=delete("other/b.pt")),
    other("several SAEs in a file", saved("a.pt", _e2e(_BLOCK, "blocks-2-hook_resid_pre")), "2 SAEs", "blocks.2.hook_resid_pre",
          mend=saved("a.pt", _e2e(_BLOCK))),
    other("an e2e_sae tensor missing", saved("a.pt", {k: v for k, v in _e2e(_BLOCK).items() if "bias" not in k}), "no tensor",
          mend=saved("a.pt", _e2e(_BLOCK))),
    other("several SAEs in a folder", both(saved("x.pt", _DL), lambda p: [(p / f"other/{n}").mkdir() for n in "ab"],
          lambda p: [(p / "other/x.pt").rename(p / "other/a/ae.pt"), torch.save(_DL, p / "other/b/ae.pt")]), "2 SAEs", "a, b",
          mend=delete("other/b")),
    other("sparsify without k", sparsify(k=...), "`k`", mend=sparsify()),
    other("sparsify with k in words", sparsify(k="three"), "`k`", mend=sparsify()),
    other("sparsify with k of 0", sparsify(k=0), "k", mend=sparsify()),
    other("sparsify with k true", sparsify(k=True), "k", mend=sparsify()),
    other("sparsify with groupmax", sparsify(activation="groupmax"), "`activation` 'groupmax'", mend=sparsify()),
    other("sparsify of a transcoder", sparsify(transcode=True), "`transcode` True", mend=sparsify()),
    other("sparsify with a tensor more", sparsify(lambda t: t.update(W_skip=torch.zeros(2))), "W_skip", mend=sparsify()),
    other("sparsify with a tensor less", sparsify(lambda t: t.pop("b_dec")), "no tensor b_dec", mend=sparsify()),
    other("sparsify with NaN", sparsify(lambda t: t["b_dec"].fill_(float("nan"))), "b_dec", "finite|NaN", mend=sparsify()),
    other("sparsify with a list for its configuration", both(sparsify(), put("other/cfg.json", "[]")), "cfg.json", mend=sparsify()),
    other("sparsify without weights", both(sparsify(), delete("other/sae.safetensors")), "sae.safetensors is missing", mend=sparsify()),
]  # fmt: skip

# text


def text(name: str, file: str, content: str | bytes, *says: str, **corpus: Any) -> Fault:
    """A text file that a corpus is packed from; the mend is one that can be."""
    good = _GOOD_TEXT["".join(file.partition(".")[1:])]
    return Fault(name, both(put(f"texts/{file}", content), _from_text(f"texts/{file}", **corpus)), job("corpus"), says,
                 lambda p: p.write(f"texts/{file}", good) and None)  # fmt: skip


def _from_text(*files: str, **corpus: Any) -> Use:
    rows = {"n_tokens": 512, "eval_tokens": 128, "context": 16}
    return lambda p: p.set("corpus", {"source": "text", "files": list(files), **rows, **corpus})


_GOOD_TEXT = {
    ".txt": TEXT.encode(),
    ".jsonl": "".join(f"{json.dumps({'text': t, 'ids': list(t.encode())})}\n" for t in TEXT.split("\n<|endoftext|>\n")).encode(),
    ".txt.xz": lzma.compress(TEXT.encode()),
}
_LINE = '{"text": "a line of some words"}\n'
TEXTS = [
    Fault("a file that is not there", _from_text("texts/bok.txt"), job("corpus"), ("texts/bok.txt", "does not exist|missing", "correct"),
          _from_text("texts/book.txt")),
    Fault("a folder named like a file", both(lambda p: (p / "texts/x.txt").mkdir(), _from_text("texts/x.txt")), job("corpus"),
          ("x.txt", "no file|folder", "correct"), _from_text("texts/book.txt")),
    Fault("a folder named like a .jsonl", both(lambda p: (p / "texts/x.jsonl").mkdir(), _from_text("texts/x.jsonl")), job("corpus"),
          ("x.jsonl", "no file|folder", "correct"), _from_text("texts/book.jsonl")),
    Fault("a file of another kind", both(put("texts/a.md", TEXT), _from_text("texts/a.md")), job("corpus"),
          ("a.md", r"\.txt, .txt.xz and .jsonl"), _from_text("texts/book.txt")),
    text("not UTF-8", "a.txt", "für".encode("latin-1") * 2000, "cannot be read|UTF-8"),
    text("no text", "a.txt", "", "add text"),
    text("no xz", "a.txt.xz", TEXT, "cannot be read"),
    text("an xz cut off", "a.txt.xz", lzma.compress(TEXT.encode())[:-9], "cannot be read"),
    text("a line that is no JSON", "a.jsonl", f"{_LINE}{{\n", "line 2", "'text'"),
    text("a line without the field", "a.jsonl", f'{_LINE}{{"txt": "a"}}\n', "line 2", "'text'"),
    text("a line that is a list", "a.jsonl", '["a", "b"]\n', "line 1"),
    text("a line that is null", "a.jsonl", f"{_LINE}null\n", "line 2"),
    text("a number for a text", "a.jsonl", '{"text": 5}\n', "line 1"),
    text("null for a text", "a.jsonl", f'{_LINE}{{"text": null}}\n', "line 2"),
    text("true for a text", "a.jsonl", '{"text": true}\n', "line 1"),
    text("an object for a text", "a.jsonl", '{"text": {"a": 1}}\n', "line 1"),
    text("words for token ids", "a.jsonl", '{"text": ["a", "b"]}\n', "line 1"),
    text("token ids below 0", "a.jsonl", f'{json.dumps({"text": [1, -3, 2] * 500})}\n', "-3|line 1"),
    text("token ids that are broken numbers", "a.jsonl", f'{json.dumps({"text": [1.5, 2.0] * 500})}\n', "line 1|1.5"),
    text("token ids of another tokenizer", "a.jsonl", f'{json.dumps({"text": [1, 70000] * 500})}\n' * 9, "70000"),
    text("huge token ids", "a.jsonl", f'{json.dumps({"text": [1, 10**30] * 500})}\n' * 9, "line 1|10000"),
    text("token ids in lists", "a.jsonl", '{"text": [[1], [2]]}\n', "line 1"),
    text("bytes", "a.jsonl", b'{"text": "\xff"}\n', "cannot be read|UTF-8|line 1"),
    text("one document", "a.txt", TEXT.replace("<|endoftext|>", ""), "document"),
    Fault("too little text", _from_text("texts/book.txt", n_tokens=10**6), job("corpus"), ("corpus.n_tokens", "1,000,000", "lower"),
          _from_text("texts/book.txt", n_tokens=512)),
    Fault("rows longer than the model's", _from_text("texts/book.txt", context=64), job("corpus"), ("`corpus.context` is 64", "lower it"),
          _from_text("texts/book.txt", context=32)),
    Fault("samples longer than the model's", lambda p: (p.set("corpus.context", 64), p.set("runs.topk.training.batch_tokens", 64)),
          job("corpus"), ("`corpus.context` is 64", "lower it"), lambda p: p.set("corpus.context", 32)),
    Fault("no files", _from_text(), why, ("`corpus.files`", "at least 1"), _from_text("texts/book.txt")),
    Fault("no dataset at hand", lambda p: p.set("corpus", {"source": "hub", "name": "no/where", "n_tokens": 512, "eval_tokens": 128,
          "context": 16}),
          job("corpus"), ("no/where", "hub"), _from_text("texts/book.txt")),
]  # fmt: skip

# language models


def model_file(name: str, content: str | bytes | None) -> Use:
    return put(f"model/{name}", content) if content is not None else delete(f"model/{name}")


def _restored(place: Place) -> None:
    """The model's folder as it was: what `write_model` writes."""
    from tests.tiny.model import write_model

    if (place / "model").exists():
        place.delete("model")
    write_model(place / "model")


def local_model(name: str, spoil: Use, *says: str, mend: Use = _restored) -> Fault:
    return Fault(name, spoil, job("language_model"), says, mend)


MODELS = [
    local_model("no folder", delete("model"), "model", "does not exist|missing", "correct"),
    local_model("a path that is misspelt", lambda p: p.set("model.path", "modle"), "modle", "correct",
                mend=lambda p: p.set("model.path", "model")),
    local_model("a file for a folder", both(delete("model"), put("model", "x")), "model", mend=both(delete("model"), _restored)),
    local_model("no config.json", model_file("config.json", None), "config.json"),
    local_model("config.json that is none", model_file("config.json", "{"), "model"),
    local_model("config.json that is a list", model_file("config.json", "[]"), "model"),
    local_model("an unknown kind of model", lambda p: p.edit_json("model/config.json", model_type="mine"), "model"),
    local_model("more layers than weights", lambda p: p.edit_json("model/config.json", n_layer=-1), "model"),
    local_model("no weights", model_file("model.safetensors", None), "model"),
    local_model("weights cut off", lambda p: p.write("model/model.safetensors", (p / "model/model.safetensors").read_bytes()[:999]) and None,
                "model"),
    local_model("no tokenizer", both(model_file("tokenizer.json", None), model_file("tokenizer_config.json", None)), "tokenizer"),
    local_model("a tokenizer that is none", model_file("tokenizer.json", "{}"), "tokenizer|model"),
    local_model("an own model that is not there", lambda p: p.set("model", {"source": "own", "name": "novel"}), "data/models/novel", "dvc pull",
                mend=lambda p: p.set("model", {"source": "own", "name": "own"})),
    local_model("an own model that was not fetched", lambda p: (p.set("model", {"source": "own", "name": "own"}), p.delete("data/models/own")),
                "data/models/own", "dvc pull", mend=FETCH),
    local_model("a local folder by the name of a hub model", lambda p: p.set("model", {"source": "hub", "name": "model"}), "model", "path",
                mend=lambda p: p.set("model", {"source": "path", "name": "small", "path": "model"})),
    local_model("a hub model that nobody has", lambda p: p.set("model", {"source": "hub", "name": "no/where"}), "no/where",
                mend=lambda p: p.set("model", {"source": "path", "name": "small", "path": "model"})),
    Fault("a layer beyond the model", lambda p: p.set("runs.local.hook_points", ["blocks.7.hook_resid_pre"]), why,
          ("`runs.local.hook_points` has blocks.7.hook_resid_pre", "3 blocks, 0 to 2; choose among"), lambda p: p.set("runs.local.hook_points", ["blocks.2.hook_resid_pre"])),  # noqa: E501
    Fault("nothing after the last hook point",
          lambda p: p.set("runs.local", {"objective": "e2e_ds", "hook_points": ["blocks.2.hook_resid_post"], "sparsity_coeffs": [1]}), why,
          ("`runs.local.hook_points` has blocks.2.hook_resid_post", "choose an earlier one"),
          lambda p: p.set("runs.local.hook_points", ["blocks.1.hook_resid_pre"])),
]  # fmt: skip


# what stages leave for each other


def _array(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Place, str], None]:
    return lambda p, name: np.save(p / name, change(np.load(p / name)))


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[Place, str], Any]:
    return lambda p, name: p.write(name, change((p / name).read_bytes())) and None


_CUT, _TURNED = _bytes(lambda b: b[:-5]), _bytes(lambda b: flipped(b, len(b) - 3))
_SHARD = f"{HOOK}/00000.npy"


def between(
    name: str, kind: str, file: str, change: Callable[[Place, str], Any], stage: str, *says: str, mend: Use = FETCH
) -> Fault:
    """A file of the prepared model, the corpus or the cache, and the stage that reads it."""
    return Fault(
        name, in_data(kind, file, change), job(stage), (*says, *([] if says and "gone" in name else [file.split("/")[-1]])), mend
    )


def _made_again(place: Place) -> None:
    """What the sentence asks for: delete the manifest, and run the command again, which then makes the cache first."""
    place.delete(f"{place.plan().cache}/manifest.json")
    assert place.run("activation_cache") == 0


def _gone(place: Place, name: str) -> None:
    place.delete(name)


def _remake(kind: str, stage: str) -> Use:
    """Delete the folder, as the sentence asks, and make it again."""
    return lambda p: (p.delete(getattr(p.plan(), kind)), p.run(stage))


_MODEL, _CORPUS, _CACHE = _remake("model", "language_model"), _remake("corpus", "corpus"), _remake("cache", "activation_cache")
BETWEEN = [
    between("decoder turned", "model", "decoder.safetensors", _TURNED, "corpus", "damaged", "delete", mend=_MODEL),
    between("decoder gone", "model", "decoder.safetensors", _gone, "corpus", "missing", "delete", mend=_MODEL),
    between("prepared model's manifest cut off", "model", "manifest.json", _CUT, "corpus", "JSON", mend=_MODEL),
    between("prepared model's manifest a list", "model", "manifest.json", lambda p, n: p.write(n, "[]") and None, "corpus", mend=_MODEL),
    between("prepared model's manifest empty", "model", "manifest.json", lambda p, n: p.write(n, "{}") and None, "corpus", mend=_MODEL),
    between("prepared model's manifest no text", "model", "manifest.json", lambda p, n: p.write(n, b"\xff") and None, "corpus", mend=_MODEL),
    between("prepared model's manifest gone", "model", "manifest.json", _gone, "corpus", "missing|prepared", mend=_MODEL),
    between("rows turned", "corpus", "train.npy", _TURNED, "activation_cache", "delete", mend=_CORPUS),
    between("rows cut off", "corpus", "train.npy", _CUT, "activation_cache", mend=_CORPUS),
    between("rows gone", "corpus", "train.npy", _gone, "activation_cache"),
    between("a row less", "corpus", "train.npy", _array(lambda a: a[1:]), "activation_cache", "delete", mend=_CORPUS),
    between("rows of objects", "corpus", "train.npy", lambda p, n: np.save(p / n, np.array([{}]), allow_pickle=True), "activation_cache",
            mend=_CORPUS),
    between("corpus' manifest cut off", "corpus", "manifest.json", _CUT, "activation_cache", mend=_CORPUS),
    between("corpus' manifest a list", "corpus", "manifest.json", lambda p, n: p.write(n, "[]") and None, "activation_cache", mend=_CORPUS),
    between("corpus' manifest empty", "corpus", "manifest.json", lambda p, n: p.write(n, "{}") and None, "activation_cache", mend=_CORPUS),
    between("corpus' manifest gone", "corpus", "manifest.json", _gone, "activation_cache"),
    between("held-out rows turned", "corpus", "eval.npy", _TURNED, f"measure/fidelity/{HOOK}/local-c0.5-s0", mend=_CORPUS),
    between("a shard turned", "cache", _SHARD, _TURNED, _TRAIN, "damaged", "manifest.json and run", mend=_made_again),
    between("a shard cut off", "cache", _SHARD, _CUT, _TRAIN, "manifest.json and run", mend=_made_again),
    between("a shard gone", "cache", _SHARD, _gone, _TRAIN, "missing", "manifest.json and run", mend=_made_again),
    between("a shuffle turned", "cache", "token_order.npy", _TURNED, _TRAIN, "damaged", "manifest.json and run", mend=_made_again),
    between("a shuffle gone", "cache", "token_order.npy", _gone, _TRAIN, "missing", "manifest.json and run", mend=_made_again),
    between("cache's manifest cut off", "cache", "manifest.json", _CUT, _TRAIN, mend=_CACHE),
    between("cache's manifest a list", "cache", "manifest.json", lambda p, n: p.write(n, "[]") and None, _TRAIN, mend=_CACHE),
    between("cache's manifest empty", "cache", "manifest.json", lambda p, n: p.write(n, "{}") and None, _TRAIN, mend=_CACHE),
    between("cache's manifest gone", "cache", "manifest.json", _gone, _TRAIN, mend=_CACHE),
    between("cache of another corpus", "cache", "manifest.json",
            lambda p, n: p.edit_json(n, identity=json.loads((p / n).read_text())["identity"] | {"corpus_sha256": "0"}), _TRAIN,
            "corpus_sha256", "delete", mend=_CACHE),
    between("cache without the hook point", "cache", "manifest.json", lambda p, n: p.edit_json(n, hook_points={}), _TRAIN, HOOK, "delete", mend=_made_again),  # noqa: E501
]  # fmt: skip

# training

_CHECKPOINT, _LOG = (f"scratch/tiny/{HOOK}/local-c0.5-s0/{name}" for name in ("checkpoint.safetensors", "log.jsonl"))


_WILD = {"penalty": "lp", "lp_p": 16.0, "lr": 10.0, "grad_clip": None, "warmup_fraction": 0.0}
TRAINING = [
    Fault(
        "a loss that is not finite",
        lambda p: p.set("runs.local.training", _WILD),
        job(_TRAIN),
        ("local-c0.5-s0", "lower `lp_p`"),
        lambda p: p.set("runs.local.training", {"penalty": "lp", "lp_p": 1.0}),
    ),
    Fault("a run to start from that is gone",
          lambda p: (p.set("runs.tuned", {"objective": "finetune", "start_from": "local", "hook_points": [HOOK], "sparsity_coeffs": [0.5]}),
                     p.delete(RELU)),
          job(f"train/{HOOK}/tuned-c0.5-s0"), ("local-c0.5-s0",), FETCH),
    Fault("a run to start from of another architecture",
          lambda p: (p.set("runs.tuned", {"objective": "finetune", "start_from": "local", "hook_points": [HOOK], "sparsity_coeffs": [0.5]}),
                     p.delete(RELU), (p / TOPK).rename(p / RELU)),
          job(f"train/{HOOK}/tuned-c0.5-s0"), ("local-c0.5-s0", "topk", "start_from"),
          both(delete(RELU), lambda p: p.run(_TRAIN))),
    *(
        Fault(f"a checkpoint that {name}", lambda p, w=write: (put(_CHECKPOINT, b"")(p), put(_LOG, "")(p), w(p / _CHECKPOINT)), job(_TRAIN),
              (_CHECKPOINT, "delete it"), delete(_CHECKPOINT))
        for name, write in {
            "is empty": lambda path: None,
            "is text": lambda path: path.write_text("checkpoint"),
            "is a pickle": lambda path: torch.save({"a": torch.zeros(3)}, path),
            "has no state": lambda path: save_file({"a": torch.zeros(3)}, path),
            "has a list for its state": lambda path: save_file({"a": torch.zeros(3)}, path, {"state": "[]"}),
            "has an empty state": lambda path: save_file({"a": torch.zeros(3)}, path, {"state": "{}"}),
        }.items()
    ),
]  # fmt: skip

# tables and what is made of them

_FIDELITY, _RUNS_TABLE, _CLAIMS = (f"results/tiny/tables/{name}.parquet" for name in ("fidelity", "runs", "claims"))
_SHOW, _DRAW = (
    saeworks_("runs", "tiny"),
    saeworks_("figure", "pareto", "--spec", "{}", "--tables", "results/tiny/tables", "--out", "drawn"),
)


def _frame(name: str, change: Callable[[Any], Any]) -> Use:
    def spoil(place: Place) -> None:
        import pandas as pd

        change(pd.read_parquet(place / name)).to_parquet(place / name)

    return spoil


def refetch_tables(place: Place) -> None:
    """Delete the table, as the sentence asks, and run what makes it."""
    place.delete(_RUNS_TABLE)
    assert place.run_missing() == 0


TABLES = [
    *(
        Fault(f"{what}: {name.split('/')[-1]} {state}", spoil, use, (name.split("/")[-1],), FETCH)
        for what, use, name in [
            ("runs", _SHOW, _FIDELITY), ("runs", _SHOW, _RUNS_TABLE), ("pareto", _DRAW, _FIDELITY), ("pareto", _DRAW, _RUNS_TABLE),
            ("claims", saeworks_("claims", "tiny"), _CLAIMS),
        ]
        for state, spoil in {
            "is gone": delete(name), "is empty": put(name, b""), "is text": put(name, "run,value"),
            "is cut off": lambda p, n=name: p.write(n, (p / n).read_bytes()[:-20]) and None,
            "lacks its columns": _frame(name, lambda f: f.rename(columns=lambda c: f"{c}_")),
        }.items()
    ),
    *(
        Fault(f"{what}: a folder for the table", both(delete(_CLAIMS if what == "claims" else _RUNS_TABLE),
              lambda p, w=what: (p / (_CLAIMS if w == "claims" else _RUNS_TABLE)).mkdir()), use, ("is a folder", "remove it and run snakemake"),
              lambda p, w=what: (p.delete(_CLAIMS if w == "claims" else _RUNS_TABLE), p.run_missing()))
        for what, use in {"runs": _SHOW, "pareto": _DRAW, "claims": saeworks_("claims", "tiny")}.items()
    ),
    Fault("an objective that nobody knows", _frame(_RUNS_TABLE, lambda f: f.assign(objective="mine")), _DRAW, ("`mine`", "none of local"), refetch_tables),  # noqa: E501
]  # fmt: skip

# sessions

_DATA = "results/tiny/saes"


def of_session(name: str, spoil: Use, *says: str, mend: Use) -> Fault:
    return Fault(name, spoil, session, says, mend)


SESSIONS = [
    of_session("no corpus", delete("data/corpora/tiny"), "corpus", "dvc pull", mend=FETCH),
    of_session("another corpus", in_data("corpus", "manifest.json", lambda p, n: p.edit_json(n, sha256={"train": "0"})), "corpus", mend=_CORPUS),
    of_session("a corpus whose manifest is cut off", in_data("corpus", "manifest.json", _CUT), "corpus", "dvc pull", mend=_CORPUS),
    of_session("a manifest that is gone", delete(f"{RELU}/manifest.json"), "manifest.json", "dvc pull", mend=FETCH),
    of_session("a manifest that is no text", put(f"{RELU}/manifest.json", b"\xff"), "manifest.json", mend=FETCH),
    of_session("a manifest that is a list", put(f"{RELU}/manifest.json", "[]"), "manifest.json", mend=FETCH),
    of_session("a manifest that is empty", put(f"{RELU}/manifest.json", '{"spec": 1, "data": 2}'), "manifest.json", mend=FETCH),
    of_session("a manifest without a hook point", lambda p: p.edit_json(f"{RELU}/manifest.json", spec={}), "manifest.json", mend=FETCH),
    of_session("a manifest without a model", lambda p: p.edit_json(f"{RELU}/manifest.json", data={"corpus_sha256": "0"}), "manifest.json|corpus",
               mend=FETCH),
    of_session("no model", lambda p: (p.delete("data/prepared"), p.delete("model")), "model", "does not exist|missing", mend=_restored),
    of_session("another model", lambda p: (p.delete("data/prepared"), p.delete("model"), (p / "data/models/own").rename(p / "model")), "model",
               "differ", mend=lambda p: (_restored(p), p.delete("data/prepared"))),
    of_session("a shard turned", in_data("cache", _SHARD, _TURNED), "damaged", mend=_made_again),
]  # fmt: skip

# further: what tensors, texts, files and numbers can be, beside wrong


def hook_of(path: str, hook_point: str | None) -> Use:
    return lambda place: saeworks.load_run(path, hook_point=hook_point) and None


def _weights_of_model(change: Callable[[dict[str, Any]], Any]) -> Use:
    return lambda p: p.edit_tensors("model/model.safetensors", change)


def _all(change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda tensors: tensors.update({name: change(value) for name, value in tensors.items()})


def _loop(name: str) -> Use:
    """A link to itself."""

    def spoil(place: Place) -> None:
        path = place / name
        if path.exists():
            place.delete(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(path)

    return spoil


def _unlink(name: str) -> Use:
    return lambda p: (p / name).unlink()


_E = f"{_BLOCK}.encoder.0.weight"
TENSORS = [
    *(
        other(f"{kind}: {name}", saved("ae.pt", _DL | {name: change(_DL[name])}), name.split(".")[0], word, mend=_AE)
        for kind, word, change in [
            ("without values", "empty float32", lambda v: v.to("meta")),
            ("sparse", "sparse float32", lambda v: v.to_sparse()),
            ("complex", "complex64", lambda v: v.to(torch.complex64)),
            ("quantised", "qint8", lambda v: torch.quantize_per_tensor(v, 0.1, 0, torch.qint8)),
            ("of whole numbers", "int64", lambda v: v.long()),
            ("one number for 10¹³", "repeats its numbers", lambda v: torch.zeros(1).expand(10**7, 10**6)),
        ]
        for name in ("bias", "encoder.weight")
    ),
    other("compressed rows", saved("ae.pt", _DL | {"decoder.weight": torch.ones(6, 10).to_sparse_csr()}), "decoder.weight", "sparse", mend=_AE),
    other("tensors in a tensor", saved("ae.pt", _DL | {"bias": torch.nested.nested_tensor([torch.ones(3), torch.ones(3)])}), "bias", "nested",
          mend=_AE),
    other("no inputs", saved("ae.pt", _linear(0, 10) | {"bias": torch.zeros(0)}), "encoder.weight", "rows and columns", mend=_AE),
    other("no features in a dictionary", saved("ae.pt", _linear(6, 0) | {"bias": torch.zeros(6)}), "encoder.weight", "rows and columns", mend=_AE),
    other("k without a value", saved("ae.pt", _DL_TOPK | {"k": torch.tensor(3, device="meta")}), "`k`", mend=_AE_TOPK),
    other("k that is sparse", saved("ae.pt", _DL_TOPK | {"k": torch.tensor([3]).to_sparse()}), "`k`", mend=_AE_TOPK),
    other("an e2e_sae decoder without values", saved("a.pt", _e2e(_BLOCK) | {f"{_BLOCK}.decoder.weight": torch.zeros(6, 10, device="meta")}),
          "decoder.weight", "empty", mend=saved("a.pt", _e2e(_BLOCK))),
    other("an e2e_sae encoder with no rows", saved("a.pt", _e2e(_BLOCK) | {_E: torch.zeros(0, 6)}), "rows and columns", mend=saved("a.pt",
          _e2e(_BLOCK))),
    other("sparsify without features", sparsify(lambda t: t.update({n: v[:0] for n, v in t.items() if n != "b_dec"})), "rows and columns",
          mend=sparsify()),
    weights("complex numbers", made("b_enc", lambda v: v.to(torch.complex64)), _NPY, "b_enc", "complex64"),
    weights("no features", lambda t: t.update(W_enc=t["W_enc"][:, :0], W_dec=t["W_dec"][:0], b_enc=t["b_enc"][:0]), _NPY, "W_enc|b_enc|W_dec",
          "shape"),
    weights("one layer too many", made("W_dec", lambda v: v[None]), _NPY, "W_dec", "shape"),
    cfg("d_in", d_in=0),
    cfg("d_sae", d_sae=0),
    cfg("d_sae", d_sae=float("inf")),
    cfg("activation_fn", mend=refetch, activation_fn="tanh-relu"),
    cfg("finetuning_scaling_factor", mend=refetch, finetuning_scaling_factor=True),
    Fault("a hook point that the run is not of", nothing, hook_of(RELU, "nonsense"), ("'nonsense'", f"one of {HOOK}", "leave `hook_point` out"),
          nothing,
          hook_of(RELU, HOOK)),
    Fault("a hook point of a file that names none", _AE, hook_of("other", HOOK), ("ae.pt", "one SAE", "leave `hook_point` out"), nothing,
          hook_of("other", None)),
    Fault("a run in a subfolder that is not there", nothing, hook_of(f"results/tiny/saes/{HOOK}", "topk-k9-s0"), ("'topk-k9-s0'", "topk-k4-s0"),
          nothing,
          hook_of(f"results/tiny/saes/{HOOK}", "topk-k4-s0")),
    *(
        Fault(f"a run at {path[:9]!r}", nothing, hook_of(path, None), (says,), nothing, hook_of(RELU, None))
        for path, says in [("a\0b", "no SAE at"), ("a" * 300, "too long"), ("/dev/null", "not a file of SAE weights"), (CONFIG,
              "not a file of SAE weights")]
    ),
    Fault("a link to itself for the weights", _loop(f"{RELU}/{_NPY}"), export, (_NPY,), both(_unlink(f"{RELU}/{_NPY}"), FETCH)),
    Fault("a link to itself for cfg.json", _loop(f"{RELU}/cfg.json"), export, ("cfg.json",), both(_unlink(f"{RELU}/cfg.json"), FETCH)),
    *(
        Fault(f"a pipe for {name}", both(delete(f"{RELU}/{name}"), lambda p, n=name: os.mkfifo(p / RELU / n)), export,
              (f"{name} is not a regular file", "fetch it again"), both(_unlink(f"{RELU}/{name}"), FETCH))
        for name in ("cfg.json", _NPY)
    ),
    other("a pipe for the weights", lambda p: (_AE(p), p.delete("other/ae.pt"), os.mkfifo(p / "other/ae.pt")),
          "other/ae.pt is not a regular file", mend=both(_unlink("other/ae.pt"), _AE)),
    Fault("an export over the run itself", nothing, saeworks_("export", RELU, "--to", "saelens", "--out", RELU), ("--out", RELU), nothing, export),
    Fault("an export to a file", put("exported", "x"), export, ("exported",), delete("exported")),
]  # fmt: skip

_BOM = b"\xef\xbb\xbf"
TEXTS += [
    text("a byte order mark", "a.txt", _BOM + TEXT.encode(), "a.txt begins with a byte order mark", "without one"),
    text("UTF-16", "a.txt", TEXT.encode("utf-16"), "byte order mark", "UTF-8"),
    text("a byte order mark in an xz", "a.txt.xz", lzma.compress(_BOM + TEXT.encode()), "byte order mark"),
    text("a byte order mark before JSON", "a.jsonl", _BOM + _GOOD_TEXT[".jsonl"], "byte order mark"),
    text("line ends of Windows in an xz", "a.txt.xz", lzma.compress(TEXT.replace("\n", "\r\n").encode()), "line 1 of .*a.txt.xz", "CRLF"),
    text("a text twice in a line", "a.jsonl", f'{_LINE}{{"text": "a", "text": "b"}}\n', "line 2", "'text' twice", "keep one"),
    text("a key twice within a line", "a.jsonl", '{"text": "a", "meta": {"b": 1, "b": 2}}\n', "line 1", "'b' twice"),
    text("nothing in a .jsonl", "a.jsonl", "", "add text"),
    text("a line without anything", "a.jsonl", f"{_LINE}\n{_LINE}", "line 2", "correct or remove it"),
    text("half a character", "a.jsonl", '{"text": "\\ud800"}\n', "line 1"),
    text("NaN for a text", "a.jsonl", '{"text": NaN}\n', "line 1"),
    text("true among token ids", "a.jsonl", '{"text": [1, true]}\n', "line 1"),
    text("a deep line", "a.jsonl", '{"text": ' + "[" * 100_000 + "\n", "line 1"),
    text("an xz of another kind inside", "a.txt.xz", b"\x1f\x8b\x08\x00" + b"x" * 50, "cannot be read"),
    Fault("a link to itself for a text", both(_loop("texts/l.txt"), _from_text("texts/l.txt")), job("corpus"), ("l.txt",
          "does not exist|cannot be read"),
          both(_unlink("texts/l.txt"), put("texts/l.txt", TEXT))),
    Fault("a device for a text", _from_text("/dev/zero"), job("corpus"), ("/dev/zero", "kind|no file"), _from_text("texts/book.txt")),
    Fault("a name longer than any", _from_text(f"texts/{'a' * 300}.txt"), job("corpus"), ("does not exist|too long",),
          _from_text("texts/book.txt")),
    *(
        Fault(f"to measure on: {name}",
              both(put("texts/a.jsonl", content),
                   setting(studies__texts={"files": {"own": "texts/a.jsonl"}, "text_tokens": 32}, draw=["texts_table"])),
              job(f"measure/texts/{RELU.removeprefix('results/tiny/saes/')}"), says, put("texts/a.jsonl", _GOOD_TEXT[".jsonl"]))
        for name, content, says in [
            ("no document", "", ("texts/a.jsonl has no document", "add text", "`studies.texts.files.own`")),
            ("token ids", _LINE * 2 + '{"text": [1, 2, 3]}\n', ("document 2 of texts/a.jsonl is a list of token ids", "put its text")),
            ("a byte order mark", _BOM + _GOOD_TEXT[".jsonl"], ("texts/a.jsonl begins with a byte order mark", "without one")),
        ]
    ),
]  # fmt: skip

MODELS += [
    local_model("NaN among the weights", _weights_of_model(lambda t: next(iter(t.values())).flatten().__setitem__(0, float("nan"))), "model",
          "not finite"),
    local_model("infinity among the weights", _weights_of_model(lambda t: list(t.values())[-1].view(-1).__setitem__(0, float("inf"))), "model",
          "not finite"),
    local_model("weights that overflow", _weights_of_model(_all(lambda v: v * 1e30)), "model", "not finite|overflow"),
    local_model("weights that are a folder", both(model_file("model.safetensors", None), lambda p: (p / "model/model.safetensors").mkdir()),
          "model"),
    local_model("no heads", lambda p: p.edit_json("model/config.json", n_head=0), "model"),
    local_model("heads that do not divide the width", lambda p: p.edit_json("model/config.json", n_head=7), "model"),
    local_model("a width in words", lambda p: p.edit_json("model/config.json", n_embd="wide"), "model"),
    local_model("a vocabulary of another size", lambda p: p.edit_json("model/config.json", vocab_size=7), "model"),
    local_model("no positions", lambda p: p.edit_json("model/config.json", n_positions=0), "model"),
    local_model("a link to itself for config.json", _loop("model/config.json"), "config.json|model", mend=both(delete("model"), _restored)),
    local_model("a path longer than any", lambda p: p.set("model.path", "a" * 300), "correct", mend=lambda p: p.set("model.path", "model")),
]  # fmt: skip

KEYS += [
    *(
        key(name, bad, f"`{name}", says, mend=good)
        for name, bad, says, good in [
            ("corpus.seed", 2**32, "less than", 1), ("studies.umap.seed", -1, "greater than", 1), ("studies.errors.n_draws", 10**9, "less than",
                  100),
            ("studies.errors.logits_mb", 10**9, "less than", 64), ("figures.errors_table.decimals", 400, "less than", 3),
            ("figures.errors_histogram.bins", 10**9, "less than", 20), ("training.log_every", 10**12, "less than", 10),
            ("runs.local.seeds", [2**40], "less than", [1]), ("runs.topk.k", [10**9], "less than", [4]), ("activations.block_rows", 0,
                  "greater than", 4),
            ("training.lr", "1e-400", "greater than 0", 1e-3), ("training.lr", "1e-3.5", "number", 1e-3), ("training.d_sae", "0x20", "integer", 32),
            ("training.n_tokens", "1,000", "integer", 512), ("model.path", "", "character", "model"),
            ("model.path", "a\0b", "control", "model"), ("model.path", 5, "string", "model"), ("draw", "pareto", "list", ["pareto"]),
            ("runs.local.hook_points", [f"blocks.{'9' * 5000}.hook_resid_pre"], "hook", [HOOK]),
            ("runs.local.hook_points", ["blocks.-1.hook_resid_pre"], "hook", [HOOK]), ("runs.local.hook_points", ["blocks.01.hook_resid_pre"],
                  "hook", [HOOK]),
            ("runs.local.hook_points", [HOOK.upper()], "hook", [HOOK]), ("runs.local.sparsity_coeffs", [0.0], "greater than 0", [0.5]),
            ("runs.local.sparsity_coeffs", 0.5, "list", [0.5]), ("runs.local.seeds", [True], "true|number|integer", [1]),
        ]
    ),
    key("runs", [], "`runs`", mend=EXPERIMENT["runs"]),
    key("runs", {}, "`runs`", mend=EXPERIMENT["runs"]),
    key("runs.local", None, "`runs.local`", mend=EXPERIMENT["runs"]["local"]),
    key("model", None, "`?model`?", mend=EXPERIMENT["model"]),
    key("model", "gpt2", "`?model`?", mend=EXPERIMENT["model"]),
    key("corpus", {}, "`corpus.source`", mend=EXPERIMENT["corpus"]),
    key("experiment", "con fig", "`experiment`", mend="tiny"),
]  # fmt: skip

FILES += [
    raw("a timestamp for a seed",
          f"{_YAML}runs: {{a: {{objective: local, hook_points: [{HOOK}], sparsity_coeffs: [1], seeds: [2001-12-14]}}}}\n", "seeds"),
    raw("a set for a list", f"{_YAML}runs: {{a: {{objective: local, hook_points: !!set {{{HOOK}}}, sparsity_coeffs: [1]}}}}\n",
          "hook_points` is a set", "write a list"),
    raw("bytes for a list", f"{_YAML}runs: {{a: {{objective: local, hook_points: [{HOOK}], sparsity_coeffs: !!binary aGVsbG8=}}}}\n",
          "sparsity_coeffs"),
    raw("a block that holds itself", f"{_YAML}runs: &a {{a: *a}}\n", "runs|itself"),
    Fault("a link to itself", _loop(CONFIG), why, (CONFIG,), both(_unlink(CONFIG), Place.write_config)),
]  # fmt: skip

BETWEEN += [
    between("a cache of other widths", "cache", "manifest.json", lambda p, n: _of_hook(p, n, d_in=8), _TRAIN, mend=_CACHE),
    between("a cache in another type", "cache", "manifest.json", lambda p, n: p.edit_json(n, dtype="float16"), _TRAIN, "float", mend=_CACHE),
    between("a cache without shards", "cache", "manifest.json", lambda p, n: _of_hook(p, n, shards=[]), _TRAIN, mend=_CACHE),
    between("a cache with a shard twice", "cache", "manifest.json", lambda p, n: _of_hook(p, n, twice=True), _TRAIN, mend=_CACHE),
    between("a cache of no rows in a shard", "cache", "manifest.json", lambda p, n: p.edit_json(n, rows_per_shard=0), _TRAIN, mend=_CACHE),
    between("a cache without its shuffles", "cache", "manifest.json", lambda p, n: p.edit_json(n, orders={}), _TRAIN, mend=_CACHE),
    between("a corpus of as many rows as there are atoms", "corpus", "train.npy",
            lambda p, n: p.edit_json(n.replace("train.npy", "manifest.json"), train_rows=10**80), "activation_cache", mend=_CORPUS),
    between("rows that are a link to itself", "corpus", "train.npy", lambda p, n: _loop(n)(p), "activation_cache",
            mend=lambda p: ((p / f"{p.plan().corpus}/train.npy").unlink(), _CORPUS(p))),
    between("a prepared model of no layers", "model", "manifest.json",
            lambda p, n: p.edit_json(n, arch=json.loads((p / n).read_text())["arch"] | {"n_layers": 0}), "corpus", mend=_MODEL),
    between("a prepared model that is no engine", "model", "manifest.json", lambda p, n: p.edit_json(n, engine="steam"), "corpus", mend=_MODEL),
    Fault("a file for the folder of all states", both(delete("scratch"), put("scratch", "x")), job(_TRAIN), ("scratch",), delete("scratch")),
]  # fmt: skip


def _of_hook(place: Place, name: str, twice: bool = False, **changes: Any) -> None:
    """Change what the cache's manifest says of the hook point."""
    points = json.loads((place / name).read_text())["hook_points"]
    points[HOOK] |= changes
    if twice:
        points[HOOK]["shards"] *= 2
    place.edit_json(name, hook_points=points)


def _data_of_run(place: Place) -> dict[str, Any]:
    return json.loads((place / RELU / "manifest.json").read_text())["data"]


TABLES += [
    Fault("numbers in words", _frame(_FIDELITY, lambda f: f.assign(value="high")), _SHOW, ("fidelity",), FETCH),
    Fault("a table without rows", _frame(_RUNS_TABLE, lambda f: f[:0]), _SHOW, ("run",), FETCH),
    option("an experiment above", "runs ../tiny", "tiny", good="runs tiny"),
]  # fmt: skip

SESSIONS += [
    of_session("a layer beyond the model", lambda p: p.edit_json(f"{RELU}/manifest.json", spec={"hook_point": "blocks.9.hook_resid_pre"}),
               "blocks.9.hook_resid_pre", "3 blocks", mend=refetch),
    of_session("settings that are none", lambda p: p.edit_json(f"{RELU}/manifest.json", data=_data_of_run(p) | {"settings": {"dtype": "int8"}}),
               "`activations.dtype` is 'int8'", "one of float32", mend=refetch),
    Fault("no such folder for the session", nothing, lambda p: saeworks.load_session(RELU, "nowhere") and None, ("nowhere/data/corpora",
          "corpus"), nothing,
          session),
]  # fmt: skip


PRETRAIN = [
    Fault(f"pretrain: {name} {bad!r}",
          lambda p, n=name, b=bad: (p.values.clear(), p.values.update(name="mine", pretrain={
              "train_text": "texts/book.txt", "val_text": "texts/book.txt", "source": "a book"} | {n: b}), p.write_config()),
          saeworks_("why", "pretrain", "--configfile", CONFIG), (f"`pretrain.{name}", says),
          lambda p, n=name, g=good: p.set(f"pretrain.{n}", g))
    for name, bad, says, good in [
        ("vocab_size", 0, "greater than", 300), ("n_layers", 2.5, "integer", 2), ("lr", -1, "greater than 0", 1e-3),
        ("dtype", "float16", "float32", "float32"), ("source", 3, "string", "a book"), ("steps", 3, "did you mean 'n_steps'", ...),
        ("weight_decay", float("nan"), "finite", 0.0),
        ("n_layers", 0, "greater than 0", 2), ("n_heads", 0, "greater than 0", 2), ("context", 1, "greater than", 16),
        ("seed", 2**32, "less than", 1), ("n_steps", 10**12, "less than", 10),     ]
]  # fmt: skip

_TEXT_OF_MODEL = {"train_text": "texts/book.txt", "val_text": "texts/book.txt", "source": "a book", "vocab_size": 300, "n_layers": 1, "d_model": 8,
                  "n_heads": 2, "context": 16, "batch_rows": 4, "micro_rows": 4, "n_steps": 2, "warmup_steps": 1}  # fmt: skip


def _pretrain(**changes: Any) -> Use:
    spec = json.dumps(_TEXT_OF_MODEL | changes)
    return saeworks_("pretrain", "--spec", spec, "--name", "mine", "--out", "data/models/mine", "--scratch", "scratch/mine")


_put_texts = both(put("texts/short.txt", "few"), put("texts/same.txt", "a" * 20_000))
PRETRAIN += [
    Fault(f"pretrain: {name}", _put_texts, _pretrain(**changes), says, nothing, _pretrain())
    for name, changes, says in [
        ("heads that do not divide the width", {"n_heads": 3}, ("`d_model` is 8", r"`n_heads` \(3\)", "change one")),
        ("a long text of few tokens", {"train_text": "texts/same.txt"}, ("`pretrain.train_text`", "same.txt", "add text")),
        (
            "a text that is not plain",
            {"val_text": "texts/book.jsonl"},
            ("`pretrain.val_text` is texts/book.jsonl", "save the text"),
        ),
        ("a text of less than a row", {"train_text": "texts/short.txt"}, ("`pretrain.train_text`", "short.txt", "add text")),
        (
            "a held-out text of less than a row",
            {"val_text": "texts/short.txt"},
            ("`pretrain.val_text`", "a row has 16", "add text"),
        ),
        ("no such text", {"val_text": "texts/no.txt"}, ("texts/no.txt", "does not exist", "correct")),
    ]
]

FAULTS: dict[str, list[Fault]] = {
    "keys of the configuration": KEYS,
    "settings that contradict each other": TOGETHER,
    "configuration files": FILES,
    "names": NAMES,
    "commands": OPTIONS,
    "stages": STAGES,
    "files of runs": RUNS,
    "files of other libraries": OTHERS,
    "tensors": TENSORS,
    "texts": TEXTS,
    "language models": MODELS,
    "files between stages": BETWEEN,
    "training": TRAINING,
    "tables": TABLES,
    "sessions": SESSIONS,
    "pre-training": PRETRAIN,
}
