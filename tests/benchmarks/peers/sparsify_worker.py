"""sparsify: the body of the loop in `Trainer.fit` and of its hook (eai-sparsify 1.3.3), without the language model.

`Trainer` takes activations only from a language model's forward pass, so its lines are written out here, in its order.
With `--optimizer adam` its Adam in place of its default, schedule-free signum. Its AuxK costs less than others' because
no gradient of it reaches the encoder (`FusedEncoder.backward` leaves it out).
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor
from worker import D_IN, D_SAE, DEAD, DEAD_SCALE, LR, K, Step, mean_l0, serve

CASES = ["topk", "topk_auxk"]


def make_step(case: str, sample: Tensor) -> tuple[Step, Callable[[], float]]:
    """Decoder norm, forward, backward, gradient projection, optimiser, firing counts."""
    from schedulefree import ScheduleFreeWrapper
    from sparsify import SparseCoder, SparseCoderConfig, TrainConfig
    from sparsify.sign_sgd import SignSGD
    from transformers import get_linear_schedule_with_warmup

    torch.set_float32_matmul_precision("high")
    cfg = TrainConfig(SparseCoderConfig(num_latents=D_SAE, k=K), auxk_alpha=1 / 32 if case == "topk_auxk" else 0.0)
    sae = SparseCoder(D_IN, cfg.sae, "cpu", dtype=torch.float32)
    sae.b_dec.data = sample.mean(0)
    if case == "topk_auxk":
        sae.encoder.weight.data[:DEAD] *= DEAD_SCALE
    if "adam" in sys.argv:
        groups = [dict(params=sae.parameters(), lr=LR)]
        optimizer = torch.optim.Adam(groups)
        schedulers = [get_linear_schedule_with_warmup(optimizer, cfg.lr_warmup_steps, 100_000)]
    else:
        groups = [dict(params=sae.parameters(), lr=LR)]
        optimizer = ScheduleFreeWrapper(SignSGD(groups), momentum=0.95)
        optimizer.train()
        schedulers = []
    since_fired = torch.zeros(D_SAE, dtype=torch.long)
    did_fire = torch.zeros(D_SAE, dtype=torch.bool)
    averages = {}

    def step(x: Tensor) -> None:
        if case == "topk_auxk":
            since_fired[:DEAD] = cfg.dead_feature_threshold + 1
        mask = torch.ones(len(x), dtype=torch.bool)
        x.detach().clone()  # its hook keeps all outputs before it drops the excluded tokens
        outputs = x[mask]
        inputs = x[mask]
        sae.set_decoder_norm_to_unit_norm()
        dead_mask = since_fired > cfg.dead_feature_threshold if cfg.auxk_alpha > 0 else None
        total_variance = (outputs - outputs.mean(0)).pow(2).sum()
        out = sae(x=inputs, y=outputs, dead_mask=dead_mask, total_variance=total_variance)
        did_fire[out.latent_indices.flatten()] = True
        averages["fvu"] = float(out.fvu.detach())
        if cfg.auxk_alpha > 0:
            averages["auxk"] = float(out.auxk_loss.detach())
            if not averages["auxk"] > 0:
                raise ValueError("AuxK did not run")
        loss = out.fvu + cfg.auxk_alpha * out.auxk_loss + out.multi_topk_fvu / 8
        loss.div(1).backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        for scheduler in schedulers:
            scheduler.step()
        with torch.no_grad():
            since_fired.add_(len(x))
            since_fired[did_fire] = 0
            did_fire.zero_()

    def l0() -> float:
        with torch.no_grad():
            return mean_l0(sae.encode(sample).top_acts)

    return step, l0


if __name__ == "__main__":
    serve(make_step, CASES, modules=["sparsify", "schedulefree"], packages=["eai-sparsify"])
