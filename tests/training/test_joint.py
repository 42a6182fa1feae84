"""SAEs that are trained while all of them are in the model, against the whole model written out."""

from __future__ import annotations

import json
import os
import shutil
import signal
from itertools import product
from pathlib import Path

import pytest
import torch
from tests.each import each
from tests.tiny_pipeline import CONTEXT, D_MODEL, D_VOCAB, HOOK, N_LAYERS, run_spec, tiny_decoder

from saeworks.activations.cache import write_cache
from saeworks.config.activations import ActivationsConfig
from saeworks.config.training import RunSpec
from saeworks.lm.several import in_order
from saeworks.sae.build import build_sae
from saeworks.sae.execution.active import encode as encode_active
from saeworks.sae.execution.dense import encode as encode_dense
from saeworks.sae.execution.interface import Execution
from saeworks.sae.formats import load_sae
from saeworks.sae.init import initialise
from saeworks.store.errors import Interrupted, UserError
from saeworks.training import joint
from saeworks.training.clean import CleanPass
from saeworks.training.joint import JointMember, JointObjective, train_spliced
from saeworks.training.member import Member
from saeworks.training.objective import Objective
from saeworks.training.prepare import Job
from saeworks.training.run import train

_PAIR = [HOOK, "blocks.2.hook_resid_pre"]
_SETS = [
    _PAIR,
    ["blocks.0.hook_resid_post", "blocks.2.hook_resid_pre", "blocks.3.hook_resid_pre"],
    ["blocks.1.hook_attn_out", "blocks.2.hook_mlp_out", "blocks.3.hook_resid_post"],
    ["blocks.1.attn.hook_z", "blocks.1.hook_mlp_out", "blocks.2.attn.hook_z"],
]
_LATER = ["blocks.2.hook_resid_pre", "blocks.3.hook_resid_pre"]


def _specs(objective: str, hook_points: list[str], **changes: object) -> list[RunSpec]:
    factors = {name: 1.0 + number for number, name in enumerate(hook_points)}
    coefficient = {} if "k" in changes or changes.get("architecture") == "topk" else {"sparsity_coeff": 0.2}
    return [
        run_spec(
            objective,
            hook_point=name,
            spliced=factors,
            **{key: value * factor for key, value in coefficient.items()},
            **changes,
        )
        for name, factor in factors.items()
    ]


class _Way(Execution):
    """One way of computing products."""

    def __init__(self, way) -> None:
        self.way = way

    def encode(self, sae, x, dead=None, k_aux=0):
        return self.way(sae, x, dead, k_aux)


def _literal(model, tokens, hook_points, saes, downstream, spec, coefficients):
    """The whole loss in plain operations: every block written out, full logits, gradients through everything."""

    def reconstruct(number, value):
        sae = saes[number]
        x = value.flatten(0, 1)
        pre = x @ sae.W_enc + sae.b_enc
        if spec.training.architecture == "topk":
            kept = pre.topk(spec.k, dim=1).indices
            codes = torch.zeros_like(pre).scatter(1, kept, pre.gather(1, kept).clamp(min=0))
        else:
            codes = pre.clamp(min=0)
        directions = sae.W_dec / sae.W_dec.pow(2).sum(dim=1, keepdim=True).sqrt()
        output = codes @ directions + sae.b_dec
        own[number] = {"sparsity": codes.sum(dim=1).mean() / x.shape[1], "out_to_in": (output - x).pow(2).mean(), "codes": codes}
        return output.view_as(value)

    def run(replacing):
        values = {}

        def at(name, value):
            values[name] = value
            return reconstruct(hook_points.index(name), value) if replacing and name in hook_points else value

        resid = model.embed(tokens)
        for layer in range(N_LAYERS):
            block = f"blocks.{layer}"
            resid = at(f"{block}.hook_resid_pre", resid)
            z = at(f"{block}.attn.hook_z", model._attention(layer, model._norm(f"{block}.ln1", resid), None))
            mid = resid + at(f"{block}.hook_attn_out", model._linear(f"{block}.attn.o", z))
            resid = mid + at(f"{block}.hook_mlp_out", model._mlp(layer, mid))
            resid = at(f"{block}.hook_resid_post", resid)
        return model.logits(resid).log_softmax(-1), values

    own: dict[int, dict] = {}
    with torch.no_grad():
        clean, clean_values = run(False)
    new, new_values = run(True)
    shared = {"logits_kl": (clean.exp() * (clean - new)).sum(-1).mean()}
    if spec.objective == "e2e_ds":
        shared["in_to_orig"] = sum((new_values[n] - clean_values[n]).pow(2).mean() for n in downstream) / len(downstream)
    weights = {"e2e": {"logits_kl": 1.0}, "e2e_ds": {"logits_kl": 0.5, "in_to_orig": 2.5}}[spec.objective]
    loss = sum(weights[name] * value for name, value in shared.items())
    for number, coefficient in enumerate(coefficients):
        loss = loss + (coefficient or 0.0) * own[number]["sparsity"]
        loss = loss + (spec.training.reconstruction_coeff or 0.0) * own[number]["out_to_in"]
    return loss, shared, own, clean_values


