"""Our own training step, in our own environment: `training.member.Member.step`, as the trainer calls it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from worker import BATCH, D_IN, D_SAE, DEAD, DEAD_SCALE, LR, K, Step, bias_for_l0, keep_freed_memory, mean_l0, serve

CASES = ["relu", "relu_dense", "topk", "gated", "topk_auxk"]
_WINDOW = 10_000_000


def make_step(case: str, sample: Tensor) -> tuple[Step, Callable[[], float]]:
    """One full training step on a batch (BATCH, D_IN), and the L0 on the sample; sizes and cases as in worker.py."""
    from saeworks.config.training import RunSpec, TrainingConfig
    from saeworks.sae.build import build_sae
    from saeworks.sae.init import initialise
    from saeworks.training.member import Member
    from saeworks.training.objective import Objective

    topk = case.startswith("topk")
    settings = TrainingConfig(
        architecture=case.split("_")[0],
        d_sae=D_SAE,
        decoder="renormalised",
        pre_bias=True,
        encoder_init="transpose",
        decoder_init="gaussian",
        encoder_bias_init="zero",
        decoder_bias_init="zero",
        dead_features="auxk" if case == "topk_auxk" else "none",
        dead_window_tokens=_WINDOW,
        batch_tokens=BATCH,
        lr=LR,
        warmup_fraction=0.0,
        schedule="constant",
    )
    sparsity = {"k": K} if topk else {"sparsity_coeff": 1.0}
    spec = RunSpec(name=case, group=case, hook_point="", objective="local", seed=0, training=settings, **sparsity)
    sae = build_sae(D_IN, settings, spec.k)
    initialise(sae, settings, torch.Generator().manual_seed(0))
    with torch.no_grad():
        if case in ("relu", "gated"):
            sae.b_enc.fill_(bias_for_l0(sample @ sae.W_enc))
        if case == "gated":
            sae.b_mag.copy_(sae.b_enc)
        if case == "topk_auxk":
            sae.W_enc[:, :DEAD] *= DEAD_SCALE
    member = Member(spec, sae, Objective(spec), 1_000_000, lambda step: sample)
    done = 0

    def step(x: Tensor) -> None:
        nonlocal done
        if case == "topk_auxk":
            member.silent[:DEAD] = _WINDOW
        member.step(done, x, None)
        done += 1

    def l0() -> float:
        with torch.no_grad():
            return mean_l0(sae.eval().encode(sample))

    return step, lambda: (l0(), sae.train())[0]


if __name__ == "__main__":
    keep_freed_memory()
    serve(make_step, CASES, modules=["saeworks"], packages=["saeworks"])
