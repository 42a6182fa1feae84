"""Nearest neighbours within a dictionary, across seeds and across objectives: what is drawn of the tables."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from tests.studies.drawing import edit, texts

from saeworks.studies.geometry import cross_objective, cross_seed, within_by_run, within_dictionary
from saeworks.studies.geometry.settings import CrossObjectiveFigure, CrossSeedFigure, WithinByRunFigure, WithinDictionaryFigure
from saeworks.studies.plot import POSITIVE


def test_histograms_sum_to_one_whatever_the_cosines(make_tables):
    tables = make_tables()
    edit(tables, "nearest", lambda t: t.assign(cosine=t["cosine"] - 0.5))
    for module, config in ((within_dictionary, WithinDictionaryFigure), (cross_seed, CrossSeedFigure)):
        panel = module.draw(tables, config()).axes[0]
        assert sum(patch.get_height() for patch in panel.patches if hasattr(patch, "get_height")) == pytest.approx(1)


def test_within_dictionary_shows_the_tables_mean_interval_and_baseline(make_tables):
    figure = within_dictionary.draw(make_tables(), WithinDictionaryFigure())
    panel = figure.axes[0]
    mean = np.mean([line.get_xdata()[0] for line in panel.lines if line.get_linestyle() == "--" and line.get_color() == "black"])
    assert f"mean {mean:.3f}\n[{mean - 0.008:.3f}, {mean + 0.008:.3f}]" in panel.get_title()
    assert [line.get_xdata()[0] for line in panel.lines if line.get_linestyle() == ":"] == [0.41]


def test_cross_seed_shows_both_directions_from_the_lower_seed_whatever_the_order_in_the_table(make_tables):
    tables = make_tables()
    title = cross_seed.draw(tables, CrossSeedFigure()).axes[0].get_title()
    assert re.search(r"→ 0\.\d{3} \[.*\]\n← 0\.\d{3} \[", title) and "λ = 6" in title and "seeds 0, 1" in title

    def other_way_round(table):
        swapped = table.rename(columns={"run_a": "run_b", "run_b": "run_a"})
        return swapped.assign(direction=swapped["direction"].replace({"a_to_b": "b_to_a", "b_to_a": "a_to_b"}))

    for name in ("nearest", "geometry"):
        edit(tables, name, other_way_round)
    swapped = cross_seed.draw(tables, CrossSeedFigure()).axes[0].get_title()
    assert swapped.splitlines()[2:] == title.splitlines()[2:]


def test_cross_seed_without_pairs_says_so(make_tables):
    figure = cross_seed.draw(make_tables(seeds=(0,)), CrossSeedFigure())
    assert "No two runs differ in their seed only" in " ".join(texts(figure).split())


def test_cross_seed_ignores_pairs_that_differ_in_more_than_the_seed(make_tables):
    tables = make_tables()
    columns = ["comparison", "run_a", "run_b", "direction"]
    assert len(cross_seed.seed_pairs(tables, "nearest", columns))
    for change in (
        lambda t: t.assign(sparsity_coeff=t["sparsity_coeff"] + t["seed"]),
        lambda t: t.assign(sparsity_coeff=np.nan, k=t["seed"] + 1),
        lambda t: t.assign(architecture=t["seed"].map({0: "relu", 1: "gated"})),
    ):
        other = make_tables("other")
        edit(other, "runs", change)
        assert cross_seed.seed_pairs(other, "nearest", columns).empty


def test_a_selected_run_without_alive_features_has_a_message(make_tables):
    tables = make_tables()
    for name in ("nearest", "geometry"):
        edit(tables, name, lambda t: t[~t["run_a"].str.contains("/e2e-")])
    assert "no run with two alive features" in " ".join(
        texts(within_dictionary.draw(tables, WithinDictionaryFigure()).axes[1].figure).split()
    )
    assert len(cross_seed.draw(tables, CrossSeedFigure()).axes) == 2  # no panel for what has nothing to show


def _histogram(panel) -> list[float]:
    return [patch.get_height() for patch in panel.patches if hasattr(patch, "get_height")]


def test_across_objectives_both_directions_are_drawn_with_their_means(make_tables):
    tables = make_tables()

    def distinct(table):
        return table.assign(
            value=table["direction"].map({"a_to_b": 0.5, "b_to_a": 0.3}),
            ci_low=0.49,
            ci_high=0.51,
            random_baseline=table["random_baseline"].where(table["direction"] != "b_to_a", 0.2),
        )

    edit(tables, "geometry", distinct)
    e2e, e2e_ds = cross_objective.draw(tables, CrossObjectiveFigure(bins=10)).axes
    # the table's pairs are (local, e2e): towards local is its b_to_a
    assert e2e.get_title().splitlines() == ["e2e", "→ 0.300 [0.490, 0.510]", "← 0.500 [0.490, 0.510]"]
    assert e2e_ds.get_title().startswith("e2e+ds\n")
    assert [line.get_xdata()[0] for line in e2e.lines if line.get_linestyle() == "--" and line.get_color() == "black"] == [
        0.3,
        0.5,
    ]
    assert [line.get_xdata()[0] for line in e2e.lines if line.get_linestyle() == ":"] == [0.2, 0.42]
    nearest = pd.read_parquet(tables / "nearest.parquet").query("comparison == 'cross_objective'")
    to_local = nearest[nearest["run_a"].str.contains("/local-") & nearest["run_b"].str.contains("/e2e-")]
    to_local = to_local[to_local["direction"] == "b_to_a"]
    expected = np.histogram(to_local["cosine"], bins=10, range=(0, 1))[0] / len(to_local)
    assert _histogram(e2e) == pytest.approx(expected)


def test_across_objectives_the_order_of_a_pair_in_the_table_does_not_matter(make_tables):
    tables = make_tables()
    edit(tables, "geometry", lambda t: t.assign(value=t["value"].where(t["direction"] != "b_to_a", 0.3)))
    before = [panel.get_title() for panel in cross_objective.draw(tables, CrossObjectiveFigure()).axes]

    def other_way_round(table):
        swapped = table.rename(columns={"run_a": "run_b", "run_b": "run_a"})
        return swapped.assign(direction=swapped["direction"].replace({"a_to_b": "b_to_a", "b_to_a": "a_to_b"}))

    for name in ("nearest", "geometry"):
        edit(tables, name, other_way_round)
    assert [panel.get_title() for panel in cross_objective.draw(tables, CrossObjectiveFigure()).axes] == before


def test_across_objectives_runs_that_were_not_selected_are_left_out(make_tables):
    tables = make_tables()
    columns = ["comparison", "run_a", "run_b", "direction"]
    before = cross_objective.local_pairs(tables, "nearest", columns)
    assert set(before["objective"]) == {"e2e", "e2e_ds"} and len(before) == 2 * 2 * 660
    other = "blocks.4.hook_resid_pre/local-c1-s0"
    edit(tables, "nearest", lambda t: pd.concat([t, t[t["comparison"] == "cross_objective"].assign(run_a=other)]))
    assert len(cross_objective.local_pairs(tables, "nearest", columns)) == len(before)


def test_across_objectives_without_a_local_run_a_message(make_tables):
    figure = cross_objective.draw(make_tables(objectives=("e2e", "e2e_ds")), CrossObjectiveFigure())
    assert "No hook point has a local run" in texts(figure)
    tables = make_tables("part", architectures=("relu", "topk"))  # pairs of the first architecture only
    assert len(cross_objective.draw(tables, CrossObjectiveFigure()).axes) == 2  # of the four kinds


def test_the_same_objective_in_another_seed_is_the_positive_control(make_tables):
    tables = make_tables()
    geometry = pd.read_parquet(tables / "geometry.parquet").query("comparison == 'cross_seed' and direction != 'both'")

    def violet(panel) -> list[float]:
        return [line.get_xdata()[0] for line in panel.lines if line.get_color() == POSITIVE["color"]]

    def own(objective: str) -> list[float]:
        return [pytest.approx(geometry.loc[geometry["run_a"].str.contains(f"/{objective}-"), "value"].mean())]

    figure = within_dictionary.draw(tables, WithinDictionaryFigure())
    assert [violet(panel) for panel in figure.axes] == [own("local"), own("e2e"), own("e2e_ds")]
    across = cross_objective.draw(tables, CrossObjectiveFigure())
    assert [violet(panel) for panel in across.axes] == [own("local")] * 2 and "local, another seed" in texts(across)
    alone = make_tables("alone", seeds=(0,))
    for module, config in ((within_dictionary, WithinDictionaryFigure()), (cross_objective, CrossObjectiveFigure())):
        figure = module.draw(alone, config)
        assert not any(violet(panel) for panel in figure.axes) and "another seed" not in texts(figure)


def test_every_run_s_mean_interval_and_baseline_against_three_quantities(make_tables):
    tables = make_tables(objectives=("local",), seeds=(0,))
    alive = np.array([900, 780, 660, 540])
    edit(tables, "geometry", lambda t: t.assign(random_baseline=0.3 + t["n_a"] / 10_000))
    figure = within_by_run.draw(tables, WithinByRunFigure())
    geometry = pd.read_parquet(tables / "geometry.parquet").query(
        "comparison == 'within' and directions == 'decoder' and features == 'alive'"
    )
    value = geometry["value"].to_numpy()
    l0 = 90 * 0.6 ** np.arange(4)
    for panel, x in zip(figure.axes, (l0, 3 / l0, alive), strict=True):
        order = np.argsort(x)
        baseline, means = panel.lines[:2]
        assert means.get_xdata() == pytest.approx(x[order]) and means.get_ydata() == pytest.approx(value[order])
        assert means.get_linestyle() == "None"
        assert baseline.get_xdata() == pytest.approx(x[order]) and baseline.get_linestyle() == ":"
        assert baseline.get_ydata() == pytest.approx(0.3 + alive[order] / 10_000)
        bars = panel.collections[0].get_segments()
        assert [bar[:, 1].tolist() for bar in bars] == [pytest.approx([v - 0.008, v + 0.008]) for v in value[order]]


def test_a_run_whose_interval_is_not_defined_keeps_its_marker(make_tables):
    tables = make_tables(objectives=("local",), seeds=(0,))
    edit(tables, "geometry", lambda t: t.assign(ci_low=np.nan, ci_high=np.nan))
    assert len(within_by_run.draw(tables, WithinByRunFigure()).axes[0].lines[1].get_xdata()) == 4
    edit(tables, "geometry", lambda t: t.assign(value=np.nan))
    assert "No evaluated run" in texts(within_by_run.draw(tables, WithinByRunFigure()))


def test_baselines_of_dictionaries_of_different_size_are_not_joined(make_tables):
    tables = make_tables(objectives=("local",), seeds=(0,))
    edit(tables, "runs", lambda t: t.assign(family=["small", "large", "small", "large"]))
    panel = within_by_run.draw(tables, WithinByRunFigure()).axes[0]
    assert sorted(len(line.get_xdata()) for line in panel.lines if line.get_linestyle() == ":") == [2, 2]
