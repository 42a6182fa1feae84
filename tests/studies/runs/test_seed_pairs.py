"""Runs in several seeds: points, and an interval where there are enough of them."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from tests.studies.drawing import texts

from saeworks.studies.runs import seed_pairs
from saeworks.studies.runs.settings import SeedPairsFigure

TWO_LAYERS = ("blocks.2.hook_resid_pre", "blocks.4.hook_resid_pre")


def test_two_seeds_are_joined_and_have_no_interval(make_tables):
    figure = seed_pairs.draw(make_tables(objectives=("local",)), SeedPairsFigure())
    (line,) = figure.axes[0].lines
    assert line.get_xdata() == pytest.approx([32.4, 32.4 * 1.02])  # λ = 6: 90 · 0.6², 2 % more with the second seed
    assert line.get_ydata() == pytest.approx([3 / 32.4, 3 / (32.4 * 1.02) + 0.002])
    assert line.get_linestyle() == "-" and line.get_markerfacecolor() == "white"
    bottom, top = figure.axes[0].get_ylim()
    assert bottom > top
    assert "interval" not in texts(figure)


def test_three_seeds_have_the_t_interval_of_their_mean_in_both_directions(make_tables):
    figure = seed_pairs.draw(make_tables(objectives=("local",), seeds=(0, 1, 2)), SeedPairsFigure(confidence=0.95))
    points = figure.axes[0].lines[0]
    across, along = (arms.get_segments()[0] for arms in figure.axes[0].collections)
    assert points.get_linestyle() == "None" and len(points.get_xdata()) == 3
    for arm, values in ((across[:, 0], points.get_xdata()), (along[:, 1], points.get_ydata())):
        mean = sum(values) / 3
        spread = math.sqrt(sum((value - mean) ** 2 for value in values) / 2)
        half = 4.302652729911275 * spread / math.sqrt(3)  # the 97.5 % point of Student's t with 2 degrees of freedom
        assert arm == pytest.approx([mean - half, mean + half])
    assert across[:, 1] == pytest.approx([np.mean(points.get_ydata())] * 2)
    assert "mean and 95 % interval" in texts(figure)


def test_seeds_of_other_settings_are_not_joined(make_tables):
    tables = make_tables(objectives=("local",))
    path = tables / "runs.parquet"
    runs = pd.read_parquet(path)
    runs.assign(settings=runs["settings"] + runs["seed"].astype(str)).to_parquet(path)
    assert "No two runs differ in their seed only" in texts(seed_pairs.draw(tables, SeedPairsFigure()))


def test_a_hook_point_without_a_second_seed_has_no_panel(make_tables):
    tables = make_tables(hook_points=TWO_LAYERS)
    path = tables / "runs.parquet"
    runs = pd.read_parquet(path)
    runs[(runs["hook_point"] == TWO_LAYERS[1]) | (runs["seed"] == 0)].to_parquet(path)
    figure = seed_pairs.draw(tables, SeedPairsFigure())
    assert [(panel.get_title(), len(panel.lines)) for panel in figure.axes] == [(TWO_LAYERS[1], 3)]
