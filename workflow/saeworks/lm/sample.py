"""Sampling rows of tokens from the language model, batched, with a key-value cache."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from ..store.errors import UserError
from .bridge import BridgeModel
from .decoder import Decoder, KeyValueCache


@torch.no_grad()
def sample_rows(
    model: Decoder | BridgeModel, first_token: int, rows: int, context: int, temperature: float, generator: torch.Generator
) -> Int[Tensor, "rows context"]:
    """Rows that start with `first_token` and continue with samples from the model.

    Each token is drawn by inverting the cumulative distribution at a uniform number from `generator` (a CPU generator,
    so that rows are the same on every device up to rounding at bin edges).

    Raises:
        UserError: the model runs through TransformerBridge, which has no key-value cache here.
    """
    if not isinstance(model, Decoder):
        raise UserError(
            "sampling from a model that runs through TransformerBridge is not supported; use a `text` or `hub` corpus."
        )
    tokens = torch.full((rows, context), first_token, dtype=torch.long, device=model.device)
    uniforms = torch.rand((context - 1, rows), generator=generator, dtype=torch.float32).to(model.device)
    cache = KeyValueCache(model.arch, rows, context, model.W_U)
    for position in range(context - 1):
        resid = model.embed(tokens[:, position : position + 1], offset=position)
        resid, _ = model.blocks(resid, 0, model.arch.n_layers, cache=cache)
        cache.length += 1
        logits = model.logits(resid[:, -1])
        cumulative = torch.softmax(logits / temperature, dim=-1).cumsum(dim=-1)
        target = uniforms[position] * cumulative[:, -1]
        drawn = torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]
        tokens[:, position + 1] = drawn.clamp_(max=model.arch.d_vocab - 1)
    return tokens
