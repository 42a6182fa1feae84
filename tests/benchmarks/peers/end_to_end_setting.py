"""What the workers of `tests/benchmarks/end_to_end.py` share: model, corpus, SAE and cases. Torch only."""

from __future__ import annotations

import random_gpt
import torch
from torch import Tensor
from worker import L0_RANGE

SHAPE = random_gpt.shape(n_layers=4, d_model=128, n_heads=4, d_vocab=1024, n_ctx=128)
LAYER = 2
HOOK = f"blocks.{LAYER}.hook_resid_pre"
DOWNSTREAM = [3]
D_SAE = 3840  # 30 times d_model
ROWS = 16  # of n_ctx tokens in a batch
TOKENS = ROWS * SHAPE["n_ctx"]
CORPUS_ROWS = 4 * ROWS
SPARSITY = 1.5
GRAD_CLIP = 10.0
OBJECTIVES = {  # weights of KL and of downstream reconstruction; those of Braun et al. 2024
    "local": (0.0, 0.0),
    "e2e": (1.0, 0.0),
    "e2e_ds": (0.5, 2.5),
}
DENSE = " dense"  # a case with this ending starts as initialised, one without at the L0 of a trained SAE
CASES = [objective + start for objective in OBJECTIVES for start in ("", DENSE)]
L0_RANGES = {case: (D_SAE / 4, D_SAE) if case.endswith(DENSE) else L0_RANGE for case in CASES}


def model_weights() -> dict[str, Tensor]:
    """The language model's weights, by Decoder's names."""
    return random_gpt.weights(SHAPE, torch.Generator().manual_seed(0))


def corpus() -> Tensor:
    """Token rows (CORPUS_ROWS, n_ctx)."""
    size = (CORPUS_ROWS, SHAPE["n_ctx"])
    return torch.randint(SHAPE["d_vocab"], size, generator=torch.Generator().manual_seed(1))


def batches() -> list[Tensor]:
    """Numbers of corpus rows, ROWS to a batch."""
    return list(torch.randperm(CORPUS_ROWS, generator=torch.Generator().manual_seed(2)).split(ROWS))


def sae_weights() -> dict[str, Tensor]:
    """`W_enc` (d, D_SAE), `b_enc`, `W_dec` (D_SAE, d) and `b_dec`, initialised as Braun et al. do."""
    generator, d = torch.Generator().manual_seed(3), SHAPE["d_model"]

    def uniform(*size: int, bound: float) -> Tensor:
        return (2 * torch.rand(*size, generator=generator) - 1) * bound

    return {
        "W_enc": uniform(d, D_SAE, bound=d**-0.5),
        "b_enc": uniform(D_SAE, bound=d**-0.5),
        "W_dec": torch.nn.init.orthogonal_(torch.empty(D_SAE, d), generator=generator),
        "b_dec": uniform(d, bound=D_SAE**-0.5),
    }
