"""Intervals over pairs of seeds, against literal formulas; those over features are tested with the geometry."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from saeworks.config.resampling import ResamplingConfig
from saeworks.studies.claim import student_interval
from saeworks.studies.resampling import pair_interval, seed_groups

_LEVEL = 0.9
_JACKKNIFE = ResamplingConfig(confidence=_LEVEL)
_BCA = ResamplingConfig(confidence=_LEVEL, over_seeds="bca", n_resamples=4000)


def _pairs(n: int) -> list[tuple[int, int]]:
    return list(itertools.combinations(range(n), 2))


def _literal(values: np.ndarray, pairs: list[tuple[int, int]], n: int) -> tuple[float, float]:
    """Student's interval of the jackknife's pseudo-values, one seed at a time."""
    left = [np.mean([v for v, pair in zip(values, pairs, strict=True) if seed not in pair]) for seed in range(n)]
    pseudo = [n * np.mean(values) - (n - 1) * value for value in left]
    error = np.sqrt(sum((p - np.mean(pseudo)) ** 2 for p in pseudo) / (n - 1) / n)
    reach = stats.t(n - 1).ppf(0.95) * error
    return values.mean() - reach, values.mean() + reach


def test_the_interval_is_the_jackknife_s_over_seeds():
    for n in [3, 4, 5, 8]:
        values = np.random.default_rng(n).random(len(_pairs(n)))
        value, low, high = pair_interval(values, _pairs(n), _JACKKNIFE, "")
        assert value == values.mean()
        assert (low, high) == pytest.approx(_literal(values, _pairs(n), n))


def test_the_bootstrap_over_pairs_is_scipy_s():
    for n in [3, 5]:
        values = np.random.default_rng(n).random(len(_pairs(n))) ** 2
        value, low, high = pair_interval(values, _pairs(n), _BCA, "")
        theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, confidence_level=_LEVEL, method="BCa", rng=0)
        assert value == values.mean()
        width = high - low
        assert (low, high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.05 * width)
        assert (value, low, high) == pair_interval(values, _pairs(n), _BCA, "")
        assert (value, low, high) != pair_interval(values, _pairs(n), _JACKKNIFE, "")


def test_the_interval_covers_what_it_claims_where_pairs_share_seeds():
    for n in [3, 5]:
        rng = np.random.default_rng(0)
        covered = {"jackknife": 0, "bca": 0}
        for _ in range(2000):
            effects = rng.normal(size=n)
            values = np.array([effects[i] + effects[j] for i, j in _pairs(n)])
            for config in (_JACKKNIFE, _BCA.model_copy(update={"n_resamples": 200})):
                _, low, high = pair_interval(values, _pairs(n), config, "")
                covered[config.over_seeds] += low <= 0 <= high
        assert covered["jackknife"] / 2000 == pytest.approx(_LEVEL, abs=0.02)
        assert covered["bca"] / 2000 < 0.75  # which is why it is not the default


def test_which_pairs_share_a_seed_matters():
    values = np.array([0.1, 0.2, 0.9, 0.3, 0.4, 0.8])
    other = [_pairs(4)[i] for i in (5, 1, 0, 3, 2, 4)]
    assert pair_interval(values, _pairs(4), _JACKKNIFE, "") != pair_interval(values, other, _JACKKNIFE, "")


def test_too_few_seeds_equal_pairs_and_missing_values():
    assert str(pair_interval(np.array([0.5]), [(0, 1)], _JACKKNIFE, "")) == "(0.5, nan, nan)"
    for config in (_JACKKNIFE, _BCA):
        assert pair_interval(np.full(3, 0.25), _pairs(3), config, "") == (0.25, 0.25, 0.25)
    assert all(map(math.isnan, pair_interval(np.array([0.5, math.nan, 0.1]), _pairs(3), _JACKKNIFE, "")))
    assert all(map(math.isnan, pair_interval(np.array([]), [], _JACKKNIFE, "")))


def test_groups_of_seeds_are_ordered_by_seed_and_leave_out_what_stands_alone():
    runs = pd.DataFrame(
        [("c", "x", 2), ("a", "x", 0), ("again", "x", 0), ("alone", "y", 0), ("e", "z", 5), ("d", "z", 1)],
        columns=["run", "settings", "seed"],
    )
    assert [group["run"].tolist() for group in seed_groups(runs)] == [["a", "c"], ["d", "e"]]
    assert seed_groups(runs.iloc[:0]) == []


@pytest.mark.slow
def test_over_three_seeds_student_s_interval_covers_what_it_claims_where_a_hierarchical_bootstrap_does_not():
    """Features within seeds: the interval that resamples seeds and then their features is too narrow, so that none is used."""
    rng = np.random.default_rng(0)
    n_seeds, n_features, n = 3, 100, 600
    covered = {"student": 0, "hierarchical": 0}
    for _ in range(n):
        values = rng.normal(size=(n_seeds, 1)) + 3 * rng.normal(size=(n_seeds, n_features))
        mean, low, high = student_interval(values.mean(axis=1))
        assert (low, high) == pytest.approx(stats.t.interval(0.95, 2, mean, stats.sem(values.mean(axis=1))))
        covered["student"] += low <= 0 <= high
        seeds = rng.integers(n_seeds, size=(300, n_seeds))
        features = rng.integers(n_features, size=(300, n_seeds, n_features))
        low, high = np.quantile(values[seeds[..., None], features].mean(axis=(1, 2)), [0.025, 0.975])
        covered["hierarchical"] += low <= 0 <= high
    assert covered["student"] / n == pytest.approx(0.95, abs=0.02) and covered["hierarchical"] / n < 0.88
