"""dictionary_learning: each trainer's own `update`, as `trainSAE` calls it.

The package is installed with `--no-deps` (its nnsight wants torchvision, and that another torch), and imports
`nnsight.LanguageModel` for its activation buffer, which is not used here: an empty module stands in.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable

import torch
from torch import Tensor
from worker import D_IN, D_SAE, DEAD, DEAD_SCALE, L1, LR, K, Step, bias_for_l0, mean_l0, serve

CASES = ["relu", "topk", "gated", "topk_auxk"]
STEPS = 100_000


def make_step(case: str, sample: Tensor) -> tuple[Step, Callable[[], float]]:
    """`trainer.update(step, batch)`, past the first thousand steps, where TopK's threshold is updated too."""
    from dictionary_learning.trainers import GatedSAETrainer, StandardTrainer, TopKTrainer

    common = dict(steps=STEPS, activation_dim=D_IN, dict_size=D_SAE, layer=0, lm_name="none", device="cpu", warmup_steps=0)
    if case == "relu":
        trainer = StandardTrainer(**common, lr=LR, l1_penalty=L1, sparsity_warmup_steps=None)
        biases, weight = [trainer.ae.encoder.bias], trainer.ae.encoder.weight
    elif case == "gated":
        trainer = GatedSAETrainer(**common, lr=LR, l1_penalty=L1, sparsity_warmup_steps=None)
        biases, weight = [trainer.ae.gate_bias, trainer.ae.mag_bias], trainer.ae.encoder.weight
    else:
        trainer = TopKTrainer(**common, k=K, lr=LR)
        biases, weight = [], trainer.ae.encoder.weight
    with torch.no_grad():
        for bias in biases:
            bias.fill_(bias_for_l0(sample @ weight.T))
        if case == "topk_auxk":
            weight[:DEAD] *= DEAD_SCALE
    number = [2000]

    def step(x: Tensor) -> None:
        if case == "topk_auxk":
            trainer.num_tokens_since_fired[:DEAD] = trainer.dead_feature_threshold
        trainer.update(number[0], x.to(torch.float32))
        number[0] += 1
        if case == "topk_auxk" and trainer.dead_features < DEAD * 0.9:
            raise ValueError(f"AuxK ran with {trainer.dead_features} dead latents instead of {DEAD}")

    def l0() -> float:
        with torch.no_grad():
            return mean_l0(trainer.ae.encode(sample))

    return step, l0


if __name__ == "__main__":
    nnsight = types.ModuleType("nnsight")
    nnsight.LanguageModel = type("LanguageModel", (), {})
    sys.modules.setdefault("nnsight", nnsight)
    serve(make_step, CASES, modules=["dictionary_learning.trainers"], packages=["dictionary-learning"])
