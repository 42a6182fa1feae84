"""Intervals of means: over features by the BCa bootstrap, over pairs of training seeds by the jackknife or the BCa bootstrap."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from ..config.resampling import ResamplingConfig
from ..store.seeds import derive_seed

ENOUGH_SEEDS = 3  # for an interval over their pairs


def mean_interval(
    samples: tuple[np.ndarray, ...], config: ResamplingConfig, purpose: str, clusters: tuple[np.ndarray, ...] | None = None
) -> tuple[float, float, float]:
    """`(value, low, high)`: the mean of one sample, or the difference of the means of two, with a BCa bootstrap interval.

    Features are resampled, independently in each sample (Efron and Tibshirani 1993, ch. 14). The jackknife of a mean has a
    closed form, so the cost is linear in the number of features. Fewer than two features give an interval of NaN, equal ones
    an interval of no width. With `clusters`, for each sample the number of the cluster that each feature belongs to, whole
    clusters are resampled and left out; the mean stays that over features.
    """
    if clusters is not None and all(len(sample) for sample in samples):
        return _clustered_interval(samples, clusters, config, purpose)
    if any(len(sample) == 0 for sample in samples):
        return math.nan, math.nan, math.nan
    signs = (1.0, -1.0)[: len(samples)]
    value = sum(sign * float(sample.mean()) for sign, sample in zip(signs, samples, strict=True))
    if any(len(sample) < 2 for sample in samples):
        return value, math.nan, math.nan
    if all(np.ptp(sample) == 0 for sample in samples):
        return value, value, value
    generator = np.random.default_rng(derive_seed("bootstrap", config.seed, purpose))
    resampled = sum(
        sign * _resampled_means(sample, config.n_resamples, generator) for sign, sample in zip(signs, samples, strict=True)
    )
    centred = [sign * (sample - sample.mean()) / len(sample) for sign, sample in zip(signs, samples, strict=True)]
    skew, spread = sum((c**3).sum() for c in centred), sum((c**2).sum() for c in centred)
    return value, *_bca(value, resampled, skew / (6 * spread**1.5), config)


def _clustered_interval(
    samples: tuple[np.ndarray, ...], clusters: tuple[np.ndarray, ...], config: ResamplingConfig, purpose: str
) -> tuple[float, float, float]:
    """`mean_interval` over clusters of features: a mean is the ratio of the clusters' sums to their sizes."""
    generator = np.random.default_rng(derive_seed("bootstrap", config.seed, purpose))
    value, resampled, centred = 0.0, 0.0, []
    for sign, sample, labels in zip((1.0, -1.0), samples, clusters, strict=False):
        _, labels = np.unique(labels, return_inverse=True)
        sums, sizes, mean = np.bincount(labels, sample), np.bincount(labels), float(sample.mean())
        value = value + sign * mean
        centred.append(sign * (sums - mean * sizes) / len(sample))
        resampled = resampled + sign * _resampled_means(sums, config.n_resamples, generator, sizes)
    if any(len(part) < 2 for part in centred):
        return value, math.nan, math.nan
    skew, spread = sum((c**3).sum() for c in centred), sum((c**2).sum() for c in centred)
    if all(np.ptp(sample) == 0 for sample in samples) or not spread:
        return value, value, value
    return value, *_bca(value, resampled, skew / (6 * spread**1.5), config)


def pair_interval(
    values: np.ndarray, seeds: Sequence[tuple[int, int]], config: ResamplingConfig, purpose: str
) -> tuple[float, float, float]:
    """`(value, low, high)`: the mean over pairs of seeds, with the interval that `config.over_seeds` names.

    n seeds have n (n − 1) / 2 pairs, but no more than n independent trainings: a bootstrap that resamples pairs as if they were
    independent (`bca`) covers about half of what it claims. By the `jackknife` each seed is left out with all its pairs, and the pseudo-values
    n·mean − (n − 1)·mean without it are taken for a sample of n. Fewer than three seeds have an interval of NaN.
    """
    value = float(values.mean()) if len(values) else math.nan
    present = sorted({seed for pair in seeds for seed in pair})
    n = len(present)
    if n < ENOUGH_SEEDS or np.isnan(values).any():
        return value, math.nan, math.nan
    if config.over_seeds == "bca":
        return mean_interval((values,), config, f"seed pairs/{purpose}")
    without = np.array([values[[seed not in pair for pair in seeds]].mean() for seed in present])
    error = (n - 1) * without.std(ddof=1) / math.sqrt(n)  # of the pseudo-values
    reach = float(stats.t.ppf((1 + config.confidence) / 2, n - 1) * error)
    return value, value - reach, value + reach


