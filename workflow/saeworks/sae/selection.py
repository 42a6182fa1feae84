"""Which entries of a matrix of pre-activations count: flat indices, in order."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_GROUPS = 128  # of the features, for the bound of `largest_per_row`


def flat_nonzero(mask: Bool[Tensor, "rows F"]) -> Int[Tensor, " n"]:
    """Flat indices of the true entries, in order."""
    if mask.is_cuda:
        return mask.view(-1).nonzero().squeeze(1)
    return torch.from_numpy(np.flatnonzero(mask.numpy()))  # several times faster than torch's on few true entries


def largest_per_row(pre: Float[Tensor, "rows F"], k: int) -> Int[Tensor, " rows*k"]:
    """Flat indices of the `k` largest entries of each row, in order; of equal entries the first features are taken.

    The k-th largest of the maxima of groups of features is a lower bound of the k-th largest entry. Few entries reach it,
    and only these are compared with each other.
    """
    n = pre.shape[1]
    if k >= n:
        return torch.arange(pre.numel(), device=pre.device)
    if pre.is_cuda:
        return largest_per_row_without_sync(pre, k)
    groups = max(_GROUPS, 4 * k)
    if n < 4 * groups:  # short rows: no bound that would pay
        return _keep_largest(pre.new_empty(0, dtype=torch.long), pre, k)
    maxima = pre[:, : n // groups * groups].unflatten(1, (-1, groups)).amax(dim=1)
    bound = maxima.topk(k, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
    return _keep_largest(flat_nonzero(pre >= bound), pre, k)


def largest_per_row_without_sync(pre: Float[Tensor, "rows F"], k: int) -> Int[Tensor, " rows*k"]:
    """As `largest_per_row` for a device that computes ahead: nothing depends on a value. Ties are settled arbitrarily."""
    cols = pre.topk(k, dim=1, sorted=False).indices.sort(dim=1).values
    return (cols + torch.arange(len(pre), device=pre.device)[:, None] * pre.shape[1]).flatten()


def _keep_largest(candidates: Tensor, pre: Tensor, k: int) -> Tensor:
    """The `k` largest of each row among `candidates` (sorted flat indices; all entries if there are none)."""
    n_rows, n = pre.shape
    if len(candidates) == 0:
        least = pre.topk(k, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
        flat = flat_nonzero(pre >= least)
        rows, least = flat // n, least.squeeze(1)
    else:
        flat, rows = candidates, candidates // n
        counts = torch.bincount(rows, minlength=n_rows)
        place = torch.arange(len(flat)) - (counts.cumsum(0) - counts)[rows]
        values = pre.view(-1)[flat]
        padded = pre.new_full((n_rows, max(k, int(counts.max()))), -torch.inf)
        padded[rows, place] = values
        least = padded.topk(k, dim=1, sorted=False).values.amin(dim=1)
        kept = values >= least[rows]
        flat, rows = flat[kept], rows[kept]
    if len(flat) == n_rows * k:
        return flat
    # ties at the k-th place: of those that equal it, keep the first
    equal = pre.view(-1)[flat] == least[rows]
    above = torch.zeros(n_rows, dtype=torch.long, device=pre.device).index_add_(0, rows, (~equal).long())
    rank = equal.long().cumsum(0)
    before = torch.zeros(n_rows, dtype=torch.long, device=pre.device).index_add_(0, rows, equal.long())
    before = before.cumsum(0) - before
    return flat[~equal | (rank - before[rows] <= k - above[rows])]


def largest_overall(values: Float[Tensor, "rows F"], count: int) -> tuple[Int[Tensor, " count"], Float[Tensor, ""]]:
    """`(flat, dropped)`: flat indices of the `count` largest entries of the matrix, in order, and the largest of the others.

    Of equal entries the first are taken. Where all are, there is no other, and `dropped` is −∞.
    """
    flat = values.reshape(1, -1)
    if count >= flat.shape[1]:
        return largest_per_row(flat, flat.shape[1]), flat.new_tensor(-torch.inf)
    chosen = largest_per_row(flat, count + 1)
    found = flat.view(-1)[chosen]
    least, places = found.amin(), torch.arange(count + 1, device=found.device)
    last = torch.where(found == least, places, -1).amax()  # of the least; nothing here waits for the device
    return chosen[places[:-1] + (places[:-1] >= last)], least


def largest_among(
    pre: Float[Tensor, "rows F"], chosen: Bool[Tensor, " F"], features: Int[Tensor, " m"] | None, k: int
) -> Int[Tensor, " n"]:
    """Flat indices of the `k` largest entries of each row among the chosen features.

    `features` are their numbers. Without them, on a device that computes ahead, any features fill up where too few are chosen.
    """
    n = pre.shape[1]
    if features is None:
        return largest_per_row_without_sync(pre.masked_fill(~chosen, -torch.inf), min(k, n))
    if len(features) > max(k, n // 4):  # where many are chosen, passing over the others is cheaper than a copy of the chosen
        return largest_per_row(pre + torch.where(chosen, 0.0, -torch.inf), k)
    flat = largest_per_row(pre[:, features], min(k, len(features)))
    return flat // len(features) * n + features[flat % len(features)] if len(features) else flat