_GOALS = [("e2e", {}), ("e2e_ds", {}), ("e2e_ds", {"reconstruction_coeff": 0.3}), ("e2e", {"architecture": "topk", "k": 4})]


@each("goal, at", product(range(len(_GOALS)), range(len(_SETS))))
def test_loss_and_gradients_equal_the_whole_model_written_out(goal, at):
    (objective, changes), hook_points = _GOALS[goal], _SETS[at]
    way = (encode_dense, encode_active)[(goal + at) % 2]
    model = tiny_decoder(1, torch.float64)
    specs = _specs(objective, hook_points, **changes)
    tokens = torch.randint(D_VOCAB, (3, 6), generator=torch.Generator().manual_seed(0))
    sites = in_order(hook_points, model.arch, "sets")
    downstream = [name for name in _LATER if name in sites[0].downstream(model.arch)]
    members = []
    for number, (spec, site) in enumerate(zip(specs, sites, strict=True)):
        sae = build_sae(site.d_in, spec.training, spec.k)
        initialise(sae, spec.training, torch.Generator().manual_seed(number), None)
        goal = Objective(spec, downstream if number == 0 and objective == "e2e_ds" else [])
        members.append(Member(spec, sae.double(), goal, 40, None))
        members[-1].execution = _Way(way)
    ours = JointMember(members, sites)
    saes = [member.sae for member in members]
    coefficients = [spec.sparsity_coeff for spec in specs]
    expected, shared, own, values = _literal(model, tokens, hook_points, saes, downstream, specs[0], coefficients)
    expected_gradients = torch.autograd.grad(expected, list(ours.sae.parameters()))

    x, stream = values[sites[0].name], values.get(sites[0].stream)
    if stream is None:  # the residual within a block
        stream = model.hook_values(tokens, [sites[0].stream])[sites[0].stream]
    clean = CleanPass(model, sites[0], x, stream, downstream)
    terms, forward = ours.objective.terms(ours.sae, ours.execution, x.flatten(0, 1), clean)
    loss = ours.objective.total(terms)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    gradients = torch.autograd.grad(loss, list(ours.sae.parameters()))
    for gradient, literal, (name, _) in zip(gradients, expected_gradients, ours.sae.named_parameters(), strict=True):
        torch.testing.assert_close(gradient, literal, rtol=1e-8, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")
        assert literal.any(), name
    for name, value in shared.items():
        torch.testing.assert_close(terms[0, name], value, rtol=1e-10, atol=1e-12)
    assert forward.l0().tolist() == pytest.approx([(own[i]["codes"] > 0).sum().item() / 18 for i in range(len(saes))])
    assert torch.equal(forward.fired(), torch.cat([(own[i]["codes"] > 0).any(dim=0) for i in range(len(saes))]))


_CONFIG = ActivationsConfig(batch_rows=8, shard_tokens=10 * CONTEXT)
_FILES = ["cfg.json", "log.jsonl", "manifest.json", "sae_weights.safetensors"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory, tiny_model, tiny_corpus) -> Path:
    folder = tmp_path_factory.mktemp("cache") / "cache"
    write_cache(_CONFIG, [*_PAIR, "blocks.3.hook_resid_pre"], tiny_model, tiny_corpus, folder)
    return folder


@pytest.fixture
def together(tmp_path, cache, tiny_model, tiny_corpus):
    """Train a set and return the folders of its runs; `name` keeps several sets of one test apart."""

    def call(specs: list[RunSpec], name: str = "set", config: ActivationsConfig = _CONFIG) -> list[Path]:
        root = tmp_path / name
        jobs = [Job(spec, root / str(i), tmp_path / "scratch" / name / str(i)) for i, spec in enumerate(specs)]
        for job in jobs:
            shutil.rmtree(job.out, ignore_errors=True)
        train_spliced(jobs, config, cache, tiny_model, tiny_corpus, progress=False)
        assert not any(job.scratch.exists() for job in jobs)
        return [job.out for job in jobs]

    return call


def _bytes(folders: list[Path]) -> list[dict[str, bytes]]:
    assert all(sorted(path.name for path in folder.iterdir()) == _FILES for folder in folders)
    return [{name: (folder / name).read_bytes() for name in _FILES} for folder in folders]


def _log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_one_seed_gives_the_same_bytes_from_the_cache_and_the_stream_and_another_seed_others(together):
    specs = _specs("e2e_ds", _PAIR, n_tokens=16 * 4 * CONTEXT, decoder_bias_init="mean", statistics_tokens=100)
    first = _bytes(together(specs))
    assert _bytes(together(specs, "again")) == first
    assert _bytes(together(specs, "stream", _CONFIG.model_copy(update={"source": "stream"}))) == first
    others = _bytes(together(_specs("e2e_ds", _PAIR, seed=1, n_tokens=16 * 4 * CONTEXT), "other"))
    assert all(a[name] != b[name] for a, b in zip(first, others, strict=True) for name in _FILES)


_WAYS = [
    ("e2e_ds", {"downstream_next": 1, "weight_ema": 0.9}),
    ("e2e", {"dead_features": "resample", "dead_window_tokens": 50, "resample_tokens": [480], "statistics_tokens": 100}),
    ("e2e", {}),
    ("e2e", {"architecture": "batch_topk", "dead_features": "auxk", "dead_window_tokens": 50}),
    (
        "e2e_ds",
        {"activation_scale": "norm", "decoder_bias_init": "mean", "dead_features": "ghost_grads", "dead_window_tokens": 50},
    ),
    ("e2e", {"architecture": "gated", "activation_scale": "layer_norm"}),
    ("e2e", {"architecture": "jumprelu", "reconstruction_coeff": 0.5, "mse_norm": "variance"}),
]


def _interrupt(together, monkeypatch, specs: list[RunSpec]) -> None:
    expected = _bytes(together(specs))
    total, seen = JointObjective.total, []

    def counted(*given):
        seen.append(1)
        if len(seen) == 9:
            os.kill(os.getpid(), signal.SIGTERM)  # asks for a checkpoint
        if len(seen) == 17:
            raise OSError("power cut")  # back to the checkpoint at 14 steps
        return total(*given)

    with monkeypatch.context() as patch:
        patch.setattr(JointObjective, "total", counted)
        with pytest.raises(Interrupted, match=r"set tiny-run stopped at step 9 of 20; the same command continues"):
            together(specs)
        with pytest.raises(OSError, match="power cut"):
            together(specs)
        assert _bytes(together(specs)) == expected
    assert len(seen) == 17 + 6


@each("objective, changes", _WAYS[:2])
def test_an_interrupted_set_continues_and_ends_with_the_same_bytes(together, monkeypatch, objective, changes):
    _interrupt(together, monkeypatch, _specs(objective, _PAIR, n_tokens=20 * 4 * CONTEXT, **changes))


@pytest.mark.slow
@each("objective, changes", _WAYS[2:])
def test_an_interrupted_set_of_any_kind_ends_with_the_same_bytes(together, monkeypatch, objective, changes):
    _interrupt(together, monkeypatch, _specs(objective, _PAIR, n_tokens=20 * 4 * CONTEXT, **changes))


def test_the_first_step_is_that_of_the_values_each_would_start_from_alone(together, tmp_path, cache, tiny_model, tiny_corpus):
    specs = _specs("e2e", _PAIR, n_tokens=4 * CONTEXT, warmup_fraction=0.9, log_every=1)  # a step of rate 0
    folders = together(specs)
    for spec, folder in zip(specs, folders, strict=True):
        alone = spec.model_copy(update={"spliced": None})
        out = tmp_path / f"alone-{spec.hook_point}"
        train(alone, _CONFIG, cache, tiny_model, tiny_corpus, out, tmp_path / "scratch-alone", progress=False)
        assert (out / "sae_weights.safetensors").read_bytes() == (folder / "sae_weights.safetensors").read_bytes()
    (first,), (second,) = map(_log, folders)
    (alone,) = _log(tmp_path / f"alone-{HOOK}")
    assert first.keys() == second.keys() == alone.keys()
    assert (first["sparsity"], first["l0"]) == (alone["sparsity"], alone["l0"])  # it reads what it would read alone
    assert first["logits_kl"] == second["logits_kl"] != alone["logits_kl"]
    assert second["sparsity"] != first["sparsity"]
    assert (
        first["loss"]
        == second["loss"]
        == pytest.approx(first["logits_kl"] + 0.2 * first["sparsity"] + 0.4 * second["sparsity"], rel=1e-5)
    )


def test_training_lowers_the_divergence_and_each_run_can_be_loaded(together):
    folders = together(_specs("e2e", [*_PAIR, "blocks.3.hook_resid_pre"], n_tokens=60 * 4 * CONTEXT))
    for folder in folders:
        log = _log(folder)
        assert log[-1]["logits_kl"] < 0.7 * log[0]["logits_kl"]
        assert load_sae(folder).d_in == D_MODEL
        spec = json.loads((folder / "manifest.json").read_text())["spec"]
        assert spec["spliced"] == {HOOK: 1.0, _PAIR[1]: 2.0, "blocks.3.hook_resid_pre": 3.0}
    assert "spliced" not in run_spec("e2e").model_dump()


def test_the_next_hook_points_are_those_of_each(together, monkeypatch):
    seen = []
    monkeypatch.setattr(joint, "_train", lambda run, data, progress: seen.append(data.capture) or 1 / 0)
    names = ["blocks.0.hook_resid_pre", "blocks.2.hook_mlp_out"]
    for changes, expected in (
        ({"downstream_next": 1}, ["blocks.1.hook_resid_pre", "blocks.3.hook_resid_pre"]),
        ({}, [f"blocks.{layer}.hook_resid_pre" for layer in (1, 2, 3)]),
        ({"downstream_hook_points": ["blocks.1.hook_mlp_out"]}, ["blocks.1.hook_mlp_out"]),
    ):
        with pytest.raises(ZeroDivisionError):
            together(_specs("e2e_ds", names, **changes), config=ActivationsConfig(source="stream"))
        assert seen.pop() == expected


def test_a_wrong_set_is_one_sentence(together):
    pair = _specs("e2e", _PAIR)
    for specs, sentence in (
        (pair[:1], r"run tiny-run trains together with those of its name at .*, and with no others; give one --spec for each"),
        ([pair[0], pair[1].model_copy(update={"name": "other"})], r"trains together with those of its name"),
        ([pair[0], pair[1].model_copy(update={"spliced": None})], r"trains together with those of its name"),
        ([pair[0].model_copy(update={"spliced": None}), pair[1]], r"trains together with those of its name at blocks.1"),
        (pair[::-1], r"`runs.tiny.hook_points` has blocks.1.hook_resid_pre after .* which does not change it"),
        ([pair[0], pair[1].model_copy(update={"sparsity_coeff": 1e39})], r"the loss of run tiny-run is nan with .* lower `lr`"),
    ):
        with pytest.raises(UserError, match=sentence):
            together(specs)
    with pytest.raises(UserError, match=r"run tiny-run trains together with .*, blocks.2.hook_resid_pre; give all of them"):
        train(pair[0], _CONFIG, *[Path("nowhere")] * 5)


def test_too_little_memory_for_a_set_does_not_ask_for_fewer_runs(together, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(joint, "prepare", fail)
    with pytest.raises(UserError, match=r"2 run\(s\) .* lower `batch_tokens` or `d_sae`\. The last"):
        together(_specs("e2e", _PAIR))
