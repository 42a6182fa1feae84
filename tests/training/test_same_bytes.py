"""Equal seeds give equal bytes with the threads and algorithms that users have, and after an interruption too."""

from __future__ import annotations

from functools import cache
from itertools import product
from pathlib import Path

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

_ROWS = 342  # 4,104 tokens
_PARALLEL_FROM = 32_768  # numbers that torch divides among threads
_LATER = ["blocks.2.hook_resid_pre", "blocks.3.hook_resid_pre"]
_STEPS = 2
_OPTIONS = {
    "jumprelu": {"jumprelu_bandwidth": 0.1},
    **{name: {"k": 10} for name, declared in ARCHITECTURES.items() if declared.by_k},
}
_CASES = [
    *({"architecture": name, "objective": objective} for name, objective in product(ARCHITECTURES, OBJECTIVES)),
    *({"architecture": name, "penalty": "tanh"} for name in ("relu", "gated", "jumprelu")),
    *({"architecture": "relu", "penalty": penalty, "decoder": "free"} for penalty in ("lp", "l1_decoder_norm")),
    {"architecture": "relu", "dead_features": "auxk"},
    {"architecture": "relu", "dead_features": "ghost_grads"},
    {"architecture": "relu", "activation_scale": "layer_norm", "pre_bias": True},
    {"architecture": "topk", "multi_topk": True},
]


@cache
def _batch(step: int, threads: int) -> tuple[Tensor, CleanPass]:
    model = tiny_decoder()
    tokens = torch.randint(D_VOCAB, (_ROWS, CONTEXT), generator=torch.Generator().manual_seed(step))
    x = model.hook_values(tokens, [HOOK])[HOOK]
    return x.flatten(0, 1), CleanPass(model, Site.parse(HOOK, model.arch), x, x, _LATER)


def _member(spec: RunSpec, x: Tensor) -> Member:
    sae = build_sae(D_MODEL, spec.training, spec.k).train()
    initialise(sae, spec.training, torch.Generator().manual_seed(0))
    with torch.no_grad():
        if spec.k is None:
            pre = sae.pre_activations(sae.normalise(x)[0])
            sae.b_enc.sub_(pre.flatten().kthvalue(int(0.94 * pre.numel())).values)  # then 6% of the entries are active
        sae.b_enc[:9] = -30.0  # features that never fire
    return Member(
        spec, sae, Objective(spec, _LATER if spec.objective == "e2e_ds" else []), _STEPS, lambda step: torch.zeros(1, D_MODEL)
    )


def _steps(member: Member, steps: range, threads: int) -> None:
    for step in steps:
        x, clean = _batch(step, threads)
        member.step(step, x, clean if OBJECTIVES[member.spec.objective].needs_model else None)


def _assert_same_bytes(spec: RunSpec, folder: Path, threads: int) -> None:
    whole, stopped, continued = (_member(spec, _batch(0, threads)[0]) for _ in range(3))
    _steps(whole, range(_STEPS), threads)
    before = RunFolder(folder, "run", stopped)
    assert before.restore() == 0
    _steps(stopped, range(1), threads)
    before.save(1)
    assert RunFolder(folder, "run", continued).restore() == 1
    _steps(continued, range(1, _STEPS), threads)
    expected = whole.tensors()
    for name, tensor in continued.tensors().items():
        assert torch.equal(tensor, expected[name]), name


@each("threads, case", product((1, 2), _CASES))
def test_equal_seeds_give_equal_bytes_also_after_an_interruption(tmp_path_factory, monkeypatch, threads, case):
    entries = []
    torch.set_num_threads(threads)
    assert not torch.are_deterministic_algorithms_enabled()
    case = dict(case)
    options = _OPTIONS.get(case["architecture"], {})
    spec = run_spec(case.pop("objective", "local"), d_sae=256, log_every=1, dead_window_tokens=4000, **options | case)
    with monkeypatch.context() as patch:
        made = Active.__init__
        patch.setattr(Active, "__init__", lambda self, flat, shape: (entries.append(len(flat)), made(self, flat, shape))[1])
        _assert_same_bytes(spec, tmp_path_factory.mktemp("run"), threads)
    assert max(entries) > _PARALLEL_FROM
