"""Training losses as pure functions. The objectives are those of Braun et al. 2024 (arXiv 2405.12241), normalised as in its code.

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


def mse_by_input_norm(output: Float[Tensor, "tokens d"], target: Float[Tensor, "tokens d"]) -> Float[Tensor, ""]:
    """Mean over tokens and d of (output − target)²/‖target‖₂: linear in the scale of the activations (Bloom 2024)."""
    return ((output - target).square() / target.norm(dim=-1, keepdim=True)).mean()


def mse_by_variance(
    output: Float[Tensor, "tokens d"], target: Float[Tensor, "tokens d"], variance: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """`reconstruction_mse` divided by the mean squared deviation of the data from its mean (Gao et al. 2024)."""
    return reconstruction_mse(output, target) / variance


# Penalties: mean over tokens of a sum over features. `values` are code entries in any arrangement that leaves out nothing
# but zeros; the parameters of features are given per entry, or broadcast against it.


def l0(values: Float[Tensor, "..."], n_tokens: int) -> Float[Tensor, ""]:
    """Σ 1[c > 0], where `values` are these indicators, with a gradient of their own (Rajamanoharan et al. 2024)."""
    return values.sum() / n_tokens


def l1(values: Float[Tensor, "..."], n_tokens: int) -> Float[Tensor, ""]:
    """Σ|c|. Codes of a ReLU dictionary are not negative, but the absolute value is taken all the same."""
    return values.abs().sum() / n_tokens


def lp(values: Float[Tensor, "..."], n_tokens: int, p: float) -> Float[Tensor, ""]:
    """Σ|c|ᵖ, the p-th power of the Lp norm. At 0 the gradient is taken to be 0."""
    size = values.abs()
    return torch.where(size > 0, size, 1.0).pow(p).mul(size > 0).sum() / n_tokens


def l1_decoder_norm(values: Float[Tensor, "..."], n_tokens: int, norms: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """Σ|c_j|·‖D_j‖₂, for a dictionary whose rows are free (Anthropic, April 2024)."""
    return (values.abs() * norms).sum() / n_tokens


def tanh_sparsity(values: Float[Tensor, "..."], n_tokens: int, norms: Float[Tensor, "..."], scale: float) -> Float[Tensor, ""]:
    """Σ tanh(scale·|c_j|·‖D_j‖₂): near L1 for small activations, near L0 for large ones (Anthropic, January 2025)."""
    return torch.tanh(scale * values.abs() * norms).sum() / n_tokens


def auxk_loss(
    residual: Float[Tensor, "tokens d"], reconstruction: Float[Tensor, "tokens d"], normalised: bool = True
) -> Float[Tensor, ""]:
    """Mean squared error of reconstructing e = x − x̂, a constant, from dead features.

    Args:
        normalised: divided by the mean squared deviation of e from its mean over the batch (Gao et al. 2024); a batch whose
            e does not vary adds 0. Otherwise as it is (Bussmann et al. 2024).
    """
    residual = residual.detach()
    error = reconstruction_mse(reconstruction, residual)
    if not normalised:
        return error
    spread = (residual - residual.mean(dim=0)).square().mean()
    varies = spread > (10 * torch.finfo(residual.dtype).eps) ** 2 * residual.square().mean()  # beyond rounding
    return torch.where(varies, error / torch.where(varies, spread, 1.0), 0.0)


def ghost_gradients(
    residual: Float[Tensor, "tokens d"], ghost: Float[Tensor, "tokens d"], error: Float[Tensor, "tokens d"]
) -> Float[Tensor, ""]:
    """The ghost-gradient loss of dead features (Bloom 2024, after Anthropic, January 2024, with their later corrections).

    Args:
        residual: r = x − x̂, taken as a constant.
        ghost: Σ_dead exp(pre_j) D_j without a bias; rescaled here to half the residual's norm, token by token.
        error: the elements whose mean is the reconstruction error; the ghost term is rescaled, element by element, to
            their value, which is taken as a constant.
    """
    r = residual.detach()
    ghost = ghost * (r.norm(dim=-1, keepdim=True) / (2 * ghost.norm(dim=-1, keepdim=True) + 1e-6)).detach()
    elements = (ghost - r).square() / (r - r.mean(dim=0)).norm(dim=-1, keepdim=True).clamp(min=1e-6)
    return ((error / (elements + 1e-6)).detach() * elements).mean()


def downstream_mse(new: Mapping[str, Tensor], original: Mapping[str, Tensor]) -> Float[Tensor, ""]:
    """`in_to_orig` at weight 1: the mean, over the hook points of `new`, of the `reconstruction_mse` at each.

    `new` and `original` map a hook point to its value (batch, pos, d). Multiply by β, the total coefficient, which the
    paper splits evenly over the hook points.
    """
    return torch.stack([reconstruction_mse(new[name], original[name]) for name in new]).mean()


def logits_kl(
    hidden: Float[Tensor, "*tokens d"],
    original_hidden: Float[Tensor, "*tokens d"],
    W_U: Float[Tensor, "V d"],
    b_U: Float[Tensor, " V"] | None = None,
    chunk: int = 256,
    soft_cap: float | None = None,
) -> Float[Tensor, ""]:
    """Mean over tokens of KL(p_original ‖ p_new) in nats, p = softmax(h W_Uᵀ + b_U).

    With `soft_cap` c the logits z are c·tanh(z/c) (Gemma 2).

    Works on the hidden states that the unembedding reads, `chunk` tokens at a time, and computes the gradient for
    `hidden` in the same pass: the two (T, V) logit tensors never exist. `original_hidden`, `W_U` and `b_U` are frozen.
    """
    return _LogitsKL.apply(hidden.flatten(0, -2), original_hidden.flatten(0, -2), W_U, b_U, chunk, soft_cap)


class _LogitsKL(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, original_hidden, W_U, b_U, chunk, soft_cap):
        n = len(hidden)
        gradient = torch.empty_like(hidden) if hidden.requires_grad else None
        total = hidden.new_zeros(())
        for start in range(0, n, chunk):
            part = slice(start, start + chunk)
            logits = _capped(F.linear(hidden[part], W_U, b_U), soft_cap)
            log_q = logits.log_softmax(dim=-1)
            log_p = _capped(F.linear(original_hidden[part], W_U, b_U), soft_cap).log_softmax(dim=-1)
            p = log_p.exp()
            # sum p (log p - log q) without a third (chunk, V) product tensor kept alive
            total += torch.dot(p.flatten(), log_p.sub_(log_q).flatten())
            if gradient is not None:
                slope = log_q.exp_().sub_(p)  # d KL / d logits = q - p
                if soft_cap is not None:
                    slope.mul_(1 - (logits / soft_cap).square())
                torch.mm(slope, W_U, out=gradient[part])
        if gradient is not None:
            ctx.save_for_backward(gradient.div_(n))
        return total / n

    @staticmethod
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None, None, None, None, None


def _capped(logits: Tensor, soft_cap: float | None) -> Tensor:
    return logits if soft_cap is None else soft_cap * torch.tanh(logits / soft_cap)
