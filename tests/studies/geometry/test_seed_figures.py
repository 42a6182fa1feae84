"""Figures of runs in several seeds: encoder against decoder, firing, and the direction of the maximum."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from tests.studies.drawing import edit, texts
from tests.studies.made_up import with_seeds

from saeworks.config.training import RunSpec
from saeworks.studies.firing import firing_agreement, firing_controls
from saeworks.studies.firing.settings import FiringAgreementFigure, FiringControlsFigure
from saeworks.studies.geometry import direction_of_maximum, encoder_decoder
from saeworks.studies.geometry.settings import DirectionOfMaximumFigure, EncoderDecoderFigure

FIGURES = {
    "encoder_decoder": (encoder_decoder, EncoderDecoderFigure),
    "firing_agreement": (firing_agreement, FiringAgreementFigure),
    "firing_controls": (firing_controls, FiringControlsFigure),
    "direction_of_maximum": (direction_of_maximum, DirectionOfMaximumFigure),
}


@pytest.fixture
def make(make_tables):
    return lambda **settings: with_seeds(make_tables(**settings))


@pytest.mark.parametrize("name", FIGURES)
def test_empty_tables_and_missing_values_are_drawn(make, name):
    module, config = FIGURES[name]
    tables = make()
    numbers = ["value", "ci_low", "ci_high", "random_baseline", "decoder_cosine", "pearson"]
    for table in ("matching", "matches", "firing", "firing_features", "geometry"):
        edit(tables, table, lambda t: t.assign(**{c: np.nan for c in numbers if c in t}))
    assert texts(module.draw(tables, config())).strip()
    for path in tables.iterdir():
        pd.read_parquet(path).iloc[:0].to_parquet(path)
    assert texts(module.draw(tables, config())).strip()


def test_figures_of_seeds_belong_to_experiments_with_seeds():
    common = {"group": "g", "hook_point": "blocks.1.hook_resid_pre", "objective": "local", "sparsity_coeff": 1.0, "training": {}}
    runs = [RunSpec(name=f"r{seed}", seed=seed, **common) for seed in (0, 1)]
    for _, config in FIGURES.values():
        assert config.applies(runs) and not config.applies(runs[:1])


def test_points_are_the_cosines_of_the_partners_apart_by_whether_these_are_the_same(make):
    tables = make()
    matches = pd.read_parquet(tables / "matches.parquet")
    panel = encoder_decoder.draw(tables, EncoderDecoderFigure()).axes[0]
    local = matches[matches["run_a"].str.contains("/local-")]
    same = local["decoder_partner"] == local["encoder_partner"]
    two, once = panel.collections
    for drawn, chosen in ((two, local[~same]), (once, local[same])):
        np.testing.assert_allclose(drawn.get_offsets(), chosen[["decoder_cosine", "encoder_cosine"]])
    assert len(two.get_facecolors()) == 0 and to_rgb(once.get_facecolors()[0]) == to_rgb("#0072B2")
    crosses = [line for line in panel.lines if line.get_marker() == "+"]
    assert crosses[0].get_xydata().tolist() == [[local["decoder_cosine"].mean(), local["encoder_cosine"].mean()]]
    dotted = [line.get_xydata().tolist() for line in panel.lines if line.get_linestyle() == ":"]
    assert [line[0][0] for line in dotted][0] == dotted[1][0][1] == pytest.approx(0.38)
    assert "shared 0.250 [0.200, 0.300]" in panel.get_title()


def test_three_seeds_show_the_interval_over_their_pairs(make):
    tables = make(seeds=(0, 1, 2))
    assert "shared 0.260 [0.230, 0.310]" in encoder_decoder.draw(tables, EncoderDecoderFigure()).axes[0].get_title()
    title = firing_agreement.draw(tables, FiringAgreementFigure()).axes[0].get_title()
    assert "mean 0.450 [0.400, 0.500]\nnull 0.450, CKA 0.800" in title
    panel = direction_of_maximum.draw(tables, DirectionOfMaximumFigure()).axes[0]
    full = [line for line in panel.lines if line.get_marker() == "D" and line.get_alpha() is None]
    pale = [line for line in panel.lines if line.get_marker() == "D" and line.get_alpha() is not None]
    assert full[0].get_ydata().tolist() == [0.61] and pale[0].get_ydata().tolist() == pytest.approx([0.6, 0.61, 0.62])


def test_a_setting_of_two_seeds_counts_beside_one_of_three(make):
    tables = make(seeds=(0, 1, 2))
    runs = pd.read_parquet(tables / "runs.parquet")
    two = runs[runs["run"].str.contains("/local-") & (runs["seed"] < 2)]
    renamed = {run: run.replace("/local-", "/other-local-") for run in two["run"]}
    more = two.assign(run=two["run"].map(renamed), settings="other", sparsity_coeff=two["sparsity_coeff"] + 1)
    pd.concat([runs, more]).to_parquet(tables / "runs.parquet")
    for name in ("matching", "firing"):
        table = pd.read_parquet(tables / f"{name}.parquet")
        own = table[table["run_a"].isin(two["run"]) & table["run_b"].isin(two["run"])].replace(renamed)
        pd.concat([table, own]).to_parquet(tables / f"{name}.parquet")
    assert "shared 0.255 [0.200, 0.310]" in encoder_decoder.draw(tables, EncoderDecoderFigure()).axes[0].get_title()
    title = firing_agreement.draw(tables, FiringAgreementFigure()).axes[0].get_title()
    assert "mean 0.475 [0.400, 0.510]\nnull 0.235, CKA 0.850" in title
    panel = direction_of_maximum.draw(tables, DirectionOfMaximumFigure()).axes[0]
    full = [line for line in panel.lines if line.get_marker() == "D" and line.get_alpha() is None]
    assert full[0].get_ydata().tolist() == pytest.approx([(0.61 + 0.6) / 2])


def test_firing_lines_are_means_over_bins_of_the_decoder_cosine(make):
    tables = make()
    features = pd.read_parquet(tables / "firing_features.parquet")
    local = features[features["run_a"].str.contains("/local-")]
    for metric in ("pearson", "jaccard"):
        panel = firing_agreement.draw(tables, FiringAgreementFigure(metric=metric, bins=4)).axes[0]
        np.testing.assert_allclose(panel.collections[0].get_offsets(), local[["decoder_cosine", metric]])
        for line, column in zip(panel.lines, (metric, f"best_{metric}", f"chance_{metric}", f"null_{metric}"), strict=False):
            expected = [
                (c, local[(local["decoder_cosine"] // 0.25) == i][column].mean())
                for i, c in enumerate([0.125, 0.375, 0.625, 0.875])
            ]
            np.testing.assert_allclose(line.get_xydata(), [point for point in expected if point[1] == point[1]])
        assert panel.lines[4].get_xdata()[0] == pytest.approx(0.38)
        assert "mean 0.500 [0.490, 0.510]\nnull 0.020, CKA 0.900" in panel.get_title()


def test_firing_stands_beside_its_controls(make):
    for seeds, of_pairs in (
        ((0, 1), (0.7, 0.9)),
        ((0, 1, 2), (0.7, 0.8)),
    ):  # three seeds have a mean over pairs of the codes alone
        correlation, alignment = firing_controls.draw(make(seeds=seeds), FiringControlsFigure()).axes
        for panel, own, controls in ((correlation, of_pairs[0], (0.15, 0.3, 0.05)), (alignment, of_pairs[1], (0.7, 0.6, 0.0))):
            local = [
                line for line in panel.lines if to_rgb(line.get_color()) == to_rgb("#0072B2") and line.get_marker() in "os^v"
            ]
            assert [line.get_ydata()[0] for line in local] == pytest.approx([own, *controls])
            assert [line.get_markerfacecolor() == "white" for line in local] == [False, True, True, True]
            low, high = panel.get_ylim()
            assert low < 0 and high > 1
    assert [label.get_text() for label in correlation.get_xticklabels()] == ["local", "e2e", "e2e+ds"]


def test_the_four_means_of_each_pair_are_drawn_with_their_baselines(make):
    tables = make()
    geometry = pd.read_parquet(tables / "geometry.parquet")
    seeds, objectives = direction_of_maximum.draw(tables, DirectionOfMaximumFigure()).axes

    def drawn(panel, marker):
        return [line.get_ydata()[0] for line in panel.lines if line.get_marker() == marker]

    for marker, direction in ((">", "a_to_b"), ("<", "b_to_a"), ("o", "both")):
        here = geometry[(geometry["comparison"] == "cross_seed") & (geometry["direction"] == direction)]
        assert drawn(seeds, marker) == pytest.approx(here["value"].tolist())
        here = geometry[(geometry["comparison"] == "cross_objective") & (geometry["direction"] == direction)]
        assert drawn(objectives, marker) == pytest.approx(here["value"].tolist())
    assert drawn(seeds, "D") == [0.6] * 3 and drawn(objectives, "D") == [0.4] * 3
    baselines = [line.get_ydata()[0] for line in seeds.lines if line.get_linestyle() == ":"]
    assert baselines == pytest.approx([0.42, 0.42, 0.42, 0.38] * 3)
    names = [label.get_text() for label in objectives.get_xticklabels()]
    assert names == ["a: local\nb: e2e", "a: local\nb: e2e+ds", "a: e2e\nb: e2e+ds"]


def test_directions_go_from_the_lower_seed_and_the_first_objective_whatever_the_order_in_the_table(make):
    tables = make()
    keys = ["comparison", "hook_point", "objective", "other", "metric"]
    before = direction_of_maximum.means(tables).set_index(keys)["value"].sort_index()

    def other_way_round(table):
        swapped = table.rename(columns={"run_a": "run_b", "run_b": "run_a"})
        turned = {"a_to_b": "b_to_a", "b_to_a": "a_to_b"}
        return swapped.assign(direction=swapped["direction"].replace(turned)) if "direction" in swapped else swapped

    for name in ("geometry", "matching"):
        edit(tables, name, other_way_round)
    after = direction_of_maximum.means(tables).set_index(keys)["value"].sort_index()
    pd.testing.assert_series_equal(before, after)
