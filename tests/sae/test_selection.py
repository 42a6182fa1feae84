"""Selections are those of a stable sort."""

from __future__ import annotations

from itertools import product

import torch
from tests.each import each
from tests.sae.literal import random
from torch import Tensor

from saeworks.sae import selection
from saeworks.sae.codes import Codes
from saeworks.sae.execution.products import Active
from saeworks.sae.selection import (
    flat_nonzero,
    largest_among,
    largest_overall,
    largest_per_row,
    largest_per_row_without_sync,
)


@each("density", [-9, 0, 1, 9])
def test_flat_nonzero_finds_the_true_entries_in_order(density):
    mask = random(7, 9) < density
    for matrix in (mask, mask.T, mask[:1], mask[:, :1]):
        expected = [i * matrix.shape[1] + j for i in range(matrix.shape[0]) for j in range(matrix.shape[1]) if matrix[i, j]]
        assert flat_nonzero(matrix).tolist() == expected
        assert flat_nonzero(matrix).dtype == torch.long


# values of (rows, features), a few of which are long enough for the bound from groups


def _whole(rows: int, n: int, high: int, seed: int = 0) -> Tensor:
    return torch.randint(0, high, (rows, n), generator=torch.Generator().manual_seed(seed)).double()


def _with_infinities(rows: int, n: int) -> Tensor:
    values = random(rows, n)
    values[random(rows, n, seed=1) > 0.1] = -torch.inf
    values[0] = -torch.inf
    values[-1] = -torch.inf
    values[-1, n // 2] = 1.0
    return values


MATRICES = {
    f"{name}, {rows} x {n}": make(rows, n)
    for name, make in {
        "distinct": lambda rows, n: random(rows, n),
        "negative": lambda rows, n: -random(rows, n).abs() - 1,
        "ties": lambda rows, n: _whole(rows, n, 4),
        "rare ties": lambda rows, n: _whole(rows, n, n),
        "equal": lambda rows, n: torch.full((rows, n), 2.0, dtype=torch.float64),
        "zeros of both signs": lambda rows, n: _whole(rows, n, 2) * -1.0 * (random(rows, n) > 0),
        "infinities": _with_infinities,
        "rising": lambda rows, n: torch.arange(rows * n, dtype=torch.float64).view(rows, n),  # the largest are beyond the groups
        "falling": lambda rows, n: -torch.arange(rows * n, dtype=torch.float64).view(rows, n),
        "one group": lambda rows, n: (torch.arange(n) % selection._GROUPS == 5).double().repeat(rows, 1) + 1e-3 * random(rows, n),
    }.items()
    for rows, n in ((1, 1), (1, 20), (5, 20), (3, 511), (3, 700), (2, 2003))
}


@each("name, k", product(MATRICES, [1, 2, 5, 19, 20, 100, 2003, 5000]))
def test_the_largest_of_each_row_are_those_of_a_stable_sort(name, k):
    values = MATRICES[name]
    n = values.shape[1]
    places = values.sort(dim=1, descending=True, stable=True).indices[:, :k].sort(dim=1).values
    expected = (places + n * torch.arange(len(values))[:, None]).flatten()
    assert torch.equal(largest_per_row(values, k), expected)


@each("name, k", product([name for name, values in MATRICES.items() if values.shape[1] >= 20], [1, 5, 20]))
def test_the_selection_for_devices_that_compute_ahead_differs_in_ties_only(name, k):
    values = MATRICES[name]
    flat = largest_per_row_without_sync(values, k)
    assert flat.unique().equal(flat)  # in order, each once
    assert torch.equal(flat // values.shape[1], torch.arange(len(values)).repeat_interleave(k))
    expected = largest_per_row(values, k)
    taken, wanted = (values.flatten()[places].view(-1, k).sort(dim=1).values for places in (flat, expected))
    assert torch.equal(taken, wanted)
    if all(len(row.unique()) == len(row) for row in values):
        assert torch.equal(flat, expected)


@each("name, count", product(MATRICES, [1, 7, 60, 150, 4006, 10**6]))
def test_the_largest_overall_are_those_of_a_stable_sort(name, count):
    values = MATRICES[name]
    expected = values.flatten().sort(descending=True, stable=True).indices[:count].sort().values
    flat, dropped = largest_overall(values, count)
    assert torch.equal(flat, expected)
    others = values.flatten()[~torch.isin(torch.arange(values.numel()), flat)]
    assert dropped == (others.max() if len(others) else -torch.inf)


def test_the_matrices_reach_both_ways_of_selecting():
    lengths = [values.shape[1] for values in MATRICES.values()]
    assert min(lengths) < 4 * selection._GROUPS < max(lengths) and any(n % selection._GROUPS for n in lengths)


@each("k, dead", product([1, 2, 3, 4, 9, 50], [[], [3], [1, 4, 8], list(range(9))]))
def test_auxk_without_the_number_of_dead_features_takes_the_same(dead, k):
    pre, mask = random(5, 9), torch.zeros(9, dtype=torch.bool)
    mask[dead] = True
    by_number = largest_among(pre, mask, torch.tensor(dead, dtype=torch.long), k)
    flat = largest_among(pre, mask, None, k)
    codes = Codes(pre.flatten()[flat], Active(flat, (5, 9))).masked(mask)
    torch.testing.assert_close(codes.dense(), Codes.only(pre, by_number).values)
    assert len(by_number) == 5 * min(k, len(dead))
