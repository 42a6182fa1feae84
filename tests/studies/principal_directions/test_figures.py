"""Figures of the principal directions on made-up tables: they draw the tables' numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from tests.studies.drawing import edit, legend, texts
from tests.studies.made_up import with_principal_directions

from saeworks.store.errors import UserError
from saeworks.studies.principal_directions import pca_ablation, pca_components, pca_correlation
from saeworks.studies.principal_directions.settings import PcaAblationFigure, PcaComponentsFigure, PcaCorrelationFigure

_N = 25
_EDGES = np.linspace(-20, 3100, 41)


@pytest.fixture
def tables(make_tables):
    def make(name="tables", ends=True, **settings):
        return with_principal_directions(make_tables(name, **settings), ends)

    return make


def test_components_shows_the_share_of_each_kind_and_the_table_s_numbers(tables):
    folder = tables()
    figure = pca_components.draw(folder, PcaComponentsFigure())
    panel = figure.axes[0]
    counts = pd.read_parquet(folder / "pca_histogram.parquet")
    # the last drawn, on top, is the rarest
    for filled, kind in zip(reversed(panel.collections), ("position 0", "end of text", "other"), strict=True):
        here = counts[counts["tokens"] == kind]["count"]
        outline = filled.get_paths()[0].vertices
        for low, high, share in zip(_EDGES, _EDGES[1:], here / here.sum(), strict=False):
            heights = outline[np.isclose(outline[:, 0], low) | np.isclose(outline[:, 0], high), 1]
            assert np.isclose(heights, share).any()
        assert outline[:, 1].max() == pytest.approx((here / here.sum()).max())
        assert to_rgb(filled.get_facecolor()[0, :3]) == to_rgb(PcaComponentsFigure().colors[kind])
    assert panel.get_title() == "direction 0: 80% of the variance, cosine 0.980 with mean at position 0"
    assert legend(figure) == ["position 0", "end of text elsewhere", "other tokens"]
    assert panel.get_yscale() == "log"
    assert pca_components.draw(folder, PcaComponentsFigure(y_scale="linear")).axes[0].get_yscale() == "linear"


def test_a_kind_of_token_that_never_comes_is_left_out(tables):
    figure = pca_components.draw(tables(ends=False), PcaComponentsFigure())
    assert legend(figure) == ["position 0", "other tokens"]


def test_correlation_keeps_position_0_apart_and_leaves_gaps_where_it_is_undefined(tables):
    rest, first = pca_correlation.draw(tables(), PcaCorrelationFigure()).axes
    assert list(rest.lines[0].get_xdata()) == list(range(_N))
    assert rest.lines[0].get_ydata() == pytest.approx(0.9 - 0.01 * np.arange(_N))
    assert [line.get_xydata().tolist() for line in first.lines] == [[[0, 0.99]]] * 3
    assert [line.get_color() for line in rest.lines] == ["#0072B2", "#D55E00", "#009E73"]


def test_correlation_has_no_panel_where_nothing_varies(tables):
    two = ("blocks.2.hook_resid_pre", "blocks.4.hook_resid_pre")
    folder = tables(hook_points=two)
    edit(folder, "pca_correlation", lambda t: t.assign(r=t["r"].where((t["positions"] == "rest") | (t["hook_point"] == two[1]))))
    panels = pca_correlation.draw(folder, PcaCorrelationFigure()).axes
    assert ["vary here" in " ".join(t.get_text() for t in panel.texts) for panel in panels] == [False, True, False, False]
    edit(folder, "pca_correlation", lambda t: t.assign(r=t["r"].where(t["positions"] == "rest")))
    panels = pca_correlation.draw(folder, PcaCorrelationFigure()).axes
    assert [panel.get_title() for panel in panels] == ["positions > 0"] * 2
    edit(folder, "pca_correlation", lambda t: t.assign(r=np.nan))
    assert "do not vary" in texts(pca_correlation.draw(folder, PcaCorrelationFigure()))


def test_ablation_draws_both_orders_of_the_divergence(tables):
    folder = tables(hook_points=("blocks.2.hook_resid_pre", "blocks.4.hook_resid_pre"))
    figure = pca_ablation.draw(folder, PcaAblationFigure())
    table = pd.read_parquet(folder / "pca_ablation.parquet").query("hook_point == 'blocks.4.hook_resid_pre'")
    lines = figure.axes[1].lines
    assert lines[0].get_ydata() == pytest.approx(table["kl"]) and lines[1].get_ydata() == pytest.approx(table["kl_reverse"])
    assert legend(figure) == ["KL(clean ‖ ablated)", "KL(ablated ‖ clean)"]
    assert pca_ablation.draw(folder, PcaAblationFigure(y_scale="log")).axes[0].get_yscale() == "log"


def test_a_table_without_a_column_is_named(tables):
    folder = tables()
    edit(folder, "pca_ablation", lambda t: t.drop(columns="kl"))
    with pytest.raises(UserError, match="pca_ablation.parquet has no column `kl`"):
        pca_ablation.draw(folder, PcaAblationFigure())
