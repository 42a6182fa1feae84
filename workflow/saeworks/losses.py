"""Training losses as pure functions: Braun et al. 2024 (arXiv 2405.12241), with the normalisations of the authors' code.

T tokens, d = d_in, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def reconstruction_mse(output: Float[Tensor, "*tokens d"], target: Float[Tensor, "*tokens d"]) -> Float[Tensor, ""]:
    """`out_to_in`: mean over tokens and d of (output − target)²."""
    return F.mse_loss(output, target)


def l1_sparsity(codes: Float[Tensor, "*tokens d_sae"], d_in: int) -> Float[Tensor, ""]:
    """Mean over tokens of ‖c‖₁, divided by d_in: the scale on which the paper's coefficients λ are given.

    Codes of a ReLU dictionary are not negative, but the absolute value is taken all the same.
    """
    return codes.abs().sum() / (codes.numel() // codes.shape[-1] * d_in)


def downstream_mse(new: Mapping[int, Tensor], original: Mapping[int, Tensor]) -> Float[Tensor, ""]:
    """`in_to_orig` at weight 1: the mean, over the layers of `new`, of each layer's `reconstruction_mse`.

    `new` and `original` map a layer to its residual (batch, pos, d). Multiply by β, the total coefficient, which the
    paper splits evenly over the hook points.
    """
    return torch.stack([reconstruction_mse(new[layer], original[layer]) for layer in new]).mean()


def logits_kl(
    hidden: Float[Tensor, "*tokens d"],
    original_hidden: Float[Tensor, "*tokens d"],
    W_U: Float[Tensor, "V d"],
    b_U: Float[Tensor, " V"] | None = None,
    chunk: int = 256,
) -> Float[Tensor, ""]:
    """Mean over tokens of KL(p_original ‖ p_new) in nats, p = softmax(h W_Uᵀ + b_U).

    Works on the hidden states that the unembedding reads, `chunk` tokens at a time, and computes the gradient for
    `hidden` in the same pass: the two (T, V) logit tensors never exist. `original_hidden`, `W_U` and `b_U` are frozen.
    """
    return _LogitsKL.apply(hidden.flatten(0, -2), original_hidden.flatten(0, -2), W_U, b_U, chunk)


class _LogitsKL(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, original_hidden, W_U, b_U, chunk):
        n = len(hidden)
        gradient = torch.empty_like(hidden) if hidden.requires_grad else None
        total = hidden.new_zeros(())
        for start in range(0, n, chunk):
            part = slice(start, start + chunk)
            log_q = F.linear(hidden[part], W_U, b_U).log_softmax(dim=-1)
            log_p = F.linear(original_hidden[part], W_U, b_U).log_softmax(dim=-1)
            p = log_p.exp()
            # sum p (log p - log q) without a third (chunk, V) product tensor kept alive
            total += torch.dot(p.flatten(), log_p.sub_(log_q).flatten())
            if gradient is not None:
                torch.mm(log_q.exp_().sub_(p), W_U, out=gradient[part])  # d KL / d logits = q - p
        if gradient is not None:
            ctx.save_for_backward(gradient.div_(n))
        return total / n

    @staticmethod
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None, None, None, None
