"""SAELens: the body of the loop in `SAETrainer.fit` (sae_lens 6.54), logging off."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from worker import BATCH, D_IN, D_SAE, DEAD, DEAD_SCALE, L1, LR, K, Step, bias_for_l0, mean_l0, serve

CASES = ["relu", "topk", "gated", "topk_auxk"]


def make_step(case: str, sample: Tensor) -> tuple[Step, Callable[[], float]]:
    """One `SAETrainer.step`: forward, firing counts, backward, clipping, Adam, schedules."""
    from sae_lens import (
        GatedTrainingSAE,
        GatedTrainingSAEConfig,
        StandardTrainingSAE,
        StandardTrainingSAEConfig,
        TopKTrainingSAE,
        TopKTrainingSAEConfig,
    )
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    if case == "relu":
        sae = StandardTrainingSAE(StandardTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, l1_coefficient=L1))
        biases = [sae.b_enc]
    elif case == "gated":
        sae = GatedTrainingSAE(GatedTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, l1_coefficient=L1))
        biases = [sae.b_gate, sae.b_mag]
    else:
        sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, k=K))
        biases = []
    with torch.no_grad():
        for bias in biases:
            bias.fill_(bias_for_l0(sample @ sae.W_enc))
        if case == "topk_auxk":
            sae.W_enc[:, :DEAD] *= DEAD_SCALE
    config = SAETrainerConfig(
        total_training_samples=100_000 * BATCH,
        train_batch_size_samples=BATCH,
        lr=LR,
        lr_end=LR,
    )
    trainer = SAETrainer(cfg=config, sae=sae, data_provider=iter(()))

    def step(x: Tensor) -> None:
        if case == "topk_auxk":
            trainer.n_forward_passes_since_fired[:DEAD] = config.dead_feature_window + 1
        trainer.maybe_reset_sparsity()
        output = trainer.step(x)
        if case == "topk_auxk" and not output.losses["auxiliary_reconstruction_loss"] > 0:
            raise ValueError("AuxK did not run")
        trainer._checkpoint_if_needed()
        trainer.n_training_steps += 1

    def l0() -> float:
        with torch.no_grad():
            return mean_l0(sae.encode(sample))

    return step, l0


if __name__ == "__main__":
    serve(make_step, CASES, modules=["sae_lens", "sae_lens.training.sae_trainer"], packages=["sae-lens"])
