"""The learning rate and the sparsity coefficient follow their formulas, and the paper's schedule its measured numbers."""

from __future__ import annotations

import math
from itertools import product

import pytest
from tests.each import each

from saeworks.config.training import TrainingConfig
from saeworks.training.schedule import lr_factor, rewarm_factor, sparsity_factor


def _factors(n_steps: int, **settings: object) -> list[float]:
    return [lr_factor(TrainingConfig(**settings), step, n_steps) for step in range(n_steps + 1)]


@each(
    "step, factor",
    [(0, 0.0), (1, 1 / 1250), (625, 0.5), (1249, 1249 / 1250), (1250, 1.0), (13_125, 0.55), (25_000, 0.1), (30_000, 0.1)],
)
def test_the_paper_s_schedule_has_the_measured_factors(step, factor):
    assert lr_factor(TrainingConfig(), step, 25_000) == pytest.approx(factor, abs=1e-12)


@each("final, warmup, schedule", product([0.0, 0.1, 0.7, 1.0], [0, 20], ["cosine", "linear_tail", "constant"]))
def test_every_step_equals_the_literal_formula(schedule, warmup, final):
    n, tail = 200, 50
    factors = _factors(n, schedule=schedule, warmup_fraction=warmup / n, final_lr_fraction=final, tail_fraction=tail / n)
    for step, factor in enumerate(factors):
        p = (step - warmup) / (n - warmup)
        expected = {
            "cosine": final + (1 - final) * (1 + math.cos(math.pi * p)) / 2,
            "linear_tail": 1.0 if step < n - tail else 1 - (1 - final) * (step - (n - tail)) / tail,
            "constant": 1.0,
        }[schedule]
        assert factor == pytest.approx(step / warmup if step < warmup else expected, abs=1e-12)


def test_a_tail_that_would_begin_in_the_warm_up_begins_after_it():
    factors = _factors(10, schedule="linear_tail", warmup_fraction=0.4, tail_fraction=1.0, final_lr_fraction=0.0)
    assert factors == pytest.approx([0, 0.25, 0.5, 0.75, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0])


@each("schedule", ["cosine", "linear_tail"])
def test_the_factor_rises_to_one_and_then_never_rises_again(schedule):
    factors = _factors(200, schedule=schedule, warmup_fraction=0.1)
    assert factors.index(max(factors)) == 20 and max(factors) == 1.0
    assert all(a < b for a, b in zip(factors[:20], factors[1:21], strict=True))
    assert all(a >= b for a, b in zip(factors[20:], factors[21:], strict=False))
    assert factors[-1] == pytest.approx(0.1)


@each("schedule", ["cosine", "linear_tail", "constant"])
@each("n_steps, warmup, first", [(10, 0.0, 1.0), (1, 0.0, 1.0), (1, 0.9, 0.0)])
def test_the_first_step_has_the_full_rate_without_warm_up_and_none_with_it(schedule, n_steps, warmup, first):
    assert _factors(n_steps, schedule=schedule, warmup_fraction=warmup, tail_fraction=0.5)[0] == first


@each("share, expected", [(0.0, [1.0] * 9), (0.5, [0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1]), (1.0, [i / 8 for i in range(9)])])
def test_the_sparsity_coefficient_rises_linearly_from_zero(share, expected):
    settings = TrainingConfig(sparsity_warmup_fraction=share)
    assert [sparsity_factor(settings, step, 8) for step in range(9)] == expected


def test_the_rate_climbs_back_after_each_resampling_from_a_tenth():
    settings = TrainingConfig(resample_warmup_tokens=400, batch_tokens=100)
    factors = [rewarm_factor(settings, step, {10, 20, 22}) for step in range(40)]
    climb = [0.1 + 0.9 * (1 - math.cos(math.pi * p / 4)) / 2 for p in range(4)]
    expected = [1.0] * 10 + climb + [1.0] * 6 + climb[:2] + climb + [1.0] * 14
    assert factors == pytest.approx(expected, abs=1e-12)
    assert factors[10] == pytest.approx(0.1)


def test_nothing_climbs_without_resampling_or_without_a_warm_up():
    assert rewarm_factor(TrainingConfig(resample_warmup_tokens=400, batch_tokens=100), 5, set()) == 1.0
    assert [rewarm_factor(TrainingConfig(batch_tokens=100), step, {2}) for step in range(4)] == [1.0] * 4
