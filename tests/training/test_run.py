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
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.tiny_pipeline import CONTEXT, D_MODEL, HOOK, run_spec, write_corpus, write_model

from saeworks.activations.cache import ActivationCache, write_cache
from saeworks.config.activations import ActivationsConfig
from saeworks.config.training import RunSpec, TrainingConfig
from saeworks.lm.prepare import load_model
from saeworks.sae.formats import load_sae
from saeworks.sae.init import init_braun2024
from saeworks.sae.relu import ReluSAE
from saeworks.store.errors import Interrupted, UserError
from saeworks.store.seeds import derive_seed
from saeworks.training import run as training
from saeworks.training.objective import coefficients, e2e_terms, local_terms, total
from saeworks.training.schedule import warmup_cosine

_FILES = ["cfg.json", "log.jsonl", "manifest.json", "sae_weights.safetensors"]
_CONFIG = ActivationsConfig(batch_rows=8, shard_tokens=10 * CONTEXT)


@pytest.fixture(scope="module")
def cache(tmp_path_factory, tiny_model, tiny_corpus) -> Path:
    folder = tmp_path_factory.mktemp("cache") / "cache"
    write_cache(_CONFIG, [HOOK, "blocks.2.hook_resid_pre"], tiny_model, tiny_corpus, folder)
    return folder


@pytest.fixture
def train(tmp_path, cache, tiny_model, tiny_corpus):
    """Train `spec` and return its folder; `name` keeps several runs of one test apart."""

    def call(spec: RunSpec, name: str = "run", config: ActivationsConfig = _CONFIG) -> Path:
        out, scratch = tmp_path / name, tmp_path / "scratch" / name
        training.train(spec, config, cache, tiny_model, tiny_corpus, out, scratch, progress=False)
        assert not scratch.exists()
        return out

    return call


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
    sae = ReluSAE(D_MODEL, 24)
    init_braun2024(sae, torch.Generator().manual_seed(derive_seed("init", 3, objective)))
    start = derive_seed("data", 3) % tokens
    moments = {p: (torch.zeros_like(p), torch.zeros_like(p)) for p in sae.parameters()}
    silent, lines, clipped = torch.zeros(24), [], 0
    for step in range(n_steps):
        if objective == "local":
            order = source.token_order[(torch.arange(batch) + start + step * batch) % tokens]
            everything = source.sequences(0, 30)[source.sequence_order.argsort()].flatten(0, 1)  # by corpus row
            terms, codes = local_terms(sae, everything[order])
        else:
            order = (torch.arange(4) + start // CONTEXT + step * 4) % 30
            x = source.sequences(0, 30)[order]
            terms, codes = e2e_terms(sae, model, 1, x, [2, 3] if objective == "e2e_ds" else [])
        loss = total(terms, coefficients(spec))
        gradients = torch.autograd.grad(loss, list(sae.parameters()))
        norm = sum(g.double().square().sum().item() for g in gradients) ** 0.5
        clipped += norm > 2.0
        lr = 1e-2 * warmup_cosine(step, n_steps, 2, 0.1)
        for parameter, gradient in zip(sae.parameters(), gradients, strict=True):
            gradient = gradient * min(1.0, 2.0 / (norm + 1e-6))
            first, second = moments[parameter]
            first.mul_(0.9).add_(0.1 * gradient)
            second.mul_(0.999).add_(0.001 * gradient**2)
            update = first / (1 - 0.9 ** (step + 1)) / ((second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
            with torch.no_grad():
                parameter.sub_(lr * update)
        fired = (codes > 0).flatten(0, -2)
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


_OTHER = {
    "d_sae": 25,
    "n_tokens": 36 * 4 * CONTEXT,
    "batch_tokens": 5 * CONTEXT,
    "lr": 2e-2,
    "warmup_fraction": 0.5,
    "final_lr_fraction": 0.9,
    "grad_clip": 1e-3,
    "kl_coeff": 0.3,
    "downstream_coeff": 0.3,
    "downstream_layers": [3],
    "dead_window_tokens": 1,
    "log_every": 5,
    "checkpoint_every": 3,
}
_LOG_ONLY = {"log_every", "dead_window_tokens"}


def test_every_training_setting_is_covered_below():
    assert _OTHER.keys() == TrainingConfig.model_fields.keys()


@pytest.mark.parametrize("key", _OTHER)
def test_every_training_setting_changes_what_it_should_and_nothing_else(train, key):
    base = run_spec("e2e_ds", sparsity_coeff=20.0)
    assert getattr(base.training, key) != _OTHER[key]
    first = _bytes(train(base, "first"))
    other = _bytes(train(run_spec("e2e_ds", **{"sparsity_coeff": 20.0, key: _OTHER[key]}), "other"))
    assert (other["sae_weights.safetensors"] != first["sae_weights.safetensors"]) == (key not in _LOG_ONLY | {"checkpoint_every"})
    assert (other["log.jsonl"] != first["log.jsonl"]) == (key != "checkpoint_every")
    assert other["manifest.json"] != first["manifest.json"]


@pytest.mark.parametrize("changes", [{"sparsity_coeff": 0.9}, {"hook_point": "blocks.2.hook_resid_pre"}])
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


@pytest.mark.parametrize("step", [1, 6, 7, 8, 21, 39, 40])
@pytest.mark.parametrize("objective", ["local", "e2e_ds"])
def test_a_run_stopped_at_any_step_continues_to_the_same_bytes(train, tmp_path, monkeypatch, objective, step):
    strong = {"local": 20.0, "e2e_ds": 300.0}[objective]  # features die, and how long ago must survive too
    spec = run_spec(objective, sparsity_coeff=strong, dead_window_tokens=100)
    whole = train(spec, "whole")
    expected = _bytes(whole)
    assert any(line["dead_features"] for line in _log(whole))
    real, seen = training.total, []

    def total_then_signal(*args):
        seen.append(1)
        if len(seen) == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)

    monkeypatch.setattr(training, "total", total_then_signal)
    handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(Interrupted, match=rf"tiny-run stopped at step {step} of 40; the same command continues"):
        train(spec)
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert not (tmp_path / "run").exists()
    assert len(seen) == step  # the step in progress was finished, and no other begun
    assert _bytes(train(spec)) == expected
    assert len(seen) == 40  # nothing was computed twice


@pytest.mark.parametrize("step", [3, 7, 20, 40])
def test_a_run_that_dies_without_a_chance_to_save_continues_from_the_last_checkpoint(train, tmp_path, monkeypatch, step):
    expected = _bytes(train(run_spec(), "whole"))
    real, seen = training.total, []

    def total_then_die(*args):
        seen.append(1)
        if len(seen) == step:
            raise OSError("power cut")
        return real(*args)

    monkeypatch.setattr(training, "total", total_then_die)
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
        patch.setattr(training, "publish", publish)
        with pytest.raises(OSError, match="power cut"):
            train(run_spec())
    assert not (tmp_path / "run" / "manifest.json").exists()
    assert _bytes(train(run_spec())) == expected


def test_a_checkpoint_of_other_settings_is_discarded(train, tmp_path, monkeypatch):
    expected = _bytes(train(run_spec(lr=2e-2), "whole"))
    real, seen = training.total, []

    def stop(*args):
        seen.append(1)
        if len(seen) == 20:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)

    monkeypatch.setattr(training, "total", stop)
    with pytest.raises(Interrupted):
        train(run_spec())
    assert (tmp_path / "scratch" / "run" / "checkpoint.safetensors").exists()
    assert _bytes(train(run_spec(lr=2e-2))) == expected
    assert len(seen) == 20 + 40


def test_a_checkpoint_of_other_data_is_discarded(train, tmp_path, monkeypatch, cache, tiny_model):
    corpus = write_corpus(tmp_path / "other-corpus", tiny_model, seed=1)
    other_cache = tmp_path / "other-cache"
    write_cache(_CONFIG, [HOOK], tiny_model, corpus, other_cache)
    seen = []
    real = training.total

    def stop(*args):
        seen.append(1)
        if len(seen) == 20:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)

    monkeypatch.setattr(training, "total", stop)
    with pytest.raises(Interrupted):
        train(run_spec())
    where = (tmp_path / "run", tmp_path / "scratch" / "run")
    training.train(run_spec(), _CONFIG, other_cache, tiny_model, corpus, *where, progress=False)
    assert len(seen) == 20 + 40


