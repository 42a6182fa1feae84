"""One-to-one matching of the features of two dictionaries, in which no feature counts twice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from torch import Tensor

from ..sae.selection import largest_per_row

SHARED_COSINE = 0.7  # Paulo and Belrose 2025: below it, encoder and decoder matchings hardly ever agree
_CHUNK = 2048  # rows of the cosine matrix held at once
_DENSE_BELOW = 4096  # features up to which every pair is a candidate
_EXACT = 1e-6  # of cosines in float32: what a pair must gain to count as missing


@dataclass(frozen=True)
class Matching:
    """For each row of the smaller dictionary its partner in the larger one, and their cosine; `swapped`: b is the smaller."""

    partner: Int[np.ndarray, " n"]
    cosine: Float[np.ndarray, " n"]
    swapped: bool

    def of_a(self, n_a: int) -> tuple[Int[np.ndarray, " n_a"], Float[np.ndarray, " n_a"]]:
        """Partner in b (−1: none) and cosine (NaN: none) of each of the `n_a` rows of a."""
        if not self.swapped:
            return self.partner, self.cosine
        partner, cosine = np.full(n_a, -1), np.full(n_a, np.nan)
        partner[self.partner] = np.arange(len(self.partner))
        cosine[self.partner] = self.cosine
        return partner, cosine


def one_to_one(
    a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], candidates: int = 64, dense_below: int = _DENSE_BELOW
) -> Matching:
    """The one-to-one matching of rows with the largest sum of cosines; every row of the smaller dictionary has a partner.

    Up to `dense_below` rows every pair is a candidate. Above, candidates are the `candidates` nearest rows of each row, of either
    dictionary in the other, so that the memory is linear in the number of rows. The result is the optimum over all pairs just the
    same: the dual prices of the optimum over candidates show every pair that could improve on it, and these pairs join the
    candidates until there is none (to 1e-6 of a cosine per row). Of several optima one is returned.
    """
    if len(a) > len(b):
        found = one_to_one(b, a, candidates, dense_below)
        return Matching(found.partner, found.cosine, swapped=True)
    a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    if len(a) == 0:
        return Matching(np.zeros(0, dtype=int), np.zeros(0), swapped=False)
    if len(b) <= dense_below:
        cosines = (a @ b.T).double().numpy()
        rows, partner = linear_sum_assignment(cosines, maximize=True)
        return Matching(partner, cosines[rows, partner], swapped=False)
    edges, reach = _candidates(a, b, candidates)
    while True:
        try:
            _, partner = min_weight_full_bipartite_matching(edges, maximize=True)
        except ValueError:  # the candidates admit no full matching
            candidates *= 2
            edges, reach = _candidates(a, b, candidates)
            continue
        cosine = edges[np.arange(len(a)), partner] - 2.0
        missing = _missing(a, b, reach, *_prices(edges, partner, cosine))
        if missing.nnz == 0:
            return Matching(partner.astype(int), cosine, swapped=False)
        edges = edges.maximum(missing)


def _candidates(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], k: int) -> tuple[csr_array, Float[np.ndarray, " n"]]:
    """`(edges, reach)`: cosines + 2 (a zero would be no edge) of each row with its `k` nearest rows of the other dictionary.

    `reach` is the smallest cosine of a row of `a` with these; no other row of `b` is nearer to it.
    """
    keys, weights, reach = [], [], []
    for one, other, transposed in ((a, b, False), (b, a, True)):
        for start in range(0, len(one), _CHUNK):
            cosines = one[start : start + _CHUNK] @ other.T
            flat = largest_per_row(cosines, min(k, len(other)))
            row, col = flat // len(other) + start, flat % len(other)
            keys.append((col * len(b) + row if transposed else row * len(b) + col).numpy())
            weights.append(cosines.view(-1)[flat].double().numpy() + 2.0)
            if not transposed:
                reach.append(weights[-1].reshape(len(cosines), -1).min(axis=1) - 2.0)
    key, index = np.unique(np.concatenate(keys), return_index=True)
    edges = csr_array((np.concatenate(weights)[index], (key // len(b), key % len(b))), shape=(len(a), len(b)))
    return edges, np.concatenate(reach)


def _prices(
    edges: csr_array, partner: Int[np.ndarray, " n"], cosine: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]]:
    """Dual prices `(u, v)` of the optimum over `edges`: u_i + v_j ≥ cosine of every edge, with equality where matched, v ≥ 0.

    v is the smallest that rows' wishes allow: whoever would rather have column j raises its price by what it would gain.
    """
    by_column = edges.tocsc()
    gain = by_column.data - 2.0 - cosine[by_column.indices]
    wished = np.flatnonzero(np.diff(by_column.indptr))
    starts = by_column.indptr[wished]
    v = np.zeros(edges.shape[1])
    while True:
        offers = np.maximum.reduceat(v[partner][by_column.indices] + gain, starts)
        raised = offers > v[wished] + 1e-12  # equal offers come round again with another rounding
        if not raised.any():
            return cosine - v[partner], v
        v[wished[raised]] = offers[raised]


def _missing(
    a: Float[Tensor, "n d"],
    b: Float[Tensor, "m d"],
    reach: Float[np.ndarray, " n"],
    u: Float[np.ndarray, " n"],
    v: Float[np.ndarray, " m"],
) -> csr_array:
    """Cosines + 2 of the pairs whose cosine exceeds their prices, which no edge does: a better matching may need them.

    Most rows are not looked at: what lies beyond their candidates is within their `reach`, and that within their own price.
    """
    rows = np.flatnonzero(reach > u + _EXACT)
    keys, weights = [np.zeros(0, dtype=int)], [np.zeros(0)]
    for start in range(0, len(rows), _CHUNK):
        some = rows[start : start + _CHUNK]
        cosines = a[some] @ b.T
        prices = torch.from_numpy(v).to(cosines)[None] + torch.from_numpy(u[some]).to(cosines)[:, None]
        flat = (cosines > prices + _EXACT).view(-1).nonzero().squeeze(1)
        row, col = (flat // len(b)).numpy(), (flat % len(b)).numpy()
        keys.append(some[row] * len(b) + col)
        weights.append(cosines.view(-1)[flat].double().numpy() + 2.0)
    key, weight = np.concatenate(keys), np.concatenate(weights)
    return csr_array((weight, (key // len(b), key % len(b))), shape=(len(a), len(b)))


def shared(decoder: Matching, encoder: Matching, threshold: float = SHARED_COSINE) -> Bool[np.ndarray, " n"]:
    """Features of the smaller dictionary that both matchings pair with the same partner, at cosines ≥ `threshold`.

    Paulo and Belrose 2025 (arXiv 2501.16615).
    """
    return (decoder.partner == encoder.partner) & (decoder.cosine >= threshold) & (encoder.cosine >= threshold)
