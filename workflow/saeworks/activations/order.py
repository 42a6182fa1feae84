"""The order in which a corpus's activations are read: one shuffle, shared by the cache and the stream."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from ..store.seeds import derive_seed


def sequence_order(n_rows: int, seed: int) -> Int[Tensor, " rows"]:
    """A seeded permutation of the corpus rows (whole sequences)."""
    return torch.randperm(n_rows, generator=_generator(seed, "sequences"))


def token_order(sequences: Int[Tensor, " rows"], context: int, block_rows: int | None, seed: int) -> Int[Tensor, " tokens"]:
    """A permutation of all tokens: blocks of `block_rows` shuffled sequences, each block shuffled token by token.

    Token `p` of corpus row `r` has index `r * context + p`. With `block_rows=None` it is one global shuffle; a smaller
    block bounds what a stream must hold, and the cache follows the same order.
    """
    blocks = []
    for number, block in enumerate(sequences.split(block_rows or max(1, len(sequences)))):
        tokens = (block[:, None] * context + torch.arange(context)).flatten()
        blocks.append(tokens[torch.randperm(len(tokens), generator=_generator(seed, "tokens", number))])
    return torch.cat(blocks)


def take(order: Int[Tensor, " n"], start: int, count: int) -> Int[Tensor, " count"]:
    """`count` consecutive entries of `order` from `start`, going round at the end."""
    start %= len(order)
    if start + count <= len(order):
        return order[start : start + count]
    return order[(start + torch.arange(count)) % len(order)]


def _generator(seed: int, *purpose: object) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed("order", seed, *purpose))