def test_a_damaged_checkpoint_is_one_sentence(train, tmp_path):
    scratch = tmp_path / "scratch" / "run"
    scratch.mkdir(parents=True)
    (scratch / "checkpoint.safetensors").write_bytes(b"half")
    (scratch / "log.jsonl").write_text("")
    with pytest.raises(UserError, match="cannot be read .*; delete it to start that run over"):
        train(run_spec())


@pytest.mark.parametrize("objective", ["local", "e2e"])
@pytest.mark.parametrize("log_every", [1, 1000])
def test_a_loss_that_is_not_finite_stops_the_run_with_the_step_and_the_mend(train, tmp_path, objective, log_every):
    spec = run_spec(objective, lr=1e30, grad_clip=None, log_every=log_every, checkpoint_every=7)
    with pytest.raises(UserError) as caught:
        train(spec)
    message = str(caught.value)
    assert "\n" not in message
    assert "run tiny-run" in message and "lower `lr` (now 1e+30) or set `grad_clip`" in message
    step = int(message.split("at step ")[1].split()[0])
    # found at the first log line or checkpoint after it happened, so that no checkpoint holds such weights
    assert step in ({3, 4, 5} if log_every == 1 else {7})
    assert "there is no checkpoint yet" in message
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_names_a_checkpoint_that_is_good(train, tmp_path, monkeypatch):
    real, seen = training.total, []

    def spoilt(*args):
        seen.append(1)
        return real(*args) * (float("nan") if len(seen) == 17 else 1)

    monkeypatch.setattr(training, "total", spoilt)
    with pytest.raises(UserError, match=r"is nan .*at step 20 .*last good checkpoint is .*checkpoint\.safetensors"):
        train(run_spec(log_every=20, checkpoint_every=16))
    tensors = load_file(tmp_path / "scratch" / "run" / "checkpoint.safetensors")
    assert all(torch.isfinite(value).all() for value in tensors.values())


def test_layers_that_are_not_downstream_stop_the_run_before_it_starts(train, tmp_path):
    with pytest.raises(UserError, match=r"`downstream_layers` of run tiny-run is \[\]"):
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
    assert "loss=" in shown and "L0=" in shown and "dead=" in shown


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


@pytest.mark.slow
@pytest.mark.parametrize(("number", "objective"), [("SIGKILL", "local"), ("SIGTERM", "e2e_ds"), ("SIGINT", "local")])
def test_a_process_hit_by_a_signal_at_any_moment_continues_to_the_same_bytes(
    train, tmp_path, cache, tiny_model, tiny_corpus, number, objective
):
    n_steps = {"local": 2000, "e2e_ds": 500}[objective]
    spec = run_spec(objective, n_tokens=n_steps * 4 * CONTEXT, log_every=10, checkpoint_every=23)
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
