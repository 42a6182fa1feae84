"""Figures of the embedding on made-up tables: they draw the tables' points, regions and cosines."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba
from tests.studies.drawing import assert_nothing_clipped, texts

from saeworks.studies.umap import umap, umap_pca
from saeworks.studies.umap.settings import UmapFigure, UmapPcaFigure

FIGURES = {"umap": (umap, UmapFigure), "umap_pca": (umap_pca, UmapPcaFigure)}


@pytest.mark.parametrize("width", [5.5, 3.25])
@pytest.mark.parametrize(
    "settings",
    [
        {"n_regions": 8},
        {"hook_points": ("blocks.2.hook_resid_pre", "blocks.4.hook_resid_pre"), "n_regions": 0},
        {"objectives": ("local", "e2e")},
        {"objectives": ("local", "e2e", "e2e_ds"), "architectures": ("relu", "batch_topk")},
    ],
)
@pytest.mark.parametrize("name", FIGURES)
def test_draws_without_clipping(tables, name, settings, width):
    module, config = FIGURES[name]
    figure = module.draw(tables(**settings), config(width=width))
    assert figure.get_size_inches()[0] == width
    assert_nothing_clipped(figure)


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_a_redraw_gives_equal_bytes_and_a_setting_another_picture(tables, tmp_path, name):
    folder, (module, _) = tables(), FIGURES[name]
    own = {"umap": [{"significance": 0.5}], "umap_pca": [{"bins": 9}, {"colormap": "PuOr"}]}[name]
    settings = [{}, {}, {"colors": {"local": "k"}}, {"width": 4}, {"height": 3}, {"dpi": 60}, {"point_size": 9}, *own]
    pictures = []
    for i, setting in enumerate(settings):
        module.main(json.dumps(setting), str(folder), str(tmp_path / str(i) / name))
        pictures.append((tmp_path / str(i) / f"{name}.png").read_bytes())
    assert pictures[0] == pictures[1] and len(set(pictures)) == len(settings) - 1


@pytest.mark.parametrize("name", FIGURES)
def test_without_pairs_there_is_a_message(tables, name):
    module, config = FIGURES[name]
    assert "No pair of selected dictionaries" in " ".join(texts(module.draw(tables(objectives=("local",)), config())).split())


def test_every_point_has_its_place_and_the_colour_of_its_objective(tables):
    folder = tables()
    figure = umap.draw(folder, UmapFigure())
    table = pd.read_parquet(folder / "umap.parquet")
    panel = figure.axes[0]
    assert panel.get_title() == "e2e+ds and local"
    here = table[table["first"].str.contains("e2e_ds")]
    drawn = panel.collections[0]
    shades = here["run"].str.contains("local").map({True: "#0072B2", False: "#009E73"})
    expected = {(x, y, to_rgba(shade, 0.5)) for x, y, shade in zip(here["x"], here["y"], shades, strict=True)}
    assert {(*map(float, p), tuple(c)) for p, c in zip(drawn.get_offsets(), drawn.get_facecolors(), strict=True)} == expected


def test_regions_are_named_in_the_plane_and_listed_with_counts_and_tokens(tables):
    figure = umap.draw(tables(), UmapFigure())
    panel, below = figure.axes[0], figure.axes[2]
    letters = [text for text in panel.texts if text.get_text() in "ABC"]
    assert [text.get_position() for text in letters] == [(0, 0), (0.25, -0.25), (0.5, -0.5)]
    lines = [text.get_text() for text in below.texts]
    assert lines[1].startswith("A* 10/4: the ⏎ $x^2$ ␣ · word") and lines[2].startswith("B 11/4: the")
    assert lines[1].endswith("…") and len(lines[1]) == 52
    assert [text.get_color() for text in below.texts[1:]] == ["#009E73", "#0072B2", "#009E73"]
    assert umap.draw(tables("none", n_regions=0), UmapFigure()).axes[2].texts[0].get_text() == "no region"


def test_cosines_colour_the_points_and_fill_the_histograms(tables):
    folder = tables()
    figure = umap_pca.draw(folder, UmapPcaFigure(bins=10))
    table = pd.read_parquet(folder / "umap.parquet")
    here = table[table["first"].str.contains("e2e_ds")]
    points = figure.axes[0].collections[0]
    assert points.get_array().tolist() == here["cosine_pca0"].tolist() and points.get_clim() == (-1, 1)
    first, second = figure.axes[2].patches
    for patch, run in ((first, here["first"].iloc[0]), (second, here["second"].iloc[0])):
        counts = np.histogram(here.loc[here["run"] == run, "cosine_pca0"], 10, (-1, 1))[0]
        assert patch.get_data()[0] == pytest.approx(counts / counts.sum())
