"""Our own end-to-end step, in our own environment: `CleanPass` and `Member.step`, as the trainer calls them.

With `--activations stream` the values at the hook point are computed in the step, instead of read as from the cache.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import end_to_end_setting as setting
import torch
from torch import Tensor
from worker import LR, Step, bias_for_l0, keep_freed_memory, mean_l0, serve


def make_step(case: str, sample: Tensor) -> tuple[Step, Callable[[], float]]:
    """One full training step on a batch of row numbers, and the L0 on those of the sample."""
    from saeworks.config.training import RunSpec, TrainingConfig
    from saeworks.lm.decoder import Architecture, Decoder
    from saeworks.lm.sites import Site
    from saeworks.sae.build import build_sae
    from saeworks.training.clean import CleanPass
    from saeworks.training.member import Member
    from saeworks.training.objective import Objective

    objective = case.removesuffix(setting.DENSE)
    model = Decoder(Architecture(**setting.SHAPE), setting.model_weights())
    site = Site.parse(setting.HOOK, model.arch)
    corpus = setting.corpus()
    cached = model.hook_values(corpus, [site.name])[site.name]
    kl, downstream = setting.OBJECTIVES[objective]
    settings = TrainingConfig(
        d_sae=setting.D_SAE,
        batch_tokens=setting.TOKENS,
        lr=LR,
        warmup_fraction=0.0,
        schedule="constant",
        kl_coeff=kl or None,
        downstream_coeff=downstream or None,
        grad_clip=setting.GRAD_CLIP,
    )
    spec = RunSpec(
        name=case,
        group=case,
        hook_point=site.name,
        objective=objective,
        seed=0,
        sparsity_coeff=setting.SPARSITY,
        training=settings,
    )
    sae = build_sae(site.d_in, settings)
    with torch.no_grad():
        for name, value in setting.sae_weights().items():
            getattr(sae, name).copy_(value)
        if not case.endswith(setting.DENSE):
            sae.b_enc.fill_(bias_for_l0(cached[sample].flatten(0, 1) @ sae.W_enc))
    names = [f"blocks.{layer}.hook_resid_pre" for layer in setting.DOWNSTREAM] if downstream else []
    member = Member(spec, sae, Objective(spec, names), 1_000_000, lambda step: cached[sample])
    done = 0

    def step(rows: Tensor) -> Tensor:
        nonlocal done
        x = model.hook_values(corpus[rows], [site.name])[site.name] if "stream" in sys.argv else cached[rows]
        clean = None if objective == "local" else CleanPass(model, site, x, x, names)
        result = member.step(done, x.flatten(0, 1), clean)
        done += 1
        return result.loss

    def l0() -> float:
        with torch.no_grad():
            return mean_l0(sae.encode(cached[sample].flatten(0, 1)))

    return step, l0


if __name__ == "__main__":
    keep_freed_memory()
    serve(
        make_step,
        setting.CASES,
        modules=["saeworks"],
        packages=["saeworks"],
        make_batches=setting.batches,
        l0_ranges=setting.L0_RANGES,
    )
