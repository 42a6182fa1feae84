"""Which directions of an activation the rest of the model reads least, from its weights."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from ...lm.decoder import Decoder
from ...lm.sites import Site


def readers(model: Decoder, site: Site) -> Iterator[Float[Tensor, "n d_model"]]:
    """Float64 matrices that read the residual after `site`: W_Q, W_K, W_V and W_in (gate too) of what runs then, and W_U.

    With the weights of the norm before them, and without what does not reach them: the mean over components where the norm is a
    LayerNorm, and for W_U what is the same for all tokens, which no probability depends on.
    """
    arch, weights = model.arch, model.weights
    sizes = [n * arch.d_head for n in (arch.n_heads, arch.n_kv_heads, arch.n_kv_heads)]

    def behind(norm: str, name: str) -> Float[Tensor, "n d_model"]:
        matrix = weights[f"{name}.W"].double()
        if f"{norm}.w" in weights:
            matrix = matrix * weights[f"{norm}.w"].double()
        return matrix - matrix.mean(dim=1, keepdim=True) if arch.norm == "layer" else matrix

    for layer in range(site.layer if site.in_block else site.resume, arch.n_layers):
        block = f"blocks.{layer}"
        if layer >= site.resume:
            yield from behind(f"{block}.ln1", f"{block}.attn.qkv").split(sizes)
        for part in ("in", "gate"):
            if f"{block}.mlp.{part}.W" in weights:
                yield behind(f"{block}.ln2", f"{block}.mlp.{part}")
    unembedding = behind("ln_final", "unembed")
    yield unembedding - unembedding.mean(dim=0)


def unread_directions(model: Decoder, site: Site, share: float) -> Float[Tensor, "d_in n"]:
    """The most orthonormal directions at `site` that together hold at most `share` of the squared norm of what reads them.

    Every reader counts alike: the singular values are those of all `readers`, each divided by its Frobenius norm, one below the other.
    """
    total = torch.zeros(model.arch.d_model, model.arch.d_model, dtype=torch.float64, device=model.device)
    for matrix in readers(model, site):
        total += matrix.T @ matrix / matrix.square().sum().clamp(min=torch.finfo(torch.float64).tiny)
    if site.kind == "z":  # reaches the residual through W_O
        W_O = model.weights[f"blocks.{site.layer}.attn.o.W"].double()
        total = W_O.T @ total @ W_O
    squares, directions = torch.linalg.eigh(total.cpu())
    held = squares.clamp(min=0).cumsum(dim=0)
    return directions[:, : int((held <= share * held[-1]).sum())].to(model.device)
