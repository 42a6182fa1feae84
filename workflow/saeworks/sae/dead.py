"""What is done about dead features, beside AuxK, which is part of the forward pass."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from .base import SAE, Forward
from .execution import dense

_RESAMPLED_ENCODER_NORM = 0.2  # of the mean norm of the living encoder directions


def ghost_activations(sae: SAE, step: Forward, dead: Bool[Tensor, " d_sae"], exp_relu: bool = False) -> Float[Tensor, "B d_in"]:
    """Σ_dead exp(pre_j) D_j, without a bias.

    Args:
        exp_relu: exp(ReLU(pre)) instead, as the SAEs of Bloom 2024 were trained: at a dead feature it is constant, so the
            encoder gets no gradient.
    """
    x = step.x - sae.b_dec if sae.pre_bias else step.x
    pre = x @ sae.W_enc[:, dead] + sae.b_enc[dead]
    return torch.exp(F.relu(pre) if exp_relu else pre) @ step.dictionary[dead]


@torch.no_grad()
def resample(
    sae: SAE, optimizer: torch.optim.Adam, dead: Bool[Tensor, " d_sae"], x: Float[Tensor, "n d_in"], generator: torch.Generator
) -> None:
    """Give dead features the directions of badly reconstructed inputs (Anthropic, Towards Monosemanticity, October 2023).

    Inputs are drawn with probability proportional to the square of their squared error. The decoder row becomes the unit
    vector of the input (minus b_dec under `pre_bias`), at the mean norm of the living rows; the encoder column the same
    direction at 0.2 of the mean norm of the living columns; the architecture's parameters per feature 0; and the optimiser forgets
    their moments.
    """
    count = int(dead.sum())
    if count == 0:
        return
    sae.eval()  # a look, not a step
    outputs = torch.cat([sae.finish(part, dense.encode(sae, part)).output for part in x.split(1024)])
    error = (outputs - x).square().sum(dim=1)
    sae.train()
    weights = error.double().square().cpu()
    weights = weights if weights.sum() > 0 else torch.ones_like(weights)
    chosen = torch.multinomial(weights, count, replacement=True, generator=generator).to(x.device)
    directions = F.normalize(x[chosen] - sae.b_dec if sae.pre_bias else x[chosen], dim=1)
    living = ~dead
    encoder_norm = sae.W_enc[:, living].norm(dim=0).mean() if living.any() else 1.0
    decoder_norm = sae.W_dec[living].norm(dim=1).mean() if living.any() else 1.0
    sae.W_dec[dead] = directions * decoder_norm
    sae.W_enc[:, dead] = directions.T * encoder_norm * _RESAMPLED_ENCODER_NORM
    per_feature = sae.feature_parameters()
    for parameter in per_feature:
        parameter[dead] = 0  # a threshold could keep the feature silent
    for key in ("exp_avg", "exp_avg_sq"):
        for parameter in (sae.W_dec, *per_feature):
            optimizer.state[parameter][key][dead] = 0
        optimizer.state[sae.W_enc][key][:, dead] = 0
