"""Curves at equal cost, the claims together, and tables for a reader."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tests.studies.drawing import edit, texts
from tests.studies.made_up import all_claims, papers_pattern, with_texts

from saeworks.studies import claims as verdicts
from saeworks.studies import curves, readable
from saeworks.studies.claim import OPPOSITE, REPRODUCED, UNTESTED, WEAKER
from saeworks.studies.curves import ratio_of_curves
from saeworks.studies.geometry import cross_seed, within_dictionary
from saeworks.studies.geometry.settings import CrossSeedFigure, WithinDictionaryFigure
from saeworks.studies.reading import OBJECTIVES, read_selection


def test_ratio_of_curves_by_hand():
    above = pd.DataFrame({"x": [0.0, 2.0], "y": [1.0, 3.0]})  # y = 1 + x
    below = pd.DataFrame({"x": [3.0, 1.0], "y": [6.0, 2.0]})  # y = 2 x
    found = ratio_of_curves(above, below, "x", "y", n_points=3)  # at 1, 1.5, 2: 2/2, 2.5/3, 3/4
    assert (found.start, found.stop) == (1, 2)
    assert (found.mean, found.low, found.high) == pytest.approx(((1 + 2.5 / 3 + 0.75) / 3, 0.75, 1))


def test_ratio_of_curves_says_why_not():
    for below, why in [
        ([(1, 1)], "two runs"),
        ([(1, 1), (1, 2)], "two runs"),
        ([(5, 1), (6, 2)], "no common range"),
        ([(0, -1), (2, 1)], "zero"),
        ([(0, np.nan), (2, 1)], "two runs"),
    ]:
        above = pd.DataFrame({"x": [0.0, 2.0], "y": [1.0, 3.0]})
        found = ratio_of_curves(above, pd.DataFrame(below, columns=["x", "y"], dtype=float), "x", "y")
        assert why in found.why and np.isnan(found.mean)


def test_curve_ratios_find_the_pattern_that_was_put_in(make_tables):
    ratios = curves.curve_ratios(make_tables()).set_index(["objective", "quantity"])["ratio"]
    assert ratios["e2e", "ce_at_equal_l0"] == pytest.approx(0.4)
    assert ratios["e2e_ds", "ce_at_equal_alive"] == pytest.approx(0.42)
    assert ratios["e2e", "l0_at_equal_ce"] == pytest.approx(2.5, rel=0.02)


def test_counts_of_alive_features_with_little_in_common_are_not_compared(make_tables):
    frame = pd.DataFrame({"alive_features": [100.0, 200.0], "l0": [100.0, 200.0], "ce_increase": [0.2, 0.1]})
    shifted = frame.assign(alive_features=[181.0, 300.0], l0=[181.0, 300.0])
    assert (
        ratio_of_curves(frame, shifted, "alive_features", "ce_increase").why == "less than a fifth of a curve's range is common"
    )
    assert not ratio_of_curves(frame, shifted, "l0", "ce_increase").why
    shifted["alive_features"] -= 5
    assert not ratio_of_curves(frame, shifted, "alive_features", "ce_increase").why


def test_claims_on_the_papers_pattern_and_on_its_opposite(make_tables):
    tables = papers_pattern(make_tables(seeds=(0, 1, 2), whole_curves=True))
    found = all_claims(tables)
    assert set(found["verdict"]) == {REPRODUCED, WEAKER} and (found["verdict"] == REPRODUCED).sum() >= 18
    assert (found["n_seeds"] == 3).all() and (found["low"] <= found["ours"]).all() and (found["ours"] <= found["high"]).all()
    edit(tables, "runs", lambda t: t.assign(objective=t["objective"].replace({"local": "e2e", "e2e": "local"})))
    swapped = all_claims(tables).set_index("claim")["verdict"]
    of_two = [
        claim for claim in swapped.index if "+ds" not in claim and "within an objective" not in claim and "of local" not in claim
    ]
    of_two = [claim for claim in of_two if "rank correlation" not in claim and "seeds, local" not in claim]
    assert len(of_two) == 10 and (swapped[of_two] == OPPOSITE).all()


def test_curves_at_equal_ce_by_hand():
    """Of two seeds: the common range is 2 to 8, its geometric middle 4."""
    rows = [("local", 0, 1.0, 10.0), ("local", 0, 9.0, 90.0), ("local", 1, 2.0, 30.0), ("local", 1, 8.0, 60.0)]
    rows += [("e2e", 0, 2.0, 5.0), ("e2e", 0, 6.0, 1.0), ("e2e", 0, 8.0, 9.0), ("e2e", 1, 1.0, 0.0), ("e2e", 1, 11.0, 10.0)]
    runs = pd.DataFrame(rows, columns=["objective", "seed", "ce_increase", "value"]).assign(family="one")
    values, ce, why = curves.at_equal_ce(runs, "value", "local", "e2e")
    assert (ce, why) == (pytest.approx(4), "")
    assert values.to_numpy() == pytest.approx(np.array([[40, 3], [40, 3]]))
    runs.loc[runs["objective"] == "e2e", "ce_increase"] += 20
    values, _, why = curves.at_equal_ce(runs, "value", "local", "e2e")
    assert values.empty and "no common range" in why
    assert "two runs" in curves.at_equal_ce(runs[runs["ce_increase"] < 8], "value", "local", "e2e")[2]


def test_claims_on_costs_are_tested_on_the_text_that_decides_and_on_the_held_out_rows(make_tables):
    tables = make_tables(seeds=(0, 1, 2), whole_curves=True)
    plain = all_claims(tables).set_index("claim")["ours"]
    with_texts(tables, ("novels", "letters"), 1.0)
    edit(
        tables,
        "texts",
        lambda t: t.assign(
            value=t["value"].mask((t["metric"] == "ce_increase") & t["run"].str.contains("/e2e-"), t["value"] * 1.5)
        ),
    )
    found = all_claims(tables).set_index("claim")["ours"]
    name = "CE increase of e2e over local at equal L0"
    assert found[f"{name}, on held-out rows of the corpus"] == plain[name]
    assert found[f"{name}, on novels"] == pytest.approx(1.5 * plain[name])
    assert not found.index.str.contains("letters").any()


def test_a_nan_is_no_result(make_tables):
    tables = make_tables()
    edit(tables, "geometry", lambda t: t.assign(value=np.nan, ci_low=np.nan, ci_high=np.nan))
    edit(tables, "nearest", lambda t: t.assign(cosine=-np.inf))
    found = all_claims(tables).set_index("claim").filter(like="cosine", axis=0)
    assert (found["verdict"] == UNTESTED).all() and found["ours"].isna().all() and len(found) == 11
    assert "no run with two alive features" in " ".join(texts(within_dictionary.draw(tables, WithinDictionaryFigure())).split())
    assert "No two runs" in texts(cross_seed.draw(tables, CrossSeedFigure()))


def test_selected_comparisons_leave_the_others_out(make_tables):
    tables = make_tables()
    other = "blocks.4.hook_resid_pre/local-c1-s0"
    edit(tables, "geometry", lambda t: pd.concat([t, t[t["comparison"] == "cross_objective"].assign(run_a=other)]))
    assert len(readable.geometry_table(tables, "cross_objective", selected=True)) == 9
    assert len(readable.geometry_table(tables, "cross_objective")) == 18


@pytest.mark.parametrize("settings", [{"objectives": ("local",)}, {"objectives": ("e2e", "e2e_ds"), "seeds": (0,)}])
def test_what_is_missing_cannot_be_tested(make_tables, settings):
    found = all_claims(make_tables(**settings)).set_index("claim")
    assert found.loc["CE increase of e2e over local at equal L0", "verdict"] == UNTESTED
    assert found.loc["within-dictionary nearest cosine at equal CE increase, local − e2e", "verdict"] == UNTESTED
    assert (found.loc[found["verdict"] == UNTESTED, "note"] != "").all()
    assert not verdicts.readable(found.reset_index()).empty


def test_tables_for_the_reader(make_tables):
    tables = make_tables()
    runs = readable.run_table(tables)
    assert list(runs["objective"].unique()) == ["local", "e2e", "e2e+ds"]
    assert (runs["similar CE"] == "yes").sum() == len(read_selection(tables)) == 3
    assert list(readable.geometry_table(tables, "cross_seed")["direction"].unique()) == ["→", "←", "mean of → and ←"]
    assert readable.setting_table(tables)["runs"].sum() == len(runs)


def test_claims_compare_the_objectives_of_one_architecture(make_tables):
    relu = all_claims(make_tables())
    mixed = make_tables("mixed", objectives=OBJECTIVES, architectures=("relu", "topk"))
    edit(mixed, "runs", lambda t: t[~((t["architecture"] == "topk") & (t["objective"] == "e2e_ds"))])
    found = all_claims(mixed)
    assert found["note"].str.endswith("; ReLU SAEs").all()
    frontier = ["claim", "ours", "low", "high", "verdict"]
    pd.testing.assert_frame_equal(found.loc[:5, frontier], relu.loc[:5, frontier])
    edit(mixed, "runs", lambda t: t[~((t["architecture"] == "relu") & t["objective"].isin(["e2e", "e2e_ds"]))])
    found = all_claims(mixed).set_index("claim")
    assert found["note"].str.endswith("; TopK SAEs").all()
    assert found.loc["CE increase of e2e over local at equal L0", "ours"] == pytest.approx(0.4)
    assert found.loc["CE increase of e2e+ds over local at equal L0", "verdict"] == UNTESTED


def test_tables_for_the_reader_of_several_architectures(make_tables):
    tables = make_tables(objectives=OBJECTIVES, architectures=("relu", "topk"))
    runs = readable.run_table(tables)
    assert list(runs.columns[:7]) == ["hook point", "objective", "architecture", "group", "λ", "k", "seed"]
    assert runs.iloc[0, 4:6].tolist() == ["1", "–"]
    assert runs[runs["architecture"] == "TopK"].iloc[0, 4:6].tolist() == ["–", "16"]
    labels = set(readable.geometry_table(tables, "within")["run"])
    assert {"local, ReLU, λ = 6, seed 0", "fine-tuned, TopK, k = 32, seed 1"} <= labels
    only = readable.run_table(make_tables("only", objectives=("local",), architectures=("topk",)))
    assert list(only.columns[:5]) == ["hook point", "objective", "group", "k", "seed"]
