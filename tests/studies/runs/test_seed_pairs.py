"""Runs in several seeds: points, and an interval where there are enough of them."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from saeworks.studies.runs import seed_pairs
from saeworks.studies.runs.settings import SeedPairsFigure

TWO_LAYERS = ("blocks.2.hook_resid_pre", "blocks.4.hook_resid_pre")


def texts(figure) -> str:
    return " ".join(" ".join(text.get_text() for text in figure.findobj(Text)).split())


@pytest.mark.parametrize("width", [5.5, 3.25])
@pytest.mark.parametrize(
    "settings",
    [{}, {"hook_points": TWO_LAYERS, "seeds": (0, 1, 2)}, {"architectures": ("relu", "topk", "jumprelu")}],
)
def test_nothing_is_clipped(make_tables, settings, width):
    figure = seed_pairs.draw(make_tables(**settings), SeedPairsFigure(width=width))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = [axes.get_tightbbox(canvas.get_renderer()) for axes in figure.axes]
    drawn += [box.get_window_extent(canvas.get_renderer()) for box in figure.legends]
    for i, box in enumerate(drawn):
        assert box.x0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y0 >= -1 and box.y1 <= figure.bbox.y1 + 1
        assert not any(box.padded(-1).overlaps(other) for other in drawn[:i])


def test_a_redraw_gives_equal_bytes_and_every_setting_other_ones(make_tables, tmp_path):
    tables = make_tables(seeds=(0, 1, 2))
    changes = [{"width": 4.0}, {"height": 3.0}, {"dpi": 50}, {"colors": {"local": "red"}}, {"confidence": 0.5}]
    for i, settings in enumerate([{}, {}, *changes]):
        seed_pairs.main(json.dumps(settings), str(tables), str(tmp_path / str(i) / "seed_pairs"))
    for kind in ("svg", "png"):
        pictures = [(tmp_path / str(i) / f"seed_pairs.{kind}").read_bytes() for i in range(7)]
        assert pictures[0] == pictures[1]
    assert all(picture != pictures[0] for picture in pictures[2:])


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
    points, across, along = figure.axes[0].lines
    assert points.get_linestyle() == "None" and len(points.get_xdata()) == 3
    for arm, values in ((across.get_xdata(), points.get_xdata()), (along.get_ydata(), points.get_ydata())):
        mean = sum(values) / 3
        spread = math.sqrt(sum((value - mean) ** 2 for value in values) / 2)
        half = 4.302652729911275 * spread / math.sqrt(3)  # the 97.5 % point of Student's t with 2 degrees of freedom
        assert arm == pytest.approx([mean - half, mean + half])
    assert across.get_ydata() == pytest.approx([np.mean(points.get_ydata())] * 2)
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


def test_empty_tables_give_a_message(make_tables):
    tables = make_tables()
    for path in tables.iterdir():
        pd.read_parquet(path).iloc[:0].to_parquet(path)
    assert "No two runs differ" in texts(seed_pairs.draw(tables, SeedPairsFigure()))
