"""The common look of the figures, and how seaborn draws what several of them share."""

from __future__ import annotations

import json

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from tests.studies.drawing import TWO_LAYERS, edit, texts

from saeworks.config.figures import FigureStyle
from saeworks.studies import figures, plot
from saeworks.studies.draw import drawn, figure

LOOKS = {
    "one": {"color": "#0072B2", "marker": "o", "linestyle": "-"},
    "two": {"color": "#D55E00", "marker": "s", "linestyle": (0, (4, 1.5))},
}


@pytest.fixture
def panel() -> Axes:
    with plot.theme():
        _, axes = plot.panels(FigureStyle(), 1, 1)
    return axes[0, 0]


def test_the_callers_settings_are_left_alone_and_do_not_show(make_tables, tmp_path):
    tables = str(make_tables())
    figure("pareto", json.dumps({"dpi": 40}), tables, str(tmp_path / "usual"))
    own = {"lines.linewidth": 7.0, "font.size": 20.0, "axes.prop_cycle": matplotlib.cycler(color=["red"]), "axes.labelpad": 30.0}
    with matplotlib.rc_context(own):
        matplotlib.get_backend()  # is chosen when first asked for
        before = matplotlib.rcParams.copy()
        figure("pareto", json.dumps({"dpi": 40}), tables, str(tmp_path / "own"))
        assert matplotlib.rcParams == before
    for kind in ("svg", "png"):
        assert (tmp_path / f"usual.{kind}").read_bytes() == (tmp_path / f"own.{kind}").read_bytes()


def test_a_hook_point_is_named_with_its_layer(make_tables):
    tables = make_tables(hook_points=TWO_LAYERS, n_layers=8)
    for name in ("pareto", "seed_pairs", "within_dictionary"):
        words = texts(drawn(name, tables, figures()[name][1]()))
        for hook_point, layer in zip(TWO_LAYERS, (2, 4), strict=True):
            assert f"{hook_point}{',' if name == 'seed_pairs' else ''} layer {layer} of 8" in words
    assert plot.place_name(TWO_LAYERS[0]) == TWO_LAYERS[0]  # the names are those of one figure
    edit(tables, "fidelity", lambda t: t.assign(layer=-1).drop_duplicates(["run", "metric", "positions"]))
    assert "layer" not in texts(drawn("within_dictionary", tables, figures()["within_dictionary"][1]()))


def test_outer_labels_of_an_axis_of_cosines_keep_from_the_next_panel_and_points_at_its_ends_are_whole(panel):
    plot.cosine_axis(panel)
    assert [label.get_horizontalalignment() for label in panel.get_xticklabels()] == ["left", *["center"] * 3, "right"]
    low, high = panel.get_xlim()
    assert low < 0 and high > 1


def test_lines_go_through_the_rows_in_their_order_and_nothing_is_averaged(panel):
    rows = pd.DataFrame({"kind": ["two", "two", "two", "one", "one"], "x": [3, 1, 1, 5, 4], "y": [1.0, 2.0, 4.0, np.nan, 3.0]})
    panel.set_xlabel("kept")
    plot.lines(panel, rows, "x", "y", LOOKS)
    one, two = panel.lines
    assert one.get_xydata().tolist() == [[4, 3]]
    assert two.get_xydata().tolist() == [[3, 1], [1, 2], [1, 4]]
    assert [(line.get_color(), line.get_marker(), line.get_linestyle()) for line in panel.lines] == [
        ("#0072B2", "o", "-"),
        ("#D55E00", "s", "--"),
    ]
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("kept", "") and panel.get_legend() is None


def test_nothing_to_draw_is_no_line_and_no_warning(panel, recwarn):
    plot.lines(panel, pd.DataFrame({"kind": ["one"], "x": [1.0], "y": [np.nan]}), "x", "y", LOOKS)
    assert not panel.lines and not recwarn


def test_a_frontier_joins_the_lowest_seed_of_each_curve_in_the_order_of_l0(panel):
    runs = pd.DataFrame(
        {
            "kind": ["one", "one", "one", "two", "two"],
            "seed": [1, 1, 2, 0, 0],
            "l0": [9, 3, 5, 8, 2],
            "ce": [1.0, 3.0, 2.0, 4.0, 5.0],
        }
    ).assign(hook_point="here", settings=["a", "b", "c", "d", "e"])
    plot.frontier(panel, runs, "l0", "ce", LOOKS)
    one, two, further = panel.lines
    assert one.get_xdata().tolist() == [3, 9] and two.get_xdata().tolist() == [2, 8] and further.get_xdata().tolist() == [5]
    assert further.get_linestyle() == "None" and further.get_markerfacecolor() == "white"
    assert further.get_markeredgecolor() == "#0072B2"


def test_a_frontier_has_an_interval_where_a_setting_has_three_seeds(panel):
    rows = [
        ("one", "a", 0, 9.0, 1.0),
        ("one", "a", 1, 10.0, 2.0),
        ("one", "a", 2, 11.0, 3.0),
        ("one", "b", 0, 3.0, 5.0),
        ("one", "b", 1, 4.0, 6.0),
    ]
    runs = pd.DataFrame(rows, columns=["kind", "settings", "seed", "l0", "ce"]).assign(hook_point="here")
    plot.frontier(panel, runs, "l0", "ce", LOOKS)
    joined, further = panel.lines[:2]
    assert joined.get_xdata().tolist() == [3, 9] and further.get_xdata().tolist() == [4]
    bars = sorted((segment.tolist() for bar in panel.containers for part in bar[2] for segment in part.get_segments()), key=str)
    reach = 4.302653 / np.sqrt(3)  # Student's with two degrees of freedom, of values one apart
    assert np.array(bars) == pytest.approx(
        np.array([[[10, 2 - reach], [10, 2 + reach]], [[10 - reach, 2], [10 + reach, 2]]]), rel=1e-5
    )


def test_a_histogram_has_shares_of_all_values_and_counts_those_outside_at_the_ends(panel):
    values = pd.Series([-0.3, 0.1, 0.1, 0.6, 1.0000001])
    plot.histogram(panel, values, 4, 0, "red")
    assert [patch.get_height() for patch in panel.patches] == pytest.approx([0.6, 0, 0.2, 0.2])
    plot.histogram(panel, values, 4, 0, "black", outline=True)
    assert panel.lines[0].get_ydata()[:-1] == pytest.approx([0.6, 0, 0.2, 0.2])


@pytest.mark.parametrize(("n_entries", "grown"), [(3, 0), (12, 1)])
def test_a_legend_takes_the_columns_there_is_room_for_and_more_rows_make_the_figure_higher(n_entries, grown):
    with plot.theme():
        drawn, _ = plot.panels(FigureStyle(), 1, 1)
        height = drawn.get_figheight()
        looks = {f"a rather long name {i}": LOOKS["one"] for i in range(n_entries)}
        plot.legend(drawn, plot.handles(looks))
        drawn.draw_without_rendering()
    box = drawn.legends[-1].get_window_extent()
    assert len(drawn.legends) == 1 and box.x0 >= 0 and box.x1 <= drawn.bbox.x1
    assert (drawn.get_figheight() > height) == bool(grown)
