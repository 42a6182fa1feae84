"""Intervals over pairs of seeds, against a literal BCa bootstrap; those over features are tested with the geometry."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from saeworks.measures.resampling import pair_interval, seed_groups

_LEVEL = 0.9


def _pairs(n: int) -> list[tuple[int, int]]:
    return list(itertools.combinations(range(n), 2))


def _literal(values: np.ndarray, pairs: list[tuple[int, int]], n: int) -> tuple[float, float]:
    """Student's interval of the jackknife's pseudo-values, one seed at a time."""
    left = [np.mean([v for v, pair in zip(values, pairs, strict=True) if seed not in pair]) for seed in range(n)]
    pseudo = [n * np.mean(values) - (n - 1) * value for value in left]
    error = np.sqrt(sum((p - np.mean(pseudo)) ** 2 for p in pseudo) / (n - 1) / n)
    reach = stats.t(n - 1).ppf(0.95) * error
    return values.mean() - reach, values.mean() + reach


@pytest.mark.parametrize("n", [3, 4, 5, 8])
def test_the_interval_is_the_jackknife_s_over_seeds(n):
    values = np.random.default_rng(n).random(len(_pairs(n)))
    value, low, high = pair_interval(values, _pairs(n), _LEVEL)
    assert value == values.mean()
    assert (low, high) == pytest.approx(_literal(values, _pairs(n), n))


@pytest.mark.parametrize("n", [3, 5])
def test_the_interval_covers_what_it_claims_where_pairs_share_seeds(n):
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        effects = rng.normal(size=n)
        values = np.array([effects[i] + effects[j] for i, j in _pairs(n)])
        _, low, high = pair_interval(values, _pairs(n), _LEVEL)
        covered += low <= 0 <= high
    assert covered / 2000 == pytest.approx(_LEVEL, abs=0.02)


def test_which_pairs_share_a_seed_matters():
    values = np.array([0.1, 0.2, 0.9, 0.3, 0.4, 0.8])
    other = [_pairs(4)[i] for i in (5, 1, 0, 3, 2, 4)]
    assert pair_interval(values, _pairs(4), _LEVEL) != pair_interval(values, other, _LEVEL)


def test_too_few_seeds_equal_pairs_and_missing_values():
    assert str(pair_interval(np.array([0.5]), [(0, 1)], _LEVEL)) == "(0.5, nan, nan)"
    assert pair_interval(np.full(3, 0.25), _pairs(3), _LEVEL) == (0.25, 0.25, 0.25)
    assert all(map(math.isnan, pair_interval(np.array([0.5, math.nan, 0.1]), _pairs(3), _LEVEL)))
    assert all(map(math.isnan, pair_interval(np.array([]), [], _LEVEL)))


def test_groups_of_seeds_are_ordered_by_seed_and_leave_out_what_stands_alone():
    runs = pd.DataFrame(
        [("c", "x", 2), ("a", "x", 0), ("again", "x", 0), ("alone", "y", 0), ("e", "z", 5), ("d", "z", 1)],
        columns=["run", "settings", "seed"],
    )
    assert [group["run"].tolist() for group in seed_groups(runs)] == [["a", "c"], ["d", "e"]]
    assert seed_groups(runs.iloc[:0]) == []
