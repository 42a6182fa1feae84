"""Matching the features of two dictionaries: one to one by direction, and by what they fire on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from torch import Tensor

from ..sae.sparse import largest_per_row

SHARED_COSINE = 0.7  # Paulo and Belrose 2025: below it encoder and decoder matchings hardly ever agree
_CHUNK = 2048  # rows of the cosine matrix held at once
_DENSE_BELOW = 4096  # features up to which every pair is a candidate


@dataclass(frozen=True)
class Matching:
    """For each row of the smaller dictionary its partner in the larger one, and their cosine; `swapped`: b is the smaller."""

    partner: Int[np.ndarray, " n"]
    cosine: Float[np.ndarray, " n"]
    swapped: bool

    def of_a(self, n_a: int) -> tuple[Int[np.ndarray, " n_a"], Float[np.ndarray, " n_a"]]:
        """Partner in b (−1: none) and cosine (NaN: none) of every row of a."""
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

    Up to `dense_below` rows every pair is a candidate and the result is the optimum. Above, candidates of a row are its
    `candidates` nearest rows, of either dictionary in the other, which keeps the memory linear; if they admit no full
    matching, or the optimum might need others, the number is doubled.
    """
    if len(a) > len(b):
        found = one_to_one(b, a, candidates, dense_below)
        return Matching(found.partner, found.cosine, swapped=True)
    a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    if len(a) == 0:
        return Matching(np.zeros(0, dtype=int), np.zeros(0), swapped=False)
    if max(len(a), len(b)) <= dense_below:
        cosines = (a @ b.T).double().numpy()
        rows, partner = linear_sum_assignment(cosines, maximize=True)
        return Matching(partner, cosines[rows, partner], swapped=False)
    while True:
        edges = _candidates(a, b, min(candidates, len(b)))
        try:
            rows, partner = min_weight_full_bipartite_matching(edges, maximize=True)
            return Matching(partner, np.asarray(edges[rows, partner]).ravel() - 2.0, swapped=False)
        except ValueError:  # no full matching among the candidates
            if candidates >= len(b):
                raise
            candidates *= 2


def _candidates(a: Tensor, b: Tensor, k: int) -> csr_array:
    """Cosines + 2 (explicit zeros would be no edges) of each row with its `k` nearest in the other dictionary."""
    rows, cols, values = [], [], []
    for one, other, transposed in ((a, b, False), (b, a, True)):
        keep = min(k, len(other))
        for start in range(0, len(one), _CHUNK):
            cosines = one[start : start + _CHUNK] @ other.T
            flat = largest_per_row(cosines, keep)
            row, col = flat // len(other) + start, flat % len(other)
            rows.append((col if transposed else row).int())
            cols.append((row if transposed else col).int())
            values.append(cosines.view(-1)[flat])
    row, col = torch.cat(rows).long(), torch.cat(cols).long()
    key, index = np.unique((row * len(b) + col).numpy(), return_index=True)
    weights = torch.cat(values).double().numpy()[index] + 2.0
    return csr_array((weights, (key // len(b), key % len(b))), shape=(len(a), len(b)))


def shared_fraction(decoder: Matching, encoder: Matching, n_a: int, n_b: int, threshold: float = SHARED_COSINE) -> float:
    """Share of the smaller dictionary's features that both matchings pair with the same partner, at cosines ≥ `threshold`.

    Paulo and Belrose 2025 (arXiv 2501.16615).
    """
    one, one_cosine = decoder.of_a(n_a)
    two, two_cosine = encoder.of_a(n_a)
    agree = (one == two) & (one >= 0) & (one_cosine >= threshold) & (two_cosine >= threshold)
    return float(agree.sum() / max(1, min(n_a, n_b)))


def linear_cka(x: Float[Tensor, "tokens n"], y: Float[Tensor, "tokens m"]) -> float:
    """Linear centred kernel alignment of two sets of features of the same tokens (Kornblith et al. 2019), in float64."""
    x, y = (v.double() - v.double().mean(dim=0) for v in (x, y))
    cross = (y.T @ x).square().sum()
    return float(cross / ((x.T @ x).norm() * (y.T @ y).norm()))
