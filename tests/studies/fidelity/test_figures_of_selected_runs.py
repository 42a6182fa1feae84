"""Figures of the selected runs: what is drawn, beside the paper's numbers, on made-up tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tests.studies.drawing import assert_nothing_clipped, edit, texts
from tests.studies.made_up import NORM, with_evaluation

from saeworks.config.objectives import OBJECTIVES
from saeworks.studies.draw import drawn
from saeworks.studies.fidelity import cosines, explained_variance, norms
from saeworks.studies.fidelity.settings import CosinesFigure, ExplainedVarianceFigure, NormsFigure
from saeworks.studies.paper import L2_RATIO, SELECTED

FIGURES = {
    "norms": (norms, NormsFigure),
    "cosines": (cosines, CosinesFigure),
    "explained_variance": (explained_variance, ExplainedVarianceFigure),
}
HOOKS = ("blocks.2.hook_resid_pre", "blocks.4.hook_resid_pre")


@pytest.fixture
def tables(make_tables):
    return with_evaluation(make_tables())


def test_what_was_not_measured_is_left_out(tables):
    chosen = pd.read_parquet(tables / "selection.parquet").query("objective == 'e2e'")["run"].iloc[0]
    edit(tables, "fidelity", lambda t: t[(t["run"] != chosen) | (t["metric"] == "ce")])
    edit(tables, "tokens", lambda t: t[t["run"] != chosen])
    edit(tables, "runs", lambda t: t.assign(grad_norm=np.nan))
    for name, (_, config) in FIGURES.items():
        figure = drawn(name, tables, config())
        assert_nothing_clipped(figure)
        assert "nan" not in texts(figure)
        if name in ("norms", "cosines"):
            assert "no tokens were sampled" in " ".join(texts(figure).split())


def test_published_numbers_have_every_layer_and_objective():
    for table in (*SELECTED.values(), L2_RATIO):
        assert list(table) == [2, 6, 10]
        assert all(list(rows) == ["local", "e2e", "e2e_ds"] for rows in table.values())
    assert SELECTED["similar_ce"][6]["e2e_ds"] == SELECTED["similar_l0"][6]["e2e_ds"]  # the same run
    assert SELECTED["similar_ce"][10]["e2e"] == SELECTED["similar_l0"][10]["e2e"]


def test_norms_are_points_of_the_selected_runs_tokens_with_position_0_apart(tables):
    figure = norms.draw(tables, NormsFigure())
    tokens = pd.read_parquet(tables / "tokens.parquet")
    chosen = pd.read_parquet(tables / "selection.parquet").query("criterion == 'similar_ce'").set_index("objective")["run"]
    for panel, objective in zip(figure.axes, ("local", "e2e", "e2e_ds"), strict=True):
        here = tokens[tokens["run"] == chosen[objective]]
        (rest,), (first, equal) = panel.collections, panel.lines
        np.testing.assert_array_equal(rest.get_offsets(), here.query("position > 0")[["input_norm", "output_norm"]])
        np.testing.assert_array_equal(first.get_xydata(), [[30, 30]])  # 20 tokens, all alike
        assert (equal.get_xdata() == equal.get_ydata()).all()
        assert panel.get_xlim() == panel.get_ylim() and panel.get_xscale() == "linear"
        assert f"ratio {NORM[objective]:.2f}\nposition 0: 1.00" in panel.get_title()


@pytest.mark.parametrize(("outlier", "scale"), [(9.0, "linear"), (100.0, "log")])
def test_norms_are_logarithmic_where_position_0_outweighs_the_rest(make_tables, outlier, scale):
    figure = norms.draw(with_evaluation(make_tables(), outlier), NormsFigure())
    panel = figure.axes[0]
    assert panel.get_xscale() == panel.get_yscale() == scale
    assert panel.get_xlim()[1] > 30 * outlier and panel.get_xlim() == panel.get_ylim()
    assert norms.draw(with_evaluation(make_tables("b"), outlier), NormsFigure(scale="linear")).axes[0].get_xscale() == "linear"


def test_norms_of_an_output_that_is_zero_are_drawn(tables):
    edit(tables, "tokens", lambda t: t.assign(output_norm=0.0))
    for scale in ("auto", "log"):
        assert_nothing_clipped(drawn("norms", tables, NormsFigure(scale=scale)))


def test_cosines_are_a_histogram_with_mean_baseline_and_position_0(tables):
    figure = cosines.draw(tables, CosinesFigure(bins=20))
    tokens = pd.read_parquet(tables / "tokens.parquet").query("position > 0")
    chosen = pd.read_parquet(tables / "selection.parquet").query("criterion == 'similar_ce'").set_index("objective")["run"]
    low = np.floor(10 * min(tokens.loc[tokens["run"].isin(chosen), "cosine"].min(), 0.35)) / 10
    for panel, objective in zip(figure.axes, ("local", "e2e", "e2e_ds"), strict=True):
        here = tokens.loc[tokens["run"] == chosen[objective], "cosine"]
        heights, _ = np.histogram(here, 20, (low, 1))
        assert [patch.get_height() for patch in panel.patches] == pytest.approx(heights / len(here))
        assert panel.get_xlim() == (low, 1)
        places = {line.get_linestyle(): line.get_xdata()[0] for line in panel.lines}
        assert places == {":": 0.35, "--": NORM[objective], "None": 0.99}
        assert panel.get_title().endswith(f"mean {NORM[objective]:.3f}")


def test_the_axis_of_cosines_reaches_below_zero_where_they_do(tables):
    edit(tables, "tokens", lambda t: t.assign(cosine=t["cosine"] - 1.03))
    panel = cosines.draw(tables, CosinesFigure()).axes[0]
    assert -1 <= panel.get_xlim()[0] <= -0.5
    assert sum(patch.get_height() for patch in panel.patches) == pytest.approx(1)


def _lines_of(panel, colour):
    return [line for line in panel.lines if line.get_color() == colour and len(line.get_xdata())]


@pytest.mark.parametrize(("positions", "level"), [("rest", 0.5), ("all", 0.6)])
def test_explained_variance_by_both_definitions_raw_and_normalised(tables, positions, level):
    figure = explained_variance.draw(tables, ExplainedVarianceFigure(positions=positions))
    local = OBJECTIVES["local"].color
    for panel, shift in zip(figure.axes, (0.0, 0.1), strict=True):
        conventional, paper, swapped = _lines_of(panel, local)
        expected = level * NORM["local"] + 0.03 * np.arange(5) + shift
        assert list(conventional.get_xdata()) == list(paper.get_xdata()) == [4, 5, 6, 7, 8]
        assert list(conventional.get_ydata()) == pytest.approx(expected)
        assert list(paper.get_ydata()) == pytest.approx(expected - 0.2)
        assert (conventional.get_linestyle(), paper.get_linestyle()) == ("-", "--")
        assert list(swapped.get_xdata()) == [4] and swapped.get_linestyle() == "None"
        assert list(swapped.get_ydata()) == pytest.approx([1 - 0.5 / NORM["local"] ** 3 + shift])


def test_what_lies_below_the_axis_is_written_at_its_edge(tables):
    figure = explained_variance.draw(tables, ExplainedVarianceFigure())
    panel, e2e = figure.axes[0], OBJECTIVES["e2e"].color
    value = 1 - 0.5 / NORM["e2e"] ** 3
    assert value < -15 and f"{value:.3g}" in [text.get_text() for text in panel.texts]
    assert _lines_of(panel, e2e)[-1].get_ydata()[0] == -1 and -1.1 < panel.get_ylim()[0] < -1
    deeper = explained_variance.draw(tables, ExplainedVarianceFigure(lowest=-20)).axes[0]
    assert not deeper.texts or f"{value:.3g}" not in [text.get_text() for text in deeper.texts]
    assert deeper.get_ylim()[0] < value


def test_explained_variance_inside_a_block_is_not_joined_to_that_of_the_residual_stream(make_tables):
    tables = with_evaluation(make_tables(hook_points=("blocks.4.hook_mlp_out",)))
    panel = explained_variance.draw(tables, ExplainedVarianceFigure()).axes[0]
    own, later = _lines_of(panel, OBJECTIVES["local"].color)[:2]
    assert list(own.get_xdata()) == [4] and list(later.get_xdata()) == [5, 6, 7, 8]
    assert own.get_linestyle() == "None" and later.get_linestyle() == "-"


def test_several_hook_points_have_a_row_each(make_tables):
    tables = with_evaluation(make_tables(hook_points=HOOKS))
    figure = explained_variance.draw(tables, ExplainedVarianceFigure())
    assert [len(_lines_of(panel, "#0072B2")[0].get_xdata()) for panel in figure.axes] == [7, 7, 5, 5]
    assert len(norms.draw(tables, NormsFigure()).axes) == len(cosines.draw(tables, CosinesFigure()).axes) == 6
