"""Figures of the embedding on made-up tables: they draw the tables' points, regions and cosines."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba
from tests.studies.drawing import texts
from tests.studies.made_up import with_umap

from saeworks.studies.umap import umap, umap_pca
from saeworks.studies.umap.settings import UmapFigure, UmapPcaFigure


@pytest.fixture
def tables(make_tables):
    def make(name="tables", n_regions=3, **settings):
        return with_umap(make_tables(name, **settings), n_regions)

    return make


def test_without_pairs_there_is_a_message(tables):
    folder = tables(objectives=("local",))
    for figure in (umap.draw(folder, UmapFigure()), umap_pca.draw(folder, UmapPcaFigure())):
        assert "No pair of selected dictionaries" in texts(figure)


def test_every_point_has_its_place_and_the_colour_of_its_objective(tables):
    folder = tables()
    figure = umap.draw(folder, UmapFigure())
    table = pd.read_parquet(folder / "umap.parquet")
    panel = figure.axes[0]
    assert panel.get_title() == "e2e+ds and local"
    here = table[table["first"].str.contains("e2e_ds")]
    drawn = panel.collections[0]
    shades = here["run"].str.contains("local").map({True: "#7f7f7f", False: "#009E73"})
    expected = {(x, y, to_rgba(shade, 0.6)) for x, y, shade in zip(here["x"], here["y"], shades, strict=True)}
    assert {(*map(float, p), tuple(c)) for p, c in zip(drawn.get_offsets(), drawn.get_facecolors(), strict=True)} == expected


def test_regions_beyond_chance_are_named_in_the_plane_and_listed_with_counts_and_tokens(tables):
    folder = tables()
    figure = umap.draw(folder, UmapFigure(significance=0.5))
    panel, below = figure.axes[0], figure.axes[2]
    letters = [text for text in panel.texts if text.get_text() in "ABC"]
    assert [text.get_position() for text in letters] == [(0, 0), (0.25, -0.25), (0.5, -0.5)]
    lines = [text.get_text() for text in below.texts]
    assert lines[1].startswith("A 10/4: the ⏎ $x^2$ ␣ · word") and lines[2].startswith("B 11/4: the")
    assert lines[1].endswith("…") and len(lines[1]) == 52
    assert [text.get_color() for text in below.texts[1:]] == ["#009E73", "#7f7f7f", "#009E73"]
    usual = umap.draw(folder, UmapFigure())
    assert [text.get_text() for text in usual.axes[0].texts if text.get_text() in "ABC"] == ["A"]
    assert len(usual.axes[2].texts) == 2
    assert umap.draw(tables("none", n_regions=0), UmapFigure()).axes[2].texts[0].get_text() == "no region beyond chance"


def test_cosines_colour_the_points_and_fill_the_histograms(tables):
    folder = tables()
    figure = umap_pca.draw(folder, UmapPcaFigure(bins=10))
    table = pd.read_parquet(folder / "umap.parquet")
    here = table[table["first"].str.contains("e2e_ds")]
    points = figure.axes[0].collections[0]
    shades = matplotlib.colormaps["coolwarm"](here["cosine_pca0"] / 2 + 0.5)
    assert points.get_facecolors() == pytest.approx(shades, abs=0.01)
    for line, run in zip(figure.axes[2].lines, here[["first", "second"]].iloc[0], strict=True):
        counts = np.histogram(here.loc[here["run"] == run, "cosine_pca0"], 10, (-1, 1))[0]
        assert line.get_ydata()[:-1] == pytest.approx(counts / counts.sum())
