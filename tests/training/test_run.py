"""A run depends on its settings and seed alone: not on interruptions, and not on anything that it does not use."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.each import each
from tests.tiny_pipeline import CONTEXT, D_MODEL, HOOK, run_spec, write_corpus, write_model

from saeworks.activations.cache import ActivationCache, write_cache
from saeworks.config.activations import ActivationsConfig
from saeworks.config.objectives import OBJECTIVES
from saeworks.config.recipes import PRESETS, settings_without_effect
from saeworks.config.training import RunSpec, TrainingConfig
from saeworks.lm.prepare import load_model
from saeworks.lm.sites import Site
from saeworks.sae.build import build_sae
from saeworks.sae.execution.choice import ByDensity
from saeworks.sae.formats import load_sae
from saeworks.sae.init import initialise
from saeworks.store.checkpoint import load_checkpoint
from saeworks.store.errors import Interrupted, UserError
from saeworks.store.seeds import derive_seed
from saeworks.training import data, member, prepare
from saeworks.training import publish as publishing
from saeworks.training import run as training
from saeworks.training.clean import CleanPass
from saeworks.training.estimate import memory_needed
from saeworks.training.objective import Objective
from saeworks.training.schedule import lr_factor

_TOTAL = Objective.total
_FILES = ["cfg.json", "log.jsonl", "manifest.json", "sae_weights.safetensors"]
_CONFIG = ActivationsConfig(batch_rows=8, shard_tokens=10 * CONTEXT)
_OTHER_HOOKS = ["blocks.2.hook_resid_pre", "blocks.1.hook_mlp_out", "blocks.1.hook_resid_post"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory, tiny_model, tiny_corpus) -> Path:
    folder = tmp_path_factory.mktemp("cache") / "cache"
    write_cache(_CONFIG, [HOOK, *_OTHER_HOOKS], tiny_model, tiny_corpus, folder)
    return folder


@pytest.fixture
def train(tmp_path, cache, tiny_model, tiny_corpus):
    """Train `spec` and return its folder; `name` keeps several runs of one test apart."""

    def call(spec: RunSpec, name: str = "run", config: ActivationsConfig = _CONFIG, start_from: Path | None = None) -> Path:
        out, scratch = tmp_path / name, tmp_path / "scratch" / name
        shutil.rmtree(out, ignore_errors=True)
        training.train(spec, config, cache, tiny_model, tiny_corpus, out, scratch, progress=False, start_from=start_from)
        assert not scratch.exists()
        return out

    return call


@pytest.fixture(scope="module")
def started(tmp_path_factory, cache, tiny_model, tiny_corpus):
    """A trained local run that a `finetune` run of these settings can start from."""
    known: dict[str, Path] = {}

    def call(**settings: object) -> Path:
        key = json.dumps(settings)
        if key not in known:
            folder = tmp_path_factory.mktemp("start")
            spec = run_spec("local", name="start", **settings)
            training.train(spec, _CONFIG, cache, tiny_model, tiny_corpus, folder / "run", folder / "scratch", progress=False)
            known[key] = folder / "run"
        return known[key]

    return call


@pytest.fixture
def known(train):
    """The files that `train` makes of `spec`; what a test asks for again is not trained again."""
    made: dict[str, dict[str, bytes]] = {}

    def call(spec: RunSpec, start_from: Path | None = None) -> dict[str, bytes]:
        key = f"{spec.model_dump_json()} {start_from}"
        if key not in made:
            made[key] = _bytes(train(spec, start_from=start_from))
        return made[key]

    return call


@pytest.fixture
def at_step(monkeypatch):
    """Call `action` at the loss of the given step, counted over all steps from now on; returns the list of steps made."""

    def call(step: int, action) -> list[int]:
        seen: list[int] = []

        def counted(*args, **kwargs):
            seen.append(1)
            value = _TOTAL(*args, **kwargs)
            if len(seen) == step:
                result = action()
                value = value if result is None else value * result
            return value

        monkeypatch.setattr(Objective, "total", counted)
        return seen

    return call


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _power_cut() -> None:
    raise OSError("power cut")


def _bytes(folder: Path) -> dict[str, bytes]:
    assert sorted(p.name for p in folder.iterdir()) == _FILES
    return {name: (folder / name).read_bytes() for name in _FILES}


def _log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("objective", ["local", "e2e", "e2e_ds"])
def test_weights_and_log_equal_a_plain_loop(train, cache, tiny_model, objective):
    """The whole loop again: Adam by its formula, the schedule, clipping, the order of the data and every number of the log."""
    spec = run_spec(objective, seed=3, grad_clip=2.0, sparsity_coeff=1.0)
    folder = train(spec)

    source, model = ActivationCache(cache, HOOK), load_model(tiny_model)
    n_steps, batch, tokens = 40, 4 * CONTEXT, 30 * CONTEXT
    sae = build_sae(D_MODEL, spec.training)
    initialise(sae, spec.training, torch.Generator().manual_seed(derive_seed("init", 3, objective)))
    start = derive_seed("data", 3) % tokens
    moments = {p: (torch.zeros_like(p), torch.zeros_like(p)) for p in sae.parameters()}
    silent, lines, clipped = torch.zeros(24), [], 0
    later = ["blocks.2.hook_resid_pre", "blocks.3.hook_resid_pre"]
    goal = Objective(spec, later if objective == "e2e_ds" else [])
    for step in range(n_steps):
        if objective == "local":
            order = source.token_order[(torch.arange(batch) + start + step * batch) % tokens]
            everything = source.sequences(0, 30)[source.sequence_order.argsort()].flatten(0, 1)  # by corpus row
            terms, forward = goal.terms(sae, ByDensity(), everything[order])
        else:
            order = (torch.arange(4) + start // CONTEXT + step * 4) % 30
            x = source.sequences(0, 30)[order]
            clean = CleanPass(model, Site.parse(HOOK, model.arch), x, x, later)
            terms, forward = goal.terms(sae, ByDensity(), x.flatten(0, 1), clean)
        loss = goal.total(terms)
        gradients = torch.autograd.grad(loss, list(sae.parameters()))
        norm = sum(g.double().square().sum().item() for g in gradients) ** 0.5
        clipped += norm > 2.0
        lr = 1e-2 * lr_factor(spec.training, step, n_steps)
        for parameter, gradient in zip(sae.parameters(), gradients, strict=True):
            gradient = gradient * min(1.0, 2.0 / (norm + 1e-6))
            first, second = moments[parameter]
            first.mul_(0.9).add_(0.1 * gradient)
            second.mul_(0.999).add_(0.001 * gradient**2)
            update = first / (1 - 0.9 ** (step + 1)) / ((second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
            with torch.no_grad():
                parameter.sub_(lr * update)
        fired = forward.codes.dense() > 0
        silent = torch.where(fired.any(dim=0), 0, silent + batch)
        lines.append(
            {"step": step + 1, "tokens": (step + 1) * batch, "lr": lr, "loss": loss.item(), "grad_norm": norm}
            | {name: value.item() for name, value in terms.items()}
            | {"l0": fired.sum().item() / batch, "dead_features": (silent >= 200).sum().item()}
        )
    assert 5 < clipped < n_steps or objective != "local"
    loaded = load_sae(folder)
    for name in ("W_enc", "b_enc", "b_dec"):
        torch.testing.assert_close(getattr(loaded, name), getattr(sae, name).detach(), rtol=2e-3, atol=2e-4)
    torch.testing.assert_close(loaded.W_dec, sae.dictionary().detach(), rtol=2e-3, atol=2e-4)
    log = _log(folder)
    assert [line["step"] for line in log] == list(range(4, 41, 4))
    for line in log:
        expected = lines[line["step"] - 1]
        assert line.keys() == expected.keys()
        for key, value in expected.items():
            assert line[key] == pytest.approx(value, rel=5e-3, abs=1e-6), (line["step"], key)


@pytest.mark.parametrize("objective", ["local", "e2e", "e2e_ds"])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(train, objective):
    first = _bytes(train(run_spec(objective), "first"))
    assert _bytes(train(run_spec(objective), "second")) == first
    other = _bytes(train(run_spec(objective, seed=1), "other"))
    assert all(other[name] != first[name] for name in _FILES)


def test_the_global_random_state_is_neither_read_nor_moved(train):
    torch.manual_seed(1)
    first = _bytes(train(run_spec(), "first"))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert _bytes(train(run_spec(), "second")) == first
    assert torch.equal(torch.get_rng_state(), before)


def test_objectives_and_seeds_start_from_different_initialisations_and_data(train, monkeypatch):
    starts = {}
    for objective, seed in (("local", 0), ("local", 1), ("e2e", 0), ("e2e_ds", 0)):
        # one step of rate 0 (the start of the warm-up): the published weights are the initial ones
        spec = run_spec(objective, seed=seed, n_tokens=4 * CONTEXT, warmup_fraction=0.9)
        starts[objective, seed] = load_sae(train(spec, f"{objective}{seed}")).W_enc
    values = list(starts.values())
    assert all(not torch.equal(values[i], values[j]) for i in range(4) for j in range(i))


_SHORT = {"n_tokens": 24 * 4 * CONTEXT}
_DYING = _SHORT | {"sparsity_coeff": 20.0, "dead_window_tokens": 100}  # features die within a few steps
_LONG = _DYING | {"n_tokens": 40 * 4 * CONTEXT, "sparsity_coeff": 60.0}  # many of them
_MATRYOSHKA = {"architecture": "matryoshka_batch_topk", "matryoshka_fractions": [0.25, 0.25, 0.5]}
_TOPK = _SHORT | {"architecture": "topk"}

# setting, objective, a context in which it is used, another value than the one it has there
_USED = [
    ("architecture", "local", {}, "gated"),
    ("architecture", "local", {}, "jumprelu"),
    ("d_sae", "local", {}, 25),
    ("decoder", "local", {}, "renormalised"),
    ("decoder", "local", {}, "free"),
    ("pre_bias", "local", {}, True),
    ("topk_relu", "local", {"architecture": "topk", "k": 20}, False),
    ("multi_topk", "local", _TOPK, True),
    ("matryoshka_fractions", "local", _MATRYOSHKA, [0.5, 0.5]),
    ("jumprelu_bandwidth", "local", {"architecture": "jumprelu", "jumprelu_bandwidth": 0.5}, 0.3),
    ("jumprelu_threshold", "local", {"architecture": "jumprelu"}, 0.1),
    *(("mse_norm", "local", {}, norm) for norm in ("input_norm", "variance")),
    ("mse_norm", "local", _TOPK, "variance"),
    ("mse_norm", "e2e", {}, "variance"),
    ("mse_norm", "e2e", _TOPK | {"reconstruction_coeff": 0.5}, "variance"),
    ("mse_norm", "e2e", _TOPK | {"multi_topk": True}, "variance"),
    ("mse_norm", "e2e", _TOPK | {"dead_features": "ghost_grads", "dead_window_tokens": 50}, "variance"),
    ("mse_norm", "e2e_ds", {"architecture": "gated"}, "variance"),
    ("mse_norm", "finetune", _TOPK, "variance"),
    *(("penalty", "local", {}, penalty) for penalty in ("lp", "tanh")),
    ("penalty", "local", {"decoder": "free"}, "l1_decoder_norm"),
    ("penalty", "local", {"architecture": "jumprelu"}, "l1"),
    ("lp_p", "local", {"penalty": "lp"}, 0.9),
    ("tanh_scale", "local", {"penalty": "tanh"}, 3.0),
    ("sparsity_warmup_fraction", "local", {}, 0.5),
    ("reconstruction_coeff", "e2e", {}, 0.3),
    ("reconstruction_coeff", "finetune", {}, 0.3),
    *(("kl_coeff", objective, {}, 0.3) for objective in ("e2e", "e2e_ds", "finetune")),
    *(("downstream_coeff", objective, {}, 0.3) for objective in ("e2e_ds", "finetune")),
    ("downstream_hook_points", "e2e_ds", {}, ["blocks.3.hook_resid_pre"]),
    ("downstream_hook_points", "e2e_ds", {}, ["blocks.2.attn.hook_z", "blocks.3.hook_resid_post"]),
    ("downstream_hook_points", "finetune", {"downstream_coeff": 1.0}, ["blocks.3.hook_resid_pre"]),
    ("downstream_next", "e2e_ds", {}, 1),
    ("downstream_next", "finetune", {"downstream_coeff": 1.0}, 1),
    *(("encoder_init", "local", {}, kind) for kind in ("kaiming", "kaiming_d_sae", "transpose")),
    *(("decoder_init", "local", {}, kind) for kind in ("kaiming", "gaussian")),
    ("decoder_init_norm", "local", {}, 0.3),
    ("encoder_bias_init", "local", {}, "zero"),
    *(("decoder_bias_init", "local", {}, kind) for kind in ("zero", "mean", "geometric_median")),
    *(("activation_scale", "local", {}, kind) for kind in ("norm", "mean_square", "layer_norm")),
    ("statistics_tokens", "local", {"decoder_bias_init": "mean", "statistics_tokens": 100}, 200),
    ("statistics_tokens", "local", {"activation_scale": "norm", "statistics_tokens": 100}, 200),
    ("statistics_tokens", "local", {"mse_norm": "variance", "statistics_tokens": 100}, 200),
    ("statistics_tokens", "local", _LONG | {"dead_features": "resample", "statistics_tokens": 100}, 200),
    *(("dead_features", "local", _DYING, kind) for kind in ("ghost_grads", "ghost_grads_exp_relu", "auxk", "resample")),
    *(("dead_window_tokens", "local", _DYING | {"dead_features": kind}, 300) for kind in ("ghost_grads", "auxk", "resample")),
    ("dead_window_tokens", "local", _DYING, 300),
    ("auxk_k", "local", _LONG | {"dead_features": "auxk"}, 1),
    ("auxk_normalised", "local", _DYING | {"dead_features": "auxk"}, False),
    ("auxk_coeff", "local", _DYING | {"dead_features": "auxk"}, 0.5),
    ("resample_tokens", "local", _DYING | {"dead_features": "resample"}, [480]),
    ("resample_warmup_tokens", "local", _DYING | {"dead_features": "resample"}, 100),
    ("n_tokens", "local", {}, 26 * 4 * CONTEXT),
    *(("order", objective, {}, "rows") for objective in ("local", "continued")),
    ("batch_tokens", "local", {}, 5 * CONTEXT),
    ("lr", "local", {}, 2e-2),
    ("adam_beta1", "local", {}, 0.0),
    ("adam_beta2", "local", {}, 0.9),
    ("adam_eps", "local", {}, 1e-3),
    ("warmup_fraction", "local", {}, 0.5),
    *(("schedule", "local", {}, kind) for kind in ("linear_tail", "constant")),
    ("tail_fraction", "local", {"schedule": "linear_tail"}, 0.5),
    *(("final_lr_fraction", "local", {"schedule": kind}, 0.9) for kind in ("cosine", "linear_tail")),
    ("grad_clip", "local", {}, 1e-2),
    ("weight_ema", "local", {}, 0.9),
    ("log_every", "local", {}, 5),
    ("checkpoint_every", "local", {}, 3),
]
_EXCEPTIONS = {
    "preset": "resolved by the experiment file before a run exists",
    "precision": "a matter of CUDA: tested to be refused on the CPU",
    "tf32": "a matter of CUDA",
}
_LOG_ONLY = {"log_every"}  # and `dead_window_tokens` where nothing is done about dead features
_NEITHER = {"checkpoint_every"}  # results do not depend on interruptions, which is why nothing may


def _case(objective: str, context: dict, started) -> dict:
    """Keyword arguments of `train` beside the spec."""
    kept = {key: context[key] for key in ("architecture", "matryoshka_fractions") if key in context}
    return {"start_from": started(**kept)} if objective in ("finetune", "continued") else {}


def test_every_training_setting_is_covered_below():
    assert {key for key, *_ in _USED} | _EXCEPTIONS.keys() == TrainingConfig.model_fields.keys()


@each("key, objective, context, value", _USED)
def test_every_training_setting_changes_what_it_should_and_nothing_else(known, started, key, objective, context, value):
    context = _SHORT | context
    base, changed = run_spec(objective, **context), run_spec(objective, **context | {key: value})
    assert getattr(base.training, key) != getattr(changed.training, key)
    for spec in (base, changed):
        assert key not in settings_without_effect(objective, spec.training.model_dump())
    first, other = (known(spec, **_case(objective, context, started)) for spec in (base, changed))
    log_only = _LOG_ONLY | ({"dead_window_tokens"} if base.training.dead_features == "none" else set())
    assert (other["sae_weights.safetensors"] != first["sae_weights.safetensors"]) == (key not in log_only | _NEITHER)
    if key not in ("weight_ema", "resample_tokens"):  # the average is not in the log; resampling is seen only in a line after it
        assert (other["log.jsonl"] != first["log.jsonl"]) == (key not in _NEITHER)
    assert other["manifest.json"] != first["manifest.json"]


_UNUSED_VALUES = {
    "resample_warmup_tokens": 100,
    "preset": "gao2024",
    "order": "rows",
    "topk_relu": False,
    "multi_topk": True,
    "matryoshka_fractions": [0.5, 0.5],
    "jumprelu_bandwidth": 0.5,
    "jumprelu_threshold": 0.2,
    "mse_norm": "variance",
    "penalty": "tanh",
    "lp_p": 0.9,
    "tanh_scale": 3.0,
    "sparsity_warmup_fraction": 0.5,
    "reconstruction_coeff": 0.3,
    "kl_coeff": 0.3,
    "downstream_coeff": 0.3,
    "downstream_hook_points": ["blocks.3.hook_resid_pre"],
    "downstream_next": 1,
    "encoder_init": "kaiming",
    "decoder_init": "gaussian",
    "decoder_init_norm": 0.3,
    "encoder_bias_init": "zero",
    "decoder_bias_init": "geometric_median",
    "statistics_tokens": 100,
    "auxk_k": 3,
    "auxk_coeff": 0.9,
    "auxk_normalised": False,
    "resample_tokens": [48],
    "tail_fraction": 0.7,
    "final_lr_fraction": 0.7,
}
# in `finetune` they describe the run that it starts from, whose values they have (config.experiment)
_OF_THE_START = {"d_sae", "activation_scale"}


@each(
    "objective, context",
    [
        ("local", {}),
        ("local", {"schedule": "constant"}),
        ("local", {"architecture": "gated", "dead_features": "ghost_grads", "dead_window_tokens": 100}),
        ("local", {"architecture": "jumprelu"}),
        ("local", {"architecture": "topk", "dead_features": "auxk"}),
        ("local", {"penalty": "lp", "dead_features": "resample"}),
        ("e2e", {}),
        ("e2e", {"architecture": "topk"}),
        ("e2e", {"architecture": "batch_topk"}),
        ("e2e_ds", _MATRYOSHKA),
        ("finetune", {}),
        ("finetune", {"architecture": "topk"}),
        ("finetune", {"architecture": "jumprelu"}),
        ("continued", {}),
    ],
)
def test_settings_without_effect_have_none(known, started, objective, context):
    context = _SHORT | context
    base = run_spec(objective, **context)
    idle = settings_without_effect(objective, base.training.model_dump())
    values = {key: _UNUSED_VALUES[key] for key in idle - (_OF_THE_START if OBJECTIVES[objective].starts_from_run else set())}
    assert len(values) > 8
    changed = run_spec(objective, **context | values)
    assert all(getattr(base.training, key) != value for key, value in values.items())
    assert idle <= settings_without_effect(objective, changed.training.model_dump())
    first, other = (known(spec, **_case(objective, context, started)) for spec in (base, changed))
    assert other["sae_weights.safetensors"] == first["sae_weights.safetensors"]
    if "mse_norm" not in idle:  # else another error is tracked
        assert other["log.jsonl"] == first["log.jsonl"]


@each("weight_ema", [None, 0.9])
def test_a_renormalised_decoder_ends_with_unit_rows(train, weight_ema):
    norms = load_sae(train(run_spec(decoder="renormalised", weight_ema=weight_ema, adam_eps=1e-3))).W_dec.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(24))


def test_the_average_of_the_weights_is_what_is_saved(train, monkeypatch):
    average, steps, real = {}, [], member.Member.step

    def step(self, *args):
        result = real(self, *args)
        for name, p in self.sae.named_parameters():
            average[name] = 0.9 * average.get(name, 0.0) + 0.1 * p.detach()
        steps.append(None)
        return result

    monkeypatch.setattr(member.Member, "step", step)
    weights = load_file(train(run_spec(decoder="free", weight_ema=0.9)) / "sae_weights.safetensors")
    assert weights.keys() == average.keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, average[name] / (1 - 0.9 ** len(steps)))  # it starts from nothing


@pytest.mark.parametrize(("tokens", "steps"), [(None, [5, 10, 15, 20]), ([480, 500, 1000, 10**9], [10, 21])])
def test_dead_features_are_resampled_when_due_and_count_as_alive_afterwards(train, monkeypatch, tokens, steps):
    seen, at, real_step = [], [], member.Member.step

    def step(self, number, *args):
        at.append(number + 1)
        result = real_step(self, number, *args)
        assert not seen or seen[-1][0] != number + 1 or self.silent.max() < 48  # they have a whole window to fire in
        return result

    def resample(sae, optimizer, dead, inputs, generator):
        seen.append((at[-1], dead.clone(), inputs.shape, generator.initial_seed()))

    monkeypatch.setattr(member.Member, "step", step)
    monkeypatch.setattr(member, "resample", resample)
    settings = {"dead_features": "resample", "dead_window_tokens": 48, "statistics_tokens": 60, "resample_tokens": tokens}
    train(run_spec(sparsity_coeff=60.0, **settings))
    assert [number for number, *_ in seen] == steps
    assert all(shape == (60, D_MODEL) for _, _, shape, _ in seen)
    assert len({seed for *_, seed in seen}) == len(steps)
    assert seen[-1][1].any()


def test_bf16_is_refused_on_the_cpu(train):
    with pytest.raises(UserError) as caught:
        train(run_spec(precision="bf16"))
    assert str(caught.value) == "run tiny-run asks for `precision: bf16`, which is for CUDA devices; set it to float32 here."


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains_and_lowers_its_loss(train, preset):
    spec = run_spec(**PRESETS[preset] | {"n_tokens": 300 * 4 * CONTEXT, "lr": 3e-3, "statistics_tokens": 100, "log_every": 1})
    losses = [line["loss"] for line in _log(train(spec))]
    assert sum(losses[-20:]) < 0.9 * sum(losses[20:40])


@each("changes", [{"sparsity_coeff": 0.9}, {"hook_point": "blocks.2.hook_resid_pre"}])
def test_the_sparsity_coefficient_and_the_hook_point_change_the_result(train, changes):
    first, other = train(run_spec(), "first"), train(run_spec(**changes), "other")
    assert _bytes(first)["sae_weights.safetensors"] != _bytes(other)["sae_weights.safetensors"]


@pytest.mark.parametrize("objective", ["local", "e2e"])
def test_a_stream_trains_what_the_cache_trains(train, objective):
    from_cache = train(run_spec(objective), "cache")
    from_stream = train(run_spec(objective), "stream", _CONFIG.model_copy(update={"source": "stream"}))
    weights, others = (load_file(f / "sae_weights.safetensors") for f in (from_cache, from_stream))
    for name in weights:
        torch.testing.assert_close(others[name], weights[name], rtol=1e-2, atol=1e-3)
    assert (from_cache / "manifest.json").read_bytes() == (from_stream / "manifest.json").read_bytes()


def test_what_is_published_describes_the_run(train, tiny_model):
    spec = run_spec("e2e", seed=2, n_tokens=40 * 4 * CONTEXT + 17)
    folder = train(spec)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["spec"] == spec.model_dump()
    assert (manifest["n_steps"], manifest["tokens_seen"]) == (40, 40 * 4 * CONTEXT)
    assert (manifest["device"], manifest["triton_kernels"]) == ("cpu", False)
    model = json.loads((tiny_model / "manifest.json").read_text())
    assert manifest["data"]["model_sha256"] == model["sha256"]
    assert manifest["data"]["corpus_sha256"]
    metadata = json.loads((folder / "cfg.json").read_text())["metadata"]
    assert metadata["hook_name"] == HOOK and metadata["context_size"] == CONTEXT
    assert metadata["saeworks"].items() >= {"name": "tiny-run", "objective": "e2e", "sparsity_coeff": 0.2, "seed": 2}.items()
    assert metadata["prepend_bos"] is True


def test_training_lowers_the_loss(train):
    log = _log(train(run_spec(n_tokens=400 * 4 * CONTEXT, log_every=1)))
    first, last = (sum(line["loss"] for line in part) / 20 for part in (log[:20], log[-20:]))
    assert last < 0.5 * first


_STATEFUL = {"dead_window_tokens": 100, "statistics_tokens": 100}
_RECIPES = {
    "relu e2e_ds": ("e2e_ds", {"sparsity_coeff": 300.0, "dead_window_tokens": 100}),
    "relu ghost_grads": (
        "local",
        _STATEFUL | {"sparsity_coeff": 20.0, "dead_features": "ghost_grads", "activation_scale": "norm"},
    ),
    "relu resample": ("local", _STATEFUL | {"sparsity_coeff": 20.0, "dead_features": "resample", "weight_ema": 0.9}),
    "relu finetune": ("finetune", {"downstream_coeff": 0.1}),
    "topk auxk": ("e2e", _STATEFUL | {"architecture": "topk", "k": 1, "dead_features": "auxk", "weight_ema": 0.9}),
    "topk layer_norm": ("local", {"architecture": "topk", "multi_topk": True, "activation_scale": "layer_norm"}),
    "batch_topk auxk": (
        "local",
        _STATEFUL | {"architecture": "batch_topk", "k": 1, "dead_features": "auxk", "weight_ema": 0.9, "decoder": "renormalised"},
    ),
    "batch_topk finetune": ("finetune", {"architecture": "batch_topk"}),
    "matryoshka": ("e2e_ds", _MATRYOSHKA | {"mse_norm": "variance", "statistics_tokens": 100}),
    "gated resample": ("e2e", _STATEFUL | {"architecture": "gated", "sparsity_coeff": 30.0, "dead_features": "resample"}),
    "jumprelu": ("local", {"architecture": "jumprelu", "sparsity_warmup_fraction": 0.7, "jumprelu_bandwidth": 0.1}),
    "jumprelu resample": (
        "e2e_ds",
        _STATEFUL | {"architecture": "jumprelu", "sparsity_coeff": 300.0, "penalty": "l1", "dead_features": "resample"},
    ),
}


def _recipe(name: str, started) -> tuple[RunSpec, dict]:
    objective, settings = _RECIPES[name]
    return run_spec(objective, **settings), _case(objective, settings, started)


@pytest.mark.parametrize("name", _RECIPES)
def test_every_recipe_stopped_twice_continues_to_the_same_bytes(train, started, at_step, name):
    spec, more = _recipe(name, started)
    whole = train(spec, "whole", **more)
    expected = _bytes(whole)
    if "dead_window_tokens" in _RECIPES[name][1]:
        assert any(line["dead_features"] for line in _log(whole))
    first, second = sorted(random.Random(name).sample(range(1, 40), 2))
    at_step(first, _terminate)
    with pytest.raises(Interrupted, match=rf"stopped at step {first} of 40"):
        train(spec, **more)
    seen = at_step(second - first, _terminate)
    with pytest.raises(Interrupted, match=rf"stopped at step {second} of 40"):
        train(spec, **more)
    assert _bytes(train(spec, **more)) == expected
    assert len(seen) == 40 - first  # nothing was computed twice


@pytest.mark.parametrize("name", ["relu resample", "batch_topk auxk", "gated resample"])
def test_every_recipe_that_dies_without_a_chance_to_save_continues_to_the_same_bytes(train, started, at_step, name):
    spec, more = _recipe(name, started)
    expected = _bytes(train(spec, "whole", **more))
    at_step(24, _power_cut)
    with pytest.raises(OSError, match="power cut"):
        train(spec, **more)
    assert _bytes(train(spec, **more)) == expected


@pytest.mark.parametrize("objective", ["local", "e2e_ds"])
@each("step", [1, 6, 7, 8, 21, 39, 40])
def test_a_run_stopped_at_any_step_continues_to_the_same_bytes(train, tmp_path, at_step, objective, step):
    strong = {"local": 20.0, "e2e_ds": 300.0}[objective]  # features die, and how long ago must survive too
    spec = run_spec(objective, sparsity_coeff=strong, dead_window_tokens=100)
    whole = train(spec, "whole")
    expected = _bytes(whole)
    assert any(line["dead_features"] for line in _log(whole))
    seen = at_step(step, _terminate)
    handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(Interrupted, match=rf"tiny-run stopped at step {step} of 40; the same command continues"):
        train(spec)
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert not (tmp_path / "run").exists()
    assert len(seen) == step  # the step in progress was finished, and no other begun
    assert _bytes(train(spec)) == expected
    assert len(seen) == 40  # nothing was computed twice


@each("step", [3, 7, 20, 40])
def test_a_run_that_dies_without_a_chance_to_save_continues_from_the_last_checkpoint(train, tmp_path, at_step, step):
    expected = _bytes(train(run_spec(), "whole"))
    seen = at_step(step, _power_cut)
    with pytest.raises(OSError, match="power cut"):
        train(run_spec())
    assert not (tmp_path / "run").exists()
    log = tmp_path / "scratch" / "run" / "log.jsonl"
    log.write_text(log.read_text() + '{"step": 9')  # half a line, as a crash leaves it
    assert _bytes(train(run_spec())) == expected
    assert len(seen) == step + 40 - (step - 1) // 7 * 7


def test_dying_while_publishing_leaves_no_finished_run_and_loses_nothing(train, tmp_path, monkeypatch):
    expected = _bytes(train(run_spec(), "whole"))

    def publish(staging, final):
        raise OSError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(publishing, "publish", publish)
        with pytest.raises(OSError, match="power cut"):
            train(run_spec())
    assert not (tmp_path / "run" / "manifest.json").exists()
    assert _bytes(train(run_spec())) == expected


def test_a_checkpoint_of_other_settings_is_discarded(train, tmp_path, at_step):
    expected = _bytes(train(run_spec(lr=2e-2), "whole"))
    seen = at_step(20, _terminate)
    with pytest.raises(Interrupted):
        train(run_spec())
    assert (tmp_path / "scratch" / "run" / "checkpoint.safetensors").exists()
    assert _bytes(train(run_spec(lr=2e-2))) == expected
    assert len(seen) == 20 + 40


def test_a_checkpoint_of_other_data_is_discarded(train, tmp_path, at_step, tiny_model):
    corpus = write_corpus(tmp_path / "other-corpus", tiny_model, seed=1)
    other_cache = tmp_path / "other-cache"
    write_cache(_CONFIG, [HOOK], tiny_model, corpus, other_cache)
    seen = at_step(20, _terminate)
    with pytest.raises(Interrupted):
        train(run_spec())
    where = (tmp_path / "run", tmp_path / "scratch" / "run")
    training.train(run_spec(), _CONFIG, other_cache, tiny_model, corpus, *where, progress=False)
    assert len(seen) == 20 + 40


def test_a_checkpoint_from_another_start_is_discarded(train, started, at_step):
    spec, starts = run_spec("finetune"), [started(), started(lr=2e-2)]
    expected = _bytes(train(spec, "whole", start_from=starts[1]))
    seen = at_step(20, _terminate)
    with pytest.raises(Interrupted):
        train(spec, start_from=starts[0])
    assert _bytes(train(spec, start_from=starts[1])) == expected
    assert len(seen) == 20 + 40


# finetuning


@each("hook_point, objective", product(_OTHER_HOOKS[1:], ["local", "e2e_ds"]))
def test_other_hook_points_train_too(train, objective, hook_point):
    log = _log(train(run_spec(objective, hook_point=hook_point, n_tokens=200 * 4 * CONTEXT)))
    assert log[-1]["loss"] < 0.9 * log[0]["loss"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"decoder": "free", "activation_scale": "norm", "statistics_tokens": 100},
        {"architecture": "gated", "activation_scale": "mean_square", "statistics_tokens": 100},
        {"architecture": "jumprelu", "activation_scale": "norm", "statistics_tokens": 100, "jumprelu_threshold": 0.3},
        {"architecture": "batch_topk", "activation_scale": "norm", "statistics_tokens": 100},
        {"architecture": "topk", "activation_scale": "layer_norm", "pre_bias": True},
    ],
    ids=str,
)
def test_a_finetuned_run_starts_where_the_other_ended_and_in_its_scale(train, settings):
    base = train(run_spec("local", seed=0, n_tokens=100 * 4 * CONTEXT, log_every=1, **settings), "base")
    # one step of rate 0: the published weights are those it starts with
    spec = run_spec("finetune", n_tokens=4 * CONTEXT, warmup_fraction=0.9, mse_norm="d_in", **settings)
    tuned = train(spec, "tuned", start_from=base)
    before, after = (load_file(folder / "sae_weights.safetensors") for folder in (base, tuned))
    for name in before.keys() - ({"threshold"} if settings.get("architecture") == "batch_topk" else set()):
        torch.testing.assert_close(after[name], before[name], rtol=1e-5, atol=1e-6)
    ends = [_log(folder)[-1]["out_to_in"] for folder in (base, tuned)]
    assert ends[1] == pytest.approx(ends[0], rel=0.35)


def test_local_runs_in_rows_and_runs_that_continue_one_read_what_their_end_to_end_counterparts_read(
    cache, tiny_model, tiny_corpus, monkeypatch
):
    def batches(spec: RunSpec) -> list[torch.Tensor]:
        of = data.Data([spec], _CONFIG, cache, tiny_model, tiny_corpus, "cpu")
        return [of.batch(spec, step)[0] for step in range(12)]  # more than once around the corpus

    monkeypatch.setattr(data, "CleanPass", lambda *args: None)
    for seed, hook_point in ((0, HOOK), (1, _OTHER_HOOKS[1])):
        changes = {"seed": seed, "hook_point": hook_point}
        for one, other, same in (
            ("local", "e2e", True),
            ("local", "e2e_ds", True),
            ("continued", "finetune", True),
            ("continued", "e2e", False),
        ):
            rows, theirs = batches(run_spec(one, order="rows", **changes)), batches(run_spec(other, **changes))
            assert all(torch.equal(*pair) for pair in zip(rows, theirs, strict=True)) == same, (one, other)
        assert not torch.equal(batches(run_spec("local", **changes))[0], batches(run_spec("e2e", **changes))[0])


def test_a_run_in_rows_needs_batches_of_whole_rows(train):
    with pytest.raises(UserError, match="batches of whole rows"):
        train(run_spec("local", order="rows", batch_tokens=CONTEXT + 1))


def test_a_finetuned_run_needs_a_start_and_no_other_has_one(train, started):
    with pytest.raises(UserError, match="has objective `finetune`, which needs --start-from"):
        train(run_spec("finetune"))
    with pytest.raises(UserError, match="has objective `local`, which takes no --start-from"):
        train(run_spec("local"), start_from=started())


def test_a_start_of_another_shape_is_one_sentence(train, started):
    with pytest.raises(UserError, match=r"holds a relu SAE of 24 features .* continues a relu SAE of 25 .*`start_from`"):
        train(run_spec("finetune", d_sae=25), start_from=started())


# several runs at once

_TOGETHER = [
    run_spec("local", name="local"),
    run_spec("e2e", name="topk", architecture="topk", dead_features="auxk", dead_window_tokens=100, weight_ema=0.9),
    run_spec("e2e_ds", name="gated", architecture="gated", seed=1, batch_tokens=2 * CONTEXT),
    run_spec("e2e_ds", name="layer 3", downstream_hook_points=["blocks.3.hook_mlp_out"], checkpoint_every=5, log_every=3),
    run_spec("local", name="batch_topk", architecture="batch_topk", batch_tokens=3 * CONTEXT + 1, n_tokens=25 * 4 * CONTEXT),
    run_spec("local", name="jumprelu", architecture="jumprelu", seed=2, n_tokens=12 * 4 * CONTEXT),
    run_spec(
        "local", name="resample", sparsity_coeff=20.0, dead_features="resample", dead_window_tokens=100, statistics_tokens=50
    ),
]


@pytest.fixture
def together(tmp_path, cache, tiny_model, tiny_corpus):
    """Train specs in one process and return their folders."""

    def call(specs: list[RunSpec], name: str = "group") -> list[Path]:
        folder = tmp_path / name
        jobs = [training.Job(spec, folder / spec.name, folder / "scratch" / spec.name) for spec in specs]
        training.train_together(jobs, _CONFIG, cache, tiny_model, tiny_corpus, progress=False)
        return [job.out for job in jobs]

    return call


@pytest.fixture
def alone(train) -> dict[str, dict[str, bytes]]:
    return {spec.name: _bytes(train(spec, f"alone {spec.name}")) for spec in _TOGETHER}


def test_runs_trained_together_have_the_bytes_of_runs_trained_alone(together, alone):
    for order in (_TOGETHER, _TOGETHER[::-1]):
        folders = together(order, f"group {order[0].name}")
        assert {folder.name: _bytes(folder) for folder in folders} == alone


def test_a_group_that_is_stopped_and_one_that_dies_continue_to_the_same_bytes(together, alone, at_step):
    for step, action, error in ((1, _terminate, Interrupted), (100, _terminate, Interrupted), (150, _power_cut, OSError)):
        at_step(step, action)
        with pytest.raises(error):
            together(_TOGETHER)
    assert {folder.name: _bytes(folder) for folder in together(_TOGETHER)} == alone


def test_a_group_stopped_after_a_member_has_finished_does_not_train_that_member_again(together, alone, at_step):
    pair = [_TOGETHER[0], _TOGETHER[5]]  # 40 and 12 steps
    seen = at_step(12 * 2 + 20, _terminate)
    with pytest.raises(Interrupted, match=r"2 runs \(local, …\) stopped at step 32 of 40"):
        together(pair)
    folders = together(pair)
    assert len(seen) == 40 + 12
    assert {folder.name: _bytes(folder) for folder in folders} == {name: alone[name] for name in ("local", "jumprelu")}


def test_a_member_that_was_further_than_the_others_joins_them(together, alone, at_step):
    seen = at_step(23, _terminate)
    with pytest.raises(Interrupted):
        together([_TOGETHER[1]])
    seen.clear()
    at_step(20, _terminate)  # 10 steps of the other two, while the first waits at 23
    with pytest.raises(Interrupted):
        together([_TOGETHER[0], _TOGETHER[1], _TOGETHER[3]])
    seen = at_step(10**9, _terminate)
    folders = together([_TOGETHER[0], _TOGETHER[1], _TOGETHER[3]])
    assert len(seen) == 30 + 17 + 30
    assert {folder.name: _bytes(folder) for folder in folders} == {name: alone[name] for name in ("local", "topk", "layer 3")}


def test_the_model_runs_without_an_sae_once_for_runs_that_share_their_batches(together, monkeypatch):
    made = []

    class Counted(CleanPass):
        def __post_init__(self):
            made.append(1)
            super().__post_init__()

    monkeypatch.setattr(data, "CleanPass", Counted)
    together([run_spec(objective, name=objective, n_tokens=5 * 4 * CONTEXT) for objective in ("e2e", "e2e_ds", "local")])
    assert len(made) == 5


def test_runs_of_different_hook_points_do_not_train_together(together):
    with pytest.raises(UserError, match=r"share a hook point, but these have blocks\.1\.hook_resid_pre, blocks\.2\.hook"):
        together([run_spec(), run_spec(name="other", hook_point=_OTHER_HOOKS[0])])


def test_a_damaged_checkpoint_is_one_sentence(train, tmp_path):
    scratch = tmp_path / "scratch" / "run"
    scratch.mkdir(parents=True)
    (scratch / "checkpoint.safetensors").write_bytes(b"half")
    (scratch / "log.jsonl").write_text("")
    with pytest.raises(UserError, match="cannot be read .*; delete it and run the same command again"):
        train(run_spec())


@each("objective, log_every", product(["local", "e2e"], [1, 1000]))
def test_a_loss_that_is_not_finite_stops_the_run_with_the_step_and_the_mend(train, tmp_path, objective, log_every):
    spec = run_spec(objective, grad_clip=None, log_every=log_every, checkpoint_every=7)
    spec = spec.model_copy(update={"training": spec.training.model_copy(update={"lr": 1e30})})  # more than a file may have
    with pytest.raises(UserError) as caught:
        train(spec)
    message = str(caught.value)
    assert "\n" not in message
    assert "run tiny-run" in message and "lower `lr` (now 1e+30) or set `grad_clip`, then run again" in message
    step = int(message.split("at step ")[1].split()[0])
    # found at the first log line or checkpoint after it happened, so that no checkpoint holds such weights
    assert step in ({3, 4, 5} if log_every == 1 else {7})
    assert "there is no checkpoint yet" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("factor", "at", "found"),
    [(float("nan"), 17, 20), (float("inf"), 20, 20), (1e6, 20, 20), (1e6, 21, 21)],
    ids=["nan before a line", "inf", "explosion at a line", "explosion at a checkpoint"],
)
def test_a_bad_loss_names_its_step_and_a_checkpoint_that_is_good(train, tmp_path, at_step, factor, at, found):
    expected = _bytes(train(run_spec(), "whole"))
    at_step(at, lambda: factor)
    with pytest.raises(
        UserError, match=rf" at step {found} \(the last good checkpoint is .*checkpoint\.safetensors\); lower `lr`"
    ):
        train(run_spec())
    tensors, state = load_checkpoint(tmp_path / "scratch" / "run" / "checkpoint.safetensors")
    assert state["step"] == 14
    assert all(torch.isfinite(value).all() for value in tensors.values())
    assert _bytes(train(run_spec())) == expected  # from there, if it was bad luck


def test_a_signal_does_not_save_a_state_that_has_gone_bad(train, tmp_path, at_step):
    def both() -> float:
        _terminate()
        return float("nan")

    at_step(17, both)
    with pytest.raises(UserError, match="is nan .*at step 17 "):
        train(run_spec())
    assert load_checkpoint(tmp_path / "scratch" / "run" / "checkpoint.safetensors")[1]["step"] == 14


def test_a_run_whose_loss_fails_stops_alone_and_the_others_finish(train, together, tmp_path, at_step):
    expected = _bytes(train(run_spec(), "alone"))
    at_step(2 * 19 + 2, lambda: float("nan"))  # the second run, in step 20
    with pytest.raises(
        UserError, match=r"the loss of run other is nan .*at step 20 .*The 1 other\(s\) of this job lost nothing\.$"
    ):
        together([run_spec(), run_spec(name="other", seed=1)])
    steps = {"tiny-run": 40, "other": 14}
    for name, step in steps.items():
        assert load_checkpoint(tmp_path / "group" / "scratch" / name / "checkpoint.safetensors")[1]["step"] == step
    done, mended = together([run_spec(), run_spec(name="other", seed=1, lr=1e-4)])
    assert _bytes(done) == expected
    assert _bytes(mended) == _bytes(train(run_spec(name="other", seed=1, lr=1e-4), "mended"))


_NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB."),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
]


@each("where, error", product(["step", "start"], _NO_MEMORY))
def test_too_little_memory_is_one_sentence_that_says_what_was_needed(train, at_step, monkeypatch, error, where):
    expected = _bytes(train(run_spec(), "whole"))

    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        if where == "step":
            at_step(17, fail)
        else:
            patch.setattr(prepare, "build_sae", fail)
        with pytest.raises(UserError) as caught:
            train(run_spec())
    message = str(caught.value)
    assert message.startswith("out of memory: 1 run(s) of 24 features with batches of 48 tokens need about 48.6 KiB")
    assert "lower `batch_tokens` or `d_sae`. The last" in message and "\n" not in message
    assert _bytes(train(run_spec())) == expected


def test_another_fault_of_the_program_is_not_called_a_lack_of_memory(train, at_step):
    def fail():
        raise RuntimeError("shapes do not match")

    at_step(3, fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        train(run_spec())


def test_what_a_run_needs_is_said_before_it_starts(train, capsys, at_step):
    at_step(9, _terminate)
    with pytest.raises(Interrupted):
        train(run_spec("e2e", weight_ema=0.9))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("run tiny-run: 40 steps of 48 tokens; about ") and " of disk, " in line
    train(run_spec("e2e", weight_ema=0.9))
    assert capsys.readouterr().out == "resuming tiny-run at step 9\n"


def test_the_memory_a_run_needs_grows_with_everything_that_makes_it_larger():
    def needed(d_in: int = 16, **settings: object) -> int:
        return memory_needed(run_spec(**settings), d_in)

    for values in ([needed(batch_tokens=n) for n in (12, 48, 480, 48_000)], [needed(d_sae=n) for n in (1, 24, 25, 2400)]):
        assert values == sorted(set(values))
    assert needed(d_in=17) > needed() and needed(weight_ema=0.9) > needed()
    # GPT-2 small in the paper: 46,080 features, 16,384 tokens
    assert 12e9 < needed(768, d_sae=46_080, batch_tokens=16_384) < 16e9


def test_a_run_with_nothing_downstream_stops_before_it_starts(train, tmp_path):
    with pytest.raises(UserError, match="run tiny-run has objective `e2e_ds`, but what depends on blocks.3.hook_resid_pre"):
        train(run_spec("e2e_ds", hook_point="blocks.3.hook_resid_pre"), config=_CONFIG.model_copy(update={"source": "stream"}))
    assert not (tmp_path / "scratch").exists()


def test_an_unknown_hook_point_is_one_sentence(train):
    with pytest.raises(UserError, match=r"blocks\.9\.hook_resid_pre"):
        train(run_spec(hook_point="blocks.9.hook_resid_pre"))


def test_a_cache_of_another_model_is_refused(tmp_path, cache, tiny_model, tiny_corpus):
    other = write_model(tmp_path / "model", seed=1)
    with pytest.raises(UserError, match="stale: its model, model_sha256 differ"):
        training.train(run_spec(), _CONFIG, cache, other, tiny_corpus, tmp_path / "run", tmp_path / "scratch", progress=False)


def test_progress_is_shown_on_request(tmp_path, cache, tiny_model, tiny_corpus, capsys):
    training.train(run_spec(), _CONFIG, cache, tiny_model, tiny_corpus, tmp_path / "run", tmp_path / "scratch")
    shown = capsys.readouterr().err
    assert "tiny-run: loss " in shown and "L0 " in shown and "dead " in shown and "tokens/s" in shown


def _command(spec: RunSpec, cache: Path, model: Path, corpus: Path, out: Path, scratch: Path) -> list[str]:
    options = {
        "spec": spec.model_dump_json(),
        "activations": _CONFIG.model_dump_json(),
        "cache": cache,
        "model": model,
        "corpus": corpus,
        "out": out,
        "scratch": scratch,
        "device": "cpu",
        "threads": 1,
    }
    return [sys.executable, "-m", "saeworks", "train", *(part for k, v in options.items() for part in (f"--{k}", str(v)))]


_KILLED = {
    "local": ("local", 2000, {}),
    "e2e_ds": ("e2e_ds", 500, {}),
    "batch_topk": (
        "local",
        800,
        {"architecture": "batch_topk", "k": 1, "dead_features": "auxk", "dead_window_tokens": 100, "weight_ema": 0.99},
    ),
    "resample": (
        "e2e",
        400,
        {"sparsity_coeff": 30.0, "dead_features": "resample", "dead_window_tokens": 100, "statistics_tokens": 100,
         "resample_tokens": list(range(480, 400 * 48, 480))},
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "name"),
    [
        ("SIGKILL", "local"),
        ("SIGTERM", "e2e_ds"),
        ("SIGINT", "local"),
        *((number, name) for number in ("SIGKILL", "SIGTERM") for name in ("batch_topk", "resample")),
    ],
)
def test_a_process_hit_by_a_signal_at_any_moment_continues_to_the_same_bytes(
    train, tmp_path, cache, tiny_model, tiny_corpus, number, name
):
    objective, n_steps, settings = _KILLED[name]
    spec = run_spec(objective, n_tokens=n_steps * 4 * CONTEXT, log_every=10, checkpoint_every=23, **settings)
    began = time.monotonic()
    expected = _bytes(train(spec, "whole"))
    length = time.monotonic() - began
    out, scratch = tmp_path / "run", tmp_path / "scratch" / "run"
    command = _command(spec, cache, tiny_model, tiny_corpus, out, scratch)
    for share in (0.5, 0.2, 0.05):  # again, and earlier, if the run was over before the signal came
        for folder in (out, scratch):
            shutil.rmtree(folder, ignore_errors=True)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while not (scratch / "log.jsonl").exists() and process.poll() is None:
            time.sleep(0.005)
        delay = random.uniform(0.02, 0.02 + share * length)  # the log appears a moment before the signals are caught
        time.sleep(delay)
        process.send_signal(getattr(signal, number))
        errors = process.communicate(timeout=60)[1]
        if process.returncode and not out.exists():
            break
    assert process.returncode == {"SIGKILL": -9, "SIGTERM": 130, "SIGINT": 130}[number], errors
    if number != "SIGKILL":
        last = errors.splitlines()[-1]
        assert last.startswith("saeworks: run tiny-run stopped at step ") and last.endswith("continues from there.")
        assert "Traceback" not in errors
    assert not out.exists()
    again = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert again.returncode == 0, again.stderr
    assert _bytes(out) == expected, f"hit after {delay:.3f} s"


def test_bad_settings_on_the_command_line_are_one_sentence(tmp_path, cache, tiny_model, tiny_corpus):
    command = _command(run_spec(), cache, tiny_model, tiny_corpus, tmp_path / "run", tmp_path / "scratch")
    command[command.index("--spec") + 1] = '{"name": "x"}'
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("saeworks: configuration key `runs.group` is missing") and done.stderr.count("\n") == 1
