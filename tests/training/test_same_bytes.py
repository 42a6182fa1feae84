"""Equal seeds give equal bytes with the threads and algorithms that users have, and after an interruption too."""

from __future__ import annotations

from functools import cache
from itertools import product
from pathlib import Path

import pytest
import torch
from tests.each import each
from tests.tiny_pipeline import CONTEXT, D_MODEL, D_VOCAB, HOOK, run_spec, tiny_decoder
from torch import Tensor

from saeworks.config.architectures import ARCHITECTURES
from saeworks.config.objectives import OBJECTIVES
from saeworks.config.training import RunSpec
from saeworks.lm.sites import Site
from saeworks.sae.build import build_sae
from saeworks.sae.execution.products import Active
from saeworks.sae.init import initialise
from saeworks.training.clean import CleanPass
from saeworks.training.member import Member
from saeworks.training.objective import Objective
from saeworks.training.scratch import RunFolder

_ROWS = 72  # 864 tokens
_PARALLEL_FROM = 32_768  # numbers that torch divides among threads
_LATER = ["blocks.2.hook_resid_pre", "blocks.3.hook_resid_pre"]
_STEPS, _D_SAE = 2, 128
_OPTIONS = {
    "jumprelu": {"jumprelu_bandwidth": 0.1},
    **{name: {"k": 48} for name, declared in ARCHITECTURES.items() if declared.by_k},
}
_QUICK = [
    {"architecture": "relu", "penalty": "l1_decoder_norm", "decoder": "free"},
    {"architecture": "gated"},
    {"architecture": "jumprelu"},
    {"architecture": "topk", "multi_topk": True, "dead_features": "auxk"},
]
_EVERY = [
    *({"architecture": name, "objective": objective} for name, objective in product(ARCHITECTURES, OBJECTIVES)),
    *({"architecture": name, "penalty": "tanh"} for name in ("relu", "gated", "jumprelu")),
    {"architecture": "relu", "penalty": "lp", "dead_features": "ghost_grads"},
]


@cache
def _batch(step: int, clean: bool, threads: int) -> tuple[Tensor, CleanPass | None]:
    model = tiny_decoder()
    tokens = torch.randint(D_VOCAB, (_ROWS, CONTEXT), generator=torch.Generator().manual_seed(step))
    x = model.hook_values(tokens, [HOOK])[HOOK]
    return x.flatten(0, 1), CleanPass(model, Site.parse(HOOK, model.arch), x, x, _LATER) if clean else None


def _member(spec: RunSpec, x: Tensor) -> Member:
    sae = build_sae(D_MODEL, spec.training, spec.k).train()
    initialise(sae, spec.training, torch.Generator().manual_seed(0))
    with torch.no_grad():
        if spec.k is None:
            pre = sae.pre_activations(sae.normalise(x)[0])
            sae.b_enc.sub_(pre.flatten().kthvalue(int(0.6 * pre.numel())).values)  # then 40% of the entries are active
        sae.b_enc[:9] = -30.0  # features that never fire
    return Member(
        spec, sae, Objective(spec, _LATER if spec.objective == "e2e_ds" else []), _STEPS, lambda step: torch.zeros(1, D_MODEL)
    )


def _step(member: Member, step: int, threads: int) -> int:
    """One step; returns the number of entries that it computed with."""
    x, clean = _batch(step, OBJECTIVES[member.spec.objective].needs_model, threads)
    result = member.step(step, x, clean)
    return round(result.l0.item() * len(x))


def _assert_same_bytes(case: dict[str, object], folder: Path, threads: int) -> None:
    """The second of two steps is made again, from a checkpoint."""
    torch.set_num_threads(threads)
    assert not torch.are_deterministic_algorithms_enabled()
    options = {"objective": "local", **_OPTIONS.get(case["architecture"], {}), **case}
    spec = run_spec(d_sae=_D_SAE, log_every=1, dead_window_tokens=800, **options)
    whole, continued = (_member(spec, _batch(0, OBJECTIVES[spec.objective].needs_model, threads)[0]) for _ in range(2))
    kept = RunFolder(folder, "run", whole)
    assert kept.restore() == 0
    _step(whole, 0, threads)
    kept.save(1)
    entries = _step(whole, 1, threads)
    assert entries > _PARALLEL_FROM
    assert RunFolder(folder, "run", continued).restore() == 1
    _step(continued, 1, threads)
    expected = whole.tensors()
    for name, tensor in continued.tensors().items():
        assert torch.equal(tensor, expected[name]), name


@each("threads, case", [(1, _QUICK[-1]), *product([2], _QUICK)])
def test_a_step_on_one_thread_and_on_two_gives_the_same_bytes_again(tmp_path_factory, threads, case):
    _assert_same_bytes(case, tmp_path_factory.mktemp("run"), threads)


@pytest.mark.slow
@each("threads, case", product((1, 2), _EVERY))
def test_every_architecture_and_objective_gives_the_same_bytes_again(tmp_path_factory, threads, case):
    _assert_same_bytes(case, tmp_path_factory.mktemp("run"), threads)


def test_the_gradient_of_a_parameter_per_feature_is_summed_in_one_order():
    generator = torch.Generator().manual_seed(0)
    rows, n_features = 2000, 1000
    flat = (torch.rand(rows, n_features, generator=generator) < 0.1).flatten().nonzero().squeeze(1)
    entries, upstream = Active(flat, (rows, n_features)), torch.randn(len(flat), generator=generator)
    torch.set_num_threads(2)
    gradients = []
    for _ in range(5):
        parameter = torch.zeros(n_features, requires_grad=True)
        entries.at(parameter).backward(upstream)
        gradients.append(parameter.grad)
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)
    expected = torch.zeros(rows * n_features).index_put((flat,), upstream).view(rows, n_features).sum(dim=0)
    torch.testing.assert_close(gradients[0], expected, rtol=1e-4, atol=1e-4)
