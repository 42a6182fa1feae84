"""Steps with packed entries, as on a CUDA device: they equal dense ones, and when they are taken outlives an interruption."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.tiny_pipeline import CONTEXT, D_MODEL, D_VOCAB, run_spec, tiny_decoder
from torch import Tensor

from saeworks.config.training import RunSpec
from saeworks.lm.sites import Site
from saeworks.sae.build import build_sae
from saeworks.sae.execution import choice, dense, packed
from saeworks.sae.execution.choice import ByDensity
from saeworks.sae.execution.compact import Compacted
from saeworks.sae.execution.packed import Packed
from saeworks.store.checkpoint import load_checkpoint
from saeworks.training.clean import CleanPass
from saeworks.training.member import Member
from saeworks.training.objective import Objective
from saeworks.training.scratch import RunFolder

pytest.importorskip("triton", reason="needs Triton: `make kernels`")

_LATER = ["blocks.2.hook_resid_pre", "blocks.3.hook_resid_pre"]
_CASES = {
    "relu": {},
    "relu e2e": {"objective": "e2e"},
    "relu e2e_ds": {"objective": "e2e_ds"},
    "relu lp": {"penalty": "lp", "decoder": "renormalised"},
    "relu ghost": {"dead_features": "ghost_grads", "dead_window_tokens": 20},
    "relu layer_norm": {"activation_scale": "layer_norm", "weight_ema": 0.9},
    "gated": {"architecture": "gated", "decoder": "free", "penalty": "l1_decoder_norm"},
    "gated e2e_ds": {"architecture": "gated", "objective": "e2e_ds"},
    "jumprelu": {"architecture": "jumprelu", "jumprelu_bandwidth": 0.5},
    "jumprelu tanh": {"architecture": "jumprelu", "jumprelu_bandwidth": 0.5, "penalty": "tanh", "objective": "e2e"},
}


@pytest.fixture(autouse=True)
def _packs(monkeypatch):
    """Steps pack their entries on the CPU too, unless almost all of them are active."""
    monkeypatch.setattr(choice, "usable", lambda device: True)
    monkeypatch.setattr(choice, "_DENSE_ABOVE_PACKED", {"float32": 0.9, "tensor cores": 0.9})
    monkeypatch.setattr(packed, "_SMALLEST", 16)


def _spec(**settings: object) -> RunSpec:
    return run_spec(settings.pop("objective", "local"), log_every=1, pre_bias=True, **settings)


def _batch(spec: RunSpec, step: int, dtype: torch.dtype) -> tuple[Tensor, CleanPass | None]:
    model = tiny_decoder(dtype=dtype)
    tokens = torch.randint(D_VOCAB, (2, CONTEXT), generator=torch.Generator().manual_seed(step))
    x = model.hook_values(tokens, [spec.hook_point])[spec.hook_point]
    clean = None if spec.objective == "local" else CleanPass(model, Site.parse(spec.hook_point, model.arch), x, x, _LATER)
    return x.flatten(0, 1), clean


def _member(spec: RunSpec, dtype: torch.dtype = torch.float64) -> Member:
    sae = build_sae(D_MODEL, spec.training, spec.k).to(dtype).train()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.normal_(std=0.3, generator=generator)
        sae.b_enc[:3] = -30.0  # features that never fire
        if spec.training.architecture == "jumprelu":
            sae.threshold.abs_()
    downstream = _LATER if spec.objective == "e2e_ds" else []
    return Member(spec, sae, Objective(spec, downstream), 40, lambda step: torch.zeros(1, D_MODEL))


def _by_density(spec: RunSpec, dtype: torch.dtype = torch.float64) -> Member:
    """The same run without packed entries."""
    made = _member(spec, dtype)
    made.execution = ByDensity()
    return made


def _capacity(trained: Member) -> int | None:
    return trained.execution.capacity(2 * CONTEXT, trained.sae.d_sae)


def _train(trained: Member, steps: range) -> list[dict]:
    dtype = trained.sae.W_enc.dtype
    return [trained.log_line(step + 1, trained.step(step, *_batch(trained.spec, step, dtype))) for step in steps]


@pytest.fixture
def passes(monkeypatch) -> list[tuple[int | None, Compacted | None]]:
    """Number of places, and the entries there, of every forward pass from now on."""
    seen, real = [], Objective.terms

    def recorded(*args):
        terms, forward = real(*args)
        active = forward.pre.active
        seen.append((len(forward.pre.values) if isinstance(active, Compacted) else None, active))
        return terms, forward

    monkeypatch.setattr(Objective, "terms", recorded)
    return seen


@pytest.mark.parametrize("case", _CASES)
def test_steps_with_packed_entries_equal_dense_ones(case, passes):
    spec = _spec(**_CASES[case])
    trained, other = _member(spec), _by_density(spec)
    lines = _train(trained, range(2))
    assert [isinstance(active, Compacted) for _, active in passes] == [False, True]
    passes.clear()
    expected = _train(other, range(2))
    assert not any(isinstance(active, Compacted) for _, active in passes)
    for line, wanted in zip(lines, expected, strict=True):
        assert line == pytest.approx(wanted, rel=1e-8)
    for (name, tensor), wanted in zip(trained.tensors().items(), other.tensors().values(), strict=True):
        torch.testing.assert_close(tensor, wanted, rtol=1e-7, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")
    if "ghost" in case:
        assert lines[-1]["ghost"] > 0 and lines[-1]["dead_features"] >= 3


def test_the_next_capacity_follows_the_entries_of_this_step(passes):
    trained = _member(_spec())
    assert _capacity(trained) is None
    for step in range(3):
        expected = _capacity(trained)
        before = trained.sae.W_enc.detach().clone(), trained.sae.b_enc.detach().clone(), trained.sae.b_dec.detach().clone()
        x = _batch(trained.spec, step, torch.float64)[0]
        _train(trained, range(step, step + 1))
        assert passes[-1][0] == expected
        assert trained.execution.entries == int(((x - before[2]) @ before[0] + before[1] > 0).sum())
        assert trained.execution.entries * 1.5 - 1 <= _capacity(trained) <= trained.execution.entries * 1.7


def test_steps_are_dense_while_many_entries_are_active(passes, monkeypatch):
    monkeypatch.setattr(choice, "_DENSE_ABOVE_PACKED", {"float32": 0.01, "tensor cores": 1.0})
    _train(_member(_spec()), range(3))
    assert passes == [(None, None)] * 3
    _train(_member(_spec(tf32=True)), range(2))
    assert [isinstance(active, Compacted) for _, active in passes[3:]] == [False, True]


@pytest.mark.parametrize("settings", [{"architecture": "topk", "k": 4}, {"dead_features": "auxk"}])
def test_other_architectures_and_auxk_are_never_packed(settings, passes):
    trained = _member(_spec(**settings))
    _train(trained, range(2))
    assert not trained.execution.uses_kernels and trained.execution.entries is None
    assert not any(isinstance(active, Compacted) for _, active in passes)


@pytest.mark.parametrize("case", ["relu", "gated", "jumprelu", "relu e2e_ds"])
def test_a_step_with_more_entries_than_places_is_made_again_dense(case, passes):
    spec = _spec(**_CASES[case])
    trained, other = _member(spec, torch.float32), _by_density(spec, torch.float32)
    expected = _train(other, range(1))
    passes.clear()
    trained.execution.entries = 1  # 16 places
    assert _train(trained, range(1)) == expected
    assert [capacity for capacity, _ in passes] == [16, None]
    assert passes[0][1].count > 16
    for name, tensor in trained.tensors().items():
        assert torch.equal(tensor, other.tensors()[name]), name
    assert trained.execution.entries > 16 and _capacity(trained) >= trained.execution.entries  # the next step has room


def _folder(path: Path, trained: Member) -> RunFolder:
    return RunFolder(path, "run", trained)


def test_an_interrupted_run_goes_on_with_the_same_steps(tmp_path, passes):
    spec = _spec(**_CASES["gated"])
    whole = _member(spec, torch.float32)
    _train(whole, range(3))
    expected = list(passes)
    stopped = _member(spec, torch.float32)
    folder = _folder(tmp_path, stopped)
    assert folder.restore() == 0
    _train(stopped, range(2))
    folder.save(2)
    assert load_checkpoint(folder.checkpoint)[1]["entries"] == stopped.execution.entries
    passes.clear()
    continued = _member(spec, torch.float32)
    assert _folder(tmp_path, continued).restore() == 2
    _train(continued, range(2, 3))
    assert [capacity for capacity, _ in passes] == [capacity for capacity, _ in expected[2:]]
    for name, tensor in continued.tensors().items():
        assert torch.equal(tensor, whole.tensors()[name]), name


def test_a_checkpoint_of_a_run_that_does_not_pack_says_nothing_about_entries(tmp_path, monkeypatch):
    monkeypatch.undo()
    trained = _member(_spec(), torch.float32)
    assert not trained.execution.uses_kernels
    folder = _folder(tmp_path, trained)
    folder.restore()
    _train(trained, range(2))
    folder.save(2)
    assert load_checkpoint(folder.checkpoint)[1].keys() == {"step", "identity", "log_bytes"}
    packing = _member(_spec(), torch.float32)
    packing.execution = Packed(dense_above=0.9)
    assert _folder(tmp_path, packing).restore() == 2 and packing.execution.entries is None


@pytest.mark.parametrize("case", ["relu", "gated", "jumprelu"])
def test_under_bf16_the_encoder_rounds_and_the_rest_of_the_sae_does_not(case):
    spec = _spec(**_CASES[case] | {"precision": "bf16"})
    x = _batch(spec, 0, torch.float32)[0]
    found = {}
    roomy = Packed(dense_above=1.0)
    roomy.entries = len(x) * spec.training.d_sae
    for execution in (dense, roomy):
        sae = _member(spec, torch.float32).sae
        terms, forward = Objective(spec).terms(sae, execution, x)
        assert forward.pre.values.dtype == forward.output.dtype == torch.float32
        sum(terms.values()).backward()
        found[execution] = forward.pre.dense(), {name: p.grad for name, p in sae.named_parameters()}
    (whole, expected), (entries, gradients) = found[dense], found[roomy]
    assert torch.equal(entries, whole * (whole > sae.floor()))
    for name, gradient in expected.items():
        assert (gradients[name] - gradient).norm() < 0.03 * gradient.norm(), name