def ratio_interval(above: np.ndarray, below: np.ndarray, config: ResamplingConfig, purpose: str) -> tuple[float, float, float]:
    """`(value, low, high)`: the ratio of two sums over clusters, with a BCa bootstrap interval that resamples the clusters.

    `above` and `below` hold the sums of each cluster, such as a row of tokens, in the same order. The acceleration is that of the
    jackknife over clusters. Fewer than two clusters give an interval of NaN.
    """
    value = float(above.sum() / below.sum()) if len(below) and below.sum() else math.nan
    if len(above) < 2 or math.isnan(value):
        return value, math.nan, math.nan
    generator = np.random.default_rng(derive_seed("bootstrap", config.seed, purpose))
    counts = generator.multinomial(len(above), np.full(len(above), 1 / len(above)), size=config.n_resamples)
    without = (above.sum() - above) / (below.sum() - below)
    centred = without.mean() - without
    if not np.ptp(without) > 1e-12 * abs(value):
        return value, value, value
    acceleration = float((centred**3).sum() / (6 * (centred**2).sum() ** 1.5))
    return value, *_bca(value, (counts @ above) / (counts @ below), acceleration, config)


def seed_interval(values: pd.Series, confidence: float) -> tuple[float, float]:
    """`(mean, half width)` of Student's t interval for the mean over seeds."""
    n = len(values)
    return float(values.mean()), float(stats.t.ppf((1 + confidence) / 2, n - 1) * values.std(ddof=1) / math.sqrt(n))


def named(interval: tuple[float, float, float]) -> dict[str, float]:
    """A value and its interval as columns of a table."""
    return dict(zip(("value", "ci_low", "ci_high"), interval, strict=True))


def seed_groups(runs: pd.DataFrame) -> list[pd.DataFrame]:
    """Runs that differ in nothing but their seed, two or more, by ascending seed; in the order of their first run."""
    groups = [group.sort_values("seed", kind="stable") for _, group in runs.groupby("settings", sort=False)]
    return [group.drop_duplicates("seed") for group in groups if group["seed"].nunique() > 1]


def _bca(value: float, resampled: np.ndarray, acceleration: float, config: ResamplingConfig) -> tuple[float, float]:
    """Bounds of the bias-corrected and accelerated interval."""
    below = ((resampled < value).mean() + (resampled <= value).mean()) / 2
    bias = stats.norm.ppf(np.clip(below, 0.5 / config.n_resamples, 1 - 0.5 / config.n_resamples))
    tail = (1 - config.confidence) / 2
    shifted = bias + stats.norm.ppf([tail, 1 - tail])
    levels = stats.norm.cdf(bias + shifted / (1 - acceleration * shifted))
    low, high = np.quantile(resampled, levels)
    return float(low), float(high)


def _resampled_means(
    sample: np.ndarray, n_resamples: int, generator: np.random.Generator, sizes: np.ndarray | None = None
) -> np.ndarray:
    """Means of `n_resamples` resamples, drawn a few at a time to bound the memory; of sums of clusters of these `sizes`, per member."""
    at_once = max(1, 4_000_000 // len(sample))
    counts = [min(at_once, n_resamples - start) for start in range(0, n_resamples, at_once)]
    drawn = (generator.integers(len(sample), size=(count, len(sample))) for count in counts)
    if sizes is None:
        return np.concatenate([sample[chosen].mean(axis=1) for chosen in drawn])
    return np.concatenate([sample[chosen].sum(axis=1) / sizes[chosen].sum(axis=1) for chosen in drawn])
