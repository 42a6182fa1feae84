"""A GPT with random weights: the shape of a language model and none of its knowledge. Torch only, for every environment."""

from __future__ import annotations

import torch
from torch import Tensor


def shape(n_layers: int, d_model: int, n_heads: int, d_vocab: int, n_ctx: int) -> dict:
    """The fields of `saeworks.lm.decoder.Architecture`, as GPT-2 has them."""
    d_head = d_model // n_heads
    return {
        "n_layers": n_layers,
        "d_model": d_model,
        "n_heads": n_heads,
        "n_kv_heads": n_heads,
        "d_head": d_head,
        "d_vocab": d_vocab,
        "n_ctx": n_ctx,
        "norm": "layer",
        "eps": 1e-5,
        "rotary_dim": 0,
        "activation": "gelu_new",
        "parallel": False,
        "attn_scale": d_head**-0.5,
        "windows": (0,) * n_layers,
    }


def weights(arch: dict, generator: torch.Generator) -> dict[str, Tensor]:
    """Weights by the names of `saeworks.lm.decoder.Decoder`, in which a block adds about as much as it reads.

    The norms have neither weight nor bias, as after folding.
    """
    d = arch["d_model"]

    def draw(*size: int, scale: float) -> Tensor:
        return scale * torch.randn(*size, generator=generator)

    named = {
        "embed": draw(arch["d_vocab"], d, scale=1.0),
        "pos_embed": draw(arch["n_ctx"], d, scale=0.5),
        "unembed.W": draw(arch["d_vocab"], d, scale=d**-0.5),
        "unembed.b": draw(arch["d_vocab"], scale=0.02),
    }
    for layer in range(arch["n_layers"]):
        for name, size in {"attn.qkv": (3 * d, d), "attn.o": (d, d), "mlp.in": (4 * d, d), "mlp.out": (d, 4 * d)}.items():
            named[f"blocks.{layer}.{name}.W"] = draw(*size, scale=size[1] ** -0.5)
            named[f"blocks.{layer}.{name}.b"] = draw(size[0], scale=0.02)
    return named
