"""The learning rate follows the paper's schedule, to the measured numbers."""

from __future__ import annotations

import math

import pytest

from saeworks.training.schedule import warmup_cosine


@pytest.mark.parametrize(
    ("step", "factor"),
    [(0, 0.0), (1, 1 / 1250), (625, 0.5), (1249, 1249 / 1250), (1250, 1.0), (13_125, 0.55), (25_000, 0.1), (30_000, 0.1)],
)
def test_the_paper_s_schedule_has_the_measured_factors(step, factor):
    assert warmup_cosine(step, 25_000, 1_250, 0.1) == pytest.approx(factor, abs=1e-12)


@pytest.mark.parametrize("final", [0.0, 0.1, 0.7])
def test_every_step_equals_the_literal_formula(final):
    n, warmup = 200, 20
    for step in range(n + 1):
        p = (step - warmup) / (n - warmup)
        expected = step / warmup if step < warmup else final + (1 - final) * (1 + math.cos(math.pi * p)) / 2
        assert warmup_cosine(step, n, warmup, final) == pytest.approx(expected, abs=1e-12)


def test_the_factor_rises_to_one_and_then_falls_to_the_end():
    factors = [warmup_cosine(step, 200, 20, 0.1) for step in range(201)]
    assert factors.index(max(factors)) == 20 and max(factors) == 1.0
    assert all(a < b for a, b in zip(factors[:20], factors[1:21], strict=True))
    assert all(a > b for a, b in zip(factors[20:], factors[21:], strict=False))


def test_without_warm_up_the_first_step_has_the_full_rate():
    assert warmup_cosine(0, 10, 0, 0.1) == 1.0


def test_a_final_factor_of_one_is_a_constant_rate_after_warm_up():
    assert {warmup_cosine(step, 30, 5, 1.0) for step in range(5, 31)} == {1.0}


def test_a_run_of_one_step_is_defined():
    assert warmup_cosine(0, 1, 0, 0.1) == 1.0
    assert warmup_cosine(0, 1, 1, 0.1) == 0.0
