"""Claims beside results on made-up tables: the rule of the verdicts, and each claim can hold, fail and be untestable."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from tests.each import each
from tests.studies.drawing import TWO_LAYERS, edit
from tests.studies.made_up import HOOK, all_claims, columns_of, papers_pattern, sweep_tables
from tests.studies.shown import html_rows, tex_rows

from saeworks.cli.claims import claims as show_claims
from saeworks.cli.claims import listed
from saeworks.config.resampling import ResamplingConfig
from saeworks.store.errors import UserError
from saeworks.studies import claims as verdicts
from saeworks.studies.agreement.claims import claims as agreement_claims
from saeworks.studies.claim import (
    NO_DIFFERENCE,
    OPPOSITE,
    REPRODUCED,
    UNTESTED,
    VERDICTS,
    WEAKER,
    Claim,
    chance,
    decide,
)
from saeworks.studies.curves import at_equal_ce
from saeworks.studies.fidelity.claims import _alive as alive_claims
from saeworks.studies.fidelity.claims import _explained_variance as explained_variance_claims
from saeworks.studies.fidelity.claims import _frontier as frontier_claims
from saeworks.studies.geometry.claims import _cross_objective as cross_objective_claims
from saeworks.studies.geometry.claims import _crowding as crowding_claims
from saeworks.studies.geometry.claims import _seeds as seed_claims
from saeworks.studies.paper import BRAUN, GURNEE, KARVONEN
from saeworks.studies.principal_directions.claims import claims as pca_claims
from saeworks.studies.resampling import pair_interval
from saeworks.studies.spliced.claims import claims as spliced_claims
from saeworks.studies.sweeps.claims import _finetuning as finetune_claims
from saeworks.studies.sweeps.claims import _sweeps as sweep_claims
from saeworks.studies.umap.claims import claims as umap_claims

_FIELDS = [field.name for field in dataclasses.fields(Claim)]
CHOSEN = {"local": f"{HOOK}/local-c1-s0", "e2e": f"{HOOK}/e2e-c3-s0", "e2e_ds": f"{HOOK}/e2e_ds-c50-s0"}
SEEDS = {"seeds": (0, 1, 2), "whole_curves": True}


@pytest.fixture
def tables(make_tables):
    return papers_pattern(make_tables(**SEEDS))


def rows(claims_of, tables) -> pd.DataFrame:
    """The rows of one function of claims, by claim."""
    found = [dataclasses.asdict(claim) for claim in claims_of(HOOK, tables)]
    return pd.DataFrame(found, columns=_FIELDS).set_index("claim")


def claim(claims_of, tables, words: str = "") -> pd.Series:
    """The one row of a function of claims that has these words."""
    found = rows(claims_of, tables)
    found = found[found.index.str.contains(words, regex=False)]
    assert len(found) == 1
    return found.iloc[0]


# the rule


@each(
    "low, high, null, target, verdict",
    [
        (0.3, 0.5, 1, 0.45, REPRODUCED),
        (0.2, 0.3, 1, 0.45, REPRODUCED),  # beyond
        (0.5, 0.8, 1, 0.45, WEAKER),
        (0.7, 1.1, 1, 0.45, NO_DIFFERENCE),
        (0.4, 1.1, 1, 0.45, UNTESTED),
        (1.1, 1.2, 1, 0.45, OPPOSITE),
        (1.9, 2.1, 1, 2, REPRODUCED),
        (1.1, 1.9, 1, 2, WEAKER),
        (0.9, 1.9, 1, 2, NO_DIFFERENCE),
        (0.9, 2.1, 1, 2, UNTESTED),
        (0.5, 0.9, 1, 2, OPPOSITE),
        (0.1, 0.2, 0, np.inf, REPRODUCED),
        (-0.1, 0.2, 0, np.inf, NO_DIFFERENCE),
        (-0.2, -0.1, 0, np.inf, OPPOSITE),
        (-0.2, -0.1, 0, -np.inf, REPRODUCED),
    ],
)
def test_the_verdict_holds_the_interval_against_the_null_and_the_published_value(low, high, null, target, verdict):
    assert decide(low, high, null, target) == verdict


def test_an_effect_has_student_s_interval_over_seeds_and_a_ratio_that_of_its_logarithm():
    values = np.array([0.4, 0.5, 0.7, 0.6])
    bounds = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
    found = Claim(HOOK, "c", "p", "s", 0.0, 0.3).over_seeds(values, "why")
    assert (found.ours, found.low, found.high) == pytest.approx((0.55, *bounds))
    assert (found.n_seeds, found.verdict, found.note) == (4, REPRODUCED, "4 seeds; why")
    logs = np.log(values)
    found = Claim(HOOK, "c", "p", "s", 1.0, 0.3, ratio=True).over_seeds(values, "")
    expected = np.exp([logs.mean(), *stats.t.interval(0.95, 3, logs.mean(), stats.sem(logs))])
    assert (found.ours, found.low, found.high) == pytest.approx(tuple(expected))
    two = Claim(HOOK, "c", "p", "s", 0.0, 0.3).over_seeds(values[:2], "why")
    assert (two.verdict, two.ours, two.note) == (UNTESTED, pytest.approx(0.45), "2 seeds, an interval needs 3; why") and np.isnan(
        two.low
    )
    assert Claim(HOOK, "c", "p", "s", 0.0, 0.3).over_seeds([1.0, np.nan, 2.0], "").verdict == UNTESTED


def test_power_is_the_share_of_experiments_whose_interval_excludes_the_null():
    generator = np.random.default_rng(0)
    for n, effect in ((3, 4.0), (5, 2.0), (3, 0.0)):
        samples = generator.normal(effect, np.sqrt(n), size=(40_000, n))  # standard error 1
        reach = stats.t.ppf(0.975, n - 1) * samples.std(axis=1, ddof=1) / np.sqrt(n)
        assert chance(effect, 1.0, n) == pytest.approx((np.abs(samples.mean(axis=1)) > reach).mean(), abs=0.01)
    found = Claim(HOOK, "c", "p", "s", 0.0, 2.0).over_seeds([0.9, 1.0, 1.1], "")
    error = stats.sem([0.9, 1.0, 1.1])
    assert found.power == pytest.approx(chance(2.0, error, 3)) and chance(found.detectable, error, 3) == pytest.approx(
        0.8, abs=1e-6
    )
    assert np.isnan(Claim(HOOK, "c", "p", "s", 0.0, np.inf).over_seeds([0.9, 1.0, 1.1], "").power)


def test_a_verdict_near_its_threshold_does_not_hang_on_rounding():
    for shift in (-1e-3, 1e-3):  # an interval whose middle crosses the null
        assert Claim(HOOK, "c", "p", "s", 0.0, np.inf).over_seeds(np.array([-0.1, 0.0, 0.1]) + shift, "").verdict == NO_DIFFERENCE


# what is claimed


def set_values(tables, metric: str, value: float, **where) -> None:
    """Give `metric` this value in the rows that have the values `where`; `objective` is that of the run."""
    objective = where.pop("objective", None)

    def change(table):
        chosen = table["metric"] == metric
        for column, wanted in where.items():
            chosen &= table[column] == wanted
        if objective:
            chosen &= table["run"].str.contains(f"/{objective}-")
        assert chosen.any()
        return table.assign(value=table["value"].mask(chosen, value))

    edit(tables, "fidelity", change)


def test_without_studies_and_sweeps_they_have_no_rows(tables):
    found = all_claims(tables)["claim"]
    assert not found.str.contains("principal|UMAP|agreement|learning rate|tokens|dictionary over|fine-tuning").any()
    assert len(found) == 26 and found.is_unique


def test_explained_variance_at_the_sae_and_at_the_last_layer(tables):
    words = "variance at the SAE's layer"
    row = claim(explained_variance_claims, tables, words)
    assert (row["ours"], row["verdict"]) == (pytest.approx(0.9 + 0.2), REPRODUCED)
    for value, verdict in ((0.4, WEAKER), (0.9, NO_DIFFERENCE), (0.95, OPPOSITE)):
        set_values(tables, "explained_variance_ln_swapped", value, objective="e2e")
        assert claim(explained_variance_claims, tables, words)["verdict"] == verdict
    row = claim(explained_variance_claims, tables, "variance at the last layer")
    assert (row["ours"], row["verdict"]) == (pytest.approx(0.88 - 0.72), WEAKER)
    edit(tables, "fidelity", lambda t: t[~t["metric"].str.startswith("explained_variance_ln")])
    found = rows(explained_variance_claims, tables)
    assert (found["verdict"] == UNTESTED).all() and (found["note"] == "it was not measured").all()


def test_counts_of_alive_features_have_a_ceiling(tables):
    assert (rows(alive_claims, tables)["verdict"] != UNTESTED).all()
    set_values(tables, "alive_fraction", 0.97, objective="local")
    found = rows(alive_claims, tables)
    assert (found["verdict"] == UNTESTED).all() and found["note"].str.startswith(
        "97.0% (97.0% to 97.0% over seeds) of local's"
    ).all()
    runs = pd.read_parquet(tables / "runs.parquet").query("objective == 'local'").set_index("run")["seed"]
    for shares, untested in (([0.93, 0.94, 0.935], False), ([0.90, 0.94, 0.92], True)):  # 94.7 and 97.0 % at the upper end
        share = runs.map(dict(enumerate(shares)))
        edit(tables, "fidelity", lambda t, s=share: t.assign(
            value=t["value"].mask((t["metric"] == "alive_fraction") & t["run"].isin(s.index), t["run"].map(s))
        ))  # fmt: skip
        assert (rows(alive_claims, tables)["verdict"] == UNTESTED).all() == untested, shares


def test_the_ceiling_is_that_of_every_count_of_alive_features_and_of_every_objective(tables):
    set_values(tables, "alive_fraction", 0.97, objective="e2e")
    for claims_of, words in ((alive_claims, "alive"), (frontier_claims, "equal alive features"), (crowding_claims, "rank")):
        found = rows(claims_of, tables).filter(like=words, axis=0)
        at_ceiling = found["note"].str.startswith("97.0% (97.0% to 97.0% over seeds) of e2e's features are alive: a ceiling")
        assert list(at_ceiling) == list(found.index.str.contains("e2e over local|rank")) and at_ceiling.any(), words
        assert list(found["verdict"] == UNTESTED) == list(at_ceiling) and found["ours"].notna().all()
    along = rows(crowding_claims, tables).filter(like="along the curves", axis=0)
    left_out = ~along["note"].str.contains("alive features [+−]", regex=True)
    assert list(left_out) == [False, True, True] and (along["verdict"] == REPRODUCED).all()


def set_within(tables, change) -> None:
    """Change the mean cosines within dictionaries."""
    edit(tables, "geometry", lambda t: t.assign(value=t["value"].mask(t["comparison"] == "within", change(t))))


def test_crowding_is_compared_along_three_axes_and_between_all_objectives(tables):
    found = rows(crowding_claims, tables)
    assert list(found["verdict"]) == [REPRODUCED] * 4
    row = claim(crowding_claims, tables, "curves, local − e2e+ds")
    assert row["note"].startswith("3 seeds; at equal L0 +0.0") and "alive features +0.040" in row["note"]
    level = {"local": 0.5, "e2e_ds": 0.6, "e2e": 0.5}
    set_within(tables, lambda t: t["run_a"].str.extract(r"/(local|e2e_ds|e2e)-")[0].map(level))
    found = rows(crowding_claims, tables)
    assert list(found["verdict"]) == [OPPOSITE, REPRODUCED, NO_DIFFERENCE, UNTESTED]
    assert found["ours"].iloc[:3].tolist() == pytest.approx([-0.1, 0.1, 0.0])
    local = pd.read_parquet(tables / "runs.parquet").query("objective == 'local'")["run"]
    far = {"value": lambda t: t["value"] + 1e4 * ((t["metric"] == "alive_features") & t["run"].isin(local))}
    edit(tables, "fidelity", lambda t: t.assign(**far))
    assert "alive" not in claim(crowding_claims, tables, "curves, local − e2e+ds")["note"]


def test_an_axis_that_a_seed_lacks_is_left_out_for_all(tables):
    local = pd.read_parquet(tables / "runs.parquet").query("objective == 'local' and seed == 0")["run"]
    apart = {"value": lambda t: t["value"] + 1e4 * ((t["metric"] == "alive_features") & t["run"].isin(local))}
    edit(tables, "fidelity", lambda t: t.assign(**apart))
    row = claim(crowding_claims, tables, "curves, local − e2e+ds")
    assert row["n_seeds"] == 3 and "equal L0" in row["note"] and "alive" not in row["note"]
    edit(tables, "fidelity", lambda t: t.assign(  # on the other axes of another seed nothing is common
        value=t["value"] + 1e4 * (t["metric"].isin(["l0", "ce_increase"]) & t["run"].str.contains("/local-.*s1$"))
    ))  # fmt: skip
    row = claim(crowding_claims, tables, "curves, local − e2e+ds")
    assert row["verdict"] == UNTESTED and row["n_seeds"] == 0 and row["note"].startswith("1 seed, ")  # the one with all axes


def test_dictionaries_are_compared_within_the_most_frequent_family(tables):
    """A second family of local with fewer runs, other cosines and other costs changes nothing."""
    before = [rows(of, tables) for of in (crowding_claims, seed_claims, cross_objective_claims)]
    runs, end = pd.read_parquet(tables / "runs.parquet"), "-other"
    again = runs[(runs["objective"] == "local") & ~runs["run"].str.contains("local-c1-")]
    assert 0 < len(again) < (runs["objective"] == "local").sum()
    other = {name: again[name] + end for name in ("run", "settings", "family")}
    edit(tables, "runs", lambda t: pd.concat([t, again.assign(**other)]))
    edit(tables, "fidelity", lambda t: pd.concat([
        t, t[t["run"].isin(again["run"])].assign(run=lambda u: u["run"] + end, value=lambda u: 1.1 * u["value"])
    ]))  # fmt: skip

    def doubled(t: pd.DataFrame) -> pd.DataFrame:
        ends = {name: t[name].where(~t[name].isin(again["run"]), t[name] + end) for name in ("run_a", "run_b")}
        mine = (ends["run_a"] != t["run_a"]) | (ends["run_b"] != t["run_b"])
        return pd.concat([t, t.assign(**ends, value=0.9)[mine]])

    edit(tables, "geometry", doubled)
    for of, expected in zip((crowding_claims, seed_claims, cross_objective_claims), before, strict=True):
        pd.testing.assert_frame_equal(rows(of, tables), expected)


def test_crowding_rises_where_alive_features_fall(tables, make_tables):
    words = "rank correlation along a curve"
    row = claim(crowding_claims, tables, words)
    assert (row["ours"], row["verdict"]) == (pytest.approx(-1), REPRODUCED)
    set_within(tables, lambda t: -t["value"])
    row = claim(crowding_claims, tables, words)
    assert (row["ours"], row["verdict"]) == (pytest.approx(1), OPPOSITE)
    edit(tables, "runs", lambda t: t[t["run"].str.contains("local-c1-|local-c3-|e2e-c3-|e2e-c1.5-|e2e_ds-c5-|e2e_ds-c50-")])
    row = claim(crowding_claims, tables, words)
    assert row["verdict"] == UNTESTED and "three runs that differ in their sparsity" in row["note"]


def test_across_seeds_each_pair_counts_above_what_random_directions_have(tables):
    cosines = {"local": [0.80, 0.82, 0.84], "e2e": [0.55, 0.60, 0.56], "e2e_ds": [0.60, 0.62, 0.61]}

    def change(table):
        across = (table["comparison"] == "cross_seed") & (table["direction"] == "both")
        for objective, values in cosines.items():
            mine = across & table["run_a"].str.contains(f"/{objective}-")
            table.loc[mine, "value"] = values * (mine.sum() // 3)  # in every setting
        return table.assign(random_baseline=0.4)

    edit(tables, "geometry", change)
    row = claim(seed_claims, tables, "seeds, local")
    excess = (np.array(cosines["local"]) - 0.4) / 0.6
    expected = pair_interval(excess, [(0, 1), (0, 2), (1, 2)], ResamplingConfig(), "x")
    assert (row["ours"], row["low"], row["high"]) == pytest.approx(expected) and row["verdict"] == REPRODUCED
    assert claim(seed_claims, tables, "seeds, e2e+ds")["verdict"] == WEAKER
    edit(tables, "geometry", lambda t: t[t["comparison"] != "cross_seed"])
    assert (rows(seed_claims, tables)["note"] == "no two runs differ in their seed only").all()


def test_across_seeds_objectives_are_compared_at_equal_ce_increase(tables):
    def change(table):  # the cosine is the sum of a level and the pair's CE increase
        runs = pd.read_parquet(tables / "runs.parquet").set_index("run")
        ce = pd.read_parquet(tables / "fidelity.parquet").query("metric == 'ce_increase'").set_index("run")["value"]
        cost = (table["run_a"].map(ce) + table["run_b"].map(ce)) / 2
        level = table["run_a"].map(runs["objective"]).map({"local": 0.7, "e2e": 0.5, "e2e_ds": 0.6})
        across = (table["comparison"] == "cross_seed") & (table["direction"] == "both")
        return table.assign(value=table["value"].mask(across, level + cost))

    edit(tables, "geometry", change)
    row = claim(seed_claims, tables, "e2e − local")
    assert (row["ours"], row["verdict"], row["n_seeds"]) == (pytest.approx(-0.2), REPRODUCED, 3)
    few = {"c6": "l", "c1.5": "e"}
    edit(tables, "geometry", lambda t: t[(t["comparison"] != "cross_seed") | t["run_a"].str.contains("|".join(few))])
    row = claim(seed_claims, tables, "e2e − local")
    assert row["verdict"] == UNTESTED and "no pair of seeds in which every objective has two runs" in row["note"]


def test_nearest_cosines_to_local_are_interpolated_at_equal_ce_increase(tables):
    """Of pairs whose cosine is a plane over the two CE increases, which linear interpolation finds whole."""
    ce = pd.read_parquet(tables / "fidelity.parquet").query("metric == 'ce_increase'").set_index("run")["value"]
    level = {"e2e": 0.2, "e2e_ds": 0.5}

    def change(table):
        to_local = table["comparison"] == "to_local"
        plane = (
            table["run_a"].str.extract(r"/(local|e2e_ds|e2e)-")[0].map(level) + table["run_a"].map(ce) + table["run_b"].map(ce)
        )
        own = (table["comparison"] == "cross_seed") & (table["direction"] == "both")
        across = 0.9 + table["run_a"].map(ce) + table["run_b"].map(ce)
        return table.assign(value=table["value"].mask(to_local, plane).mask(own, across))

    edit(tables, "geometry", change)
    found = rows(cross_objective_claims, tables)
    assert list(found["verdict"]) == [REPRODUCED, REPRODUCED] and (found["n_seeds"] == 3).all()
    assert found["ours"].tolist() == pytest.approx([0.2 - 0.9, 0.3])
    runs = pd.read_parquet(tables / "runs.parquet").merge(ce.rename("ce_increase"), left_on="run", right_index=True)
    _, at, _ = at_equal_ce(runs.assign(l0=1.0), "l0", "e2e", "local")
    assert f"{0.2 + 2 * at:.3f} and {0.9 + 2 * at:.3f} at a CE increase of {at:.3f} nats" in found["note"].iloc[0]
    edit(tables, "geometry", lambda t: t.assign(value=t["value"].mask(t["comparison"] == "to_local", 0.9 + 2 * at)))
    edit(tables, "geometry", lambda t: t.assign(value=t["value"].mask(t["comparison"] == "cross_seed", 0.9 + 2 * at)))
    assert list(rows(cross_objective_claims, tables)["verdict"]) == [NO_DIFFERENCE] * 2


def test_nearest_cosines_to_local_that_were_not_measured_along_the_curves_decide_nothing(tables):
    one_setting = (pd.read_parquet(tables / "geometry.parquet")["comparison"] != "to_local").to_numpy()
    before = pd.read_parquet(tables / "geometry.parquet")
    for part in (before[one_setting], before[one_setting | before["run_b"].str.contains("local-c6-")]):
        part.to_parquet(tables / "geometry.parquet")
        found = rows(cross_objective_claims, tables)
        assert (found["verdict"] == UNTESTED).all() and found["note"].str.contains("not measured on both sides of 0.0").all()
    before[before["comparison"] != "cross_seed"].to_parquet(tables / "geometry.parquet")
    assert list(rows(cross_objective_claims, tables)["verdict"]) == [UNTESTED, REPRODUCED]


@pytest.fixture
def with_umap(tables):
    pair = (CHOSEN["e2e_ds"], CHOSEN["local"])
    points = [(HOOK, *pair, run, 0, 0.0, 0.0, "", 0.1) for run in pair]
    regions = [(HOOK, *pair, "A", pair[0], 20, 3, 0.01), (HOOK, *pair, "B", pair[1], 2, 9, 0.3)]
    regions.append((HOOK, "of", "others", "A", "of", 20, 3, 0.01))
    of_points = ["hook_point", "first", "second", "run", "feature", "x", "y", "region", "cosine_pca0"]
    of_regions = ["hook_point", "first", "second", "region", "dominated_by", "n_first", "n_second", "p_value"]
    pd.DataFrame(points, columns=of_points).to_parquet(tables / "umap.parquet")
    pd.DataFrame(regions, columns=of_regions).to_parquet(tables / "umap_regions.parquet")
    return tables


def test_regions_of_one_umap_are_counted_and_decide_nothing(with_umap):
    row = claim(umap_claims, with_umap)
    assert (row["ours"], row["verdict"]) == (1, UNTESTED)
    assert row["note"].endswith("features of e2e+ds/local: 20/3 (p = 0.01), 2/9 (p = 0.3)")
    assert "with p < 0.05 (1)" in verdicts.markdown(all_claims(with_umap))
    edit(with_umap, "umap_regions", lambda t: t.iloc[:0])
    assert claim(umap_claims, with_umap)["ours"] == 0
    edit(with_umap, "umap", lambda t: t.assign(first="another"))
    assert np.isnan(claim(umap_claims, with_umap)["ours"])


@pytest.fixture
def with_pca(tables):
    counts = {"position 0": (3050, 3150), "end of text": (3050, 3150), "other": (-20, 220)}
    histogram = [(HOOK, kind, low, high, 5) for kind, (low, high) in counts.items()]
    histogram += [(HOOK, kind, -500.0, -400.0, 0) for kind in counts]  # empty bins do not count
    correlation = [(HOOK, CHOSEN["e2e_ds"], 0, "rest", 0.3), (HOOK, CHOSEN["e2e_ds"], 0, "first", 0.99)]
    correlation += [(HOOK, CHOSEN["local"], 0, "rest", 0.98), (HOOK, CHOSEN["e2e_ds"], 1, "rest", 0.97)]
    ablation = [(HOOK, d, 9.0, kl) for d, kl in enumerate([0.01, 0.2, 0.04])]
    frames = {
        "pca_histogram": (histogram, ["hook_point", "tokens", "low", "high", "count"]),
        "pca_correlation": (correlation, ["hook_point", "run", "direction", "positions", "r"]),
        "pca_ablation": (ablation, ["hook_point", "direction", "kl", "kl_reverse"]),
    }
    for name, (rows, columns) in frames.items():
        pd.DataFrame(rows, columns=columns).to_parquet(tables / f"{name}.parquet")
    return tables


def test_principal_direction_0_as_in_the_paper(with_pca):
    found = rows(pca_claims, with_pca)
    assert list(found["verdict"]) == [WEAKER, UNTESTED, UNTESTED, REPRODUCED]  # the gap is 11.8 ranges, not 12
    assert found["ours"].tolist() == pytest.approx([(3050 - 220) / 240, 0.3, 0.99, 0.01 / 0.04])
    edit(with_pca, "pca_histogram", lambda t: t.assign(low=-t["high"], high=-t["low"]))  # on the low side
    assert claim(pca_claims, with_pca, "gap between position 0")["ours"] == pytest.approx((3050 - 220) / 240)
    edit(with_pca, "pca_ablation", lambda t: t.assign(kl_reverse=[0.05, 0.2, 0.04]))
    row = claim(pca_claims, with_pca, "resampling principal direction 0")
    assert row["verdict"] == OPPOSITE and "rank 2 of 3" in row["note"]


def test_without_an_outlier_at_position_0_nothing_about_it_can_be_tested(with_pca):
    overlapping = {"low": {3050.0: 100.0}, "high": {3150.0: 120.0}}
    edit(with_pca, "pca_histogram", lambda t: t.astype({"low": float, "high": float}).replace(overlapping))
    found = rows(pca_claims, with_pca)
    assert (found["verdict"] == UNTESTED).all() and "they overlap" in found["note"].iloc[0]
    assert found["note"].str.startswith("no outlier at position 0").all() and found["ours"].notna().all()


def test_what_another_processor_may_round_decides_nothing_about_the_language_model(with_pca):
    test = Claim(HOOK, "c", "p", "s", 1.0, -np.inf)
    assert [test.measured(value, "").verdict for value in (0.998, 0.9995, 1.0005, 1.002)] == [
        REPRODUCED, NO_DIFFERENCE, NO_DIFFERENCE, OPPOSITE,
    ]  # fmt: skip
    found = Claim(HOOK, "c", "p", "s", 0.0, 12.0).measured(11.99, "")
    assert (found.verdict, found.low, found.high) == (REPRODUCED, pytest.approx(11.978), pytest.approx(12.002))
    assert (found.interval, found.criterion) == (
        "of this sample of tokens; rounding alone", "value, but for rounding, above 0, and up to 12",
    )  # fmt: skip
    assert (
        Claim(HOOK, "c", "p", "s", 0.0, 12.0).over_seeds([1, 2, 3], "").criterion == "interval over seeds above 0, and up to 12"
    )
    for gap, verdict in ((1.0005, UNTESTED), (1.002, WEAKER)):  # the least gap of an outlier is one range of the others
        edge = pd.DataFrame({"tokens": ["other", "position 0"], "low": [0.0, 1 + gap], "high": [1.0, 2 + gap]})
        edge.assign(hook_point=HOOK, count=1).to_parquet(with_pca / "pca_histogram.parquet")
        assert rows(pca_claims, with_pca)["verdict"].iloc[0] == verdict


def test_a_study_of_principal_directions_that_cannot_tell(with_pca):
    edit(with_pca, "pca_correlation", lambda t: t.assign(r=t["r"].where(t["positions"] == "rest")))
    assert claim(pca_claims, with_pca, "direction 0, at position 0")["note"] == "the activations do not vary at position 0"
    edit(with_pca, "pca_ablation", lambda t: t[t["direction"] == 0])
    edit(with_pca, "pca_histogram", lambda t: t[t["tokens"] != "position 0"])
    edit(with_pca, "selection", lambda t: t[t["objective"] != "e2e_ds"])
    found = rows(pca_claims, with_pca)
    assert len(found) == 4 and (found["verdict"] == UNTESTED).all()
    assert found["note"].str.startswith("whether there is an outlier at position 0 was not measured").all()


@pytest.fixture
def with_sets(tmp_path):
    """Table `spliced` of one set at two sparsities and three seeds: log ΔCE is −0.1 L0 for SAEs trained alone, and 0.2 lower at equal L0
    for those trained together, whose L0 is higher by 2; their errors add up to 1.3 times the sum of each alone."""
    sets, saes = [], []
    for trained, seed, (sparsity, l0) in itertools.product(("alone", "together"), range(3), ((0.8, 20.0), (1.9, 12.0))):
        l0 += 2 * (trained == "together") + 0.1 * seed
        ce = np.exp(-0.1 * l0 - 0.2 * (trained == "together") + 0.01 * seed)
        name = (f"{HOOK} + blocks.6.hook_resid_pre", f"{trained}-{sparsity}-{seed}")
        single = ce / 1.3 if trained == "alone" else 50.0  # the latter is of values that they never saw
        sets.append((name[0], 2, name[1], trained, "e2e", "relu", sparsity, None, seed, ce, ce, single, ce / single, 1000))
        saes += [(*name, at, l0 + shift, l0, single / 2) for at, shift in zip(name[0].split(" + "), (-3, 3), strict=True)]
    for table, found in (("spliced", sets), ("spliced_saes", saes)):
        pd.DataFrame(found, columns=columns_of(table)).to_parquet(tmp_path / f"{table}.parquet")
    return tmp_path


def test_several_saes_at_once_are_compared_at_equal_sparsity_and_at_equal_l0(with_sets):
    adding, equal_sparsity, equal_l0 = (row for _, row in rows(spliced_claims, with_sets).iterrows())
    assert (adding["ours"], adding["verdict"], adding["n_seeds"]) == (pytest.approx(1.3), REPRODUCED, 3)
    assert (equal_sparsity["ours"], equal_sparsity["verdict"]) == (pytest.approx(np.exp(-0.4)), REPRODUCED)
    assert f"{1.3 * np.exp(-0.4):.2f} and 1.30 of the sum, 6 pairs of sets" in equal_sparsity["note"]
    assert (equal_l0["ours"], equal_l0["verdict"]) == (pytest.approx(np.exp(-0.2)), REPRODUCED)
    assert equal_l0["note"].endswith("at a mean L0 of 17.0 to 17.2")  # the middle of 14 to 20
    edit(with_sets, "spliced", lambda t: t.assign(ce_increase=t["ce_increase"] * np.where(t["trained"] == "together", 3, 0.5)))
    assert list(rows(spliced_claims, with_sets)["verdict"]) == [OPPOSITE] * 3
    assert spliced_claims("blocks.6.hook_resid_pre", with_sets) == []  # a set is of the hook point that it begins with


def test_sets_that_cannot_be_compared_say_why(with_sets):
    edit(with_sets, "spliced_saes", lambda t: t.assign(l0_set=t["l0_set"] + 50 * t["name"].str.startswith("together")))
    assert claim(spliced_claims, with_sets, "equal mean L0")["note"].endswith("have nothing in common in seed 0")
    edit(with_sets, "spliced", lambda t: t.assign(ce_increase=t["ce_increase"].mask(t["name"] == "alone-0.8-1", -0.1)))
    found = rows(spliced_claims, with_sets)
    assert (found["verdict"] == UNTESTED).all() and found["note"].str.contains("not defined for every seed").sum() == 2
    edit(with_sets, "spliced", lambda t: t[t["trained"] == "alone"])
    assert list(rows(spliced_claims, with_sets)["note"])[1:] == [
        "no SAEs trained together and alone have the same sparsity and seed", "no SAEs trained together and alone have the same seed",
    ]  # fmt: skip


@pytest.fixture
def with_agreement(tables):
    rows = [
        (HOOK, run, template, value + shift, 2.0, 0.5, 0.9)
        for value, run in zip((1.0, 0.9, 1.1), CHOSEN.values(), strict=True)
        for template, shift in (("simple", 0.0), ("nounpp", -0.1))
    ]
    columns = ["hook_point", "run", "template", "faithfulness", "m_model", "m_ablated", "accuracy_model"]
    pd.DataFrame(rows, columns=columns).to_parquet(tables / "agreement.parquet")
    return tables


def test_agreement_of_one_run_each_is_shown_and_decides_nothing(with_agreement):
    row = claim(agreement_claims, with_agreement)
    assert (row["ours"], row["verdict"], row["published"]) == (pytest.approx(0.95), UNTESTED, "0.95 [0.79, 1.05]")
    assert row["note"].endswith("3 runs on simple, nounpp; smallest 0.80, largest 1.10")


@each("unclear", [{"accuracy_model": 0.7}, {"m_ablated": 1.1}, {"m_model": -2.0, "m_ablated": -3.0}, {"faithfulness": np.nan}])
def test_agreement_counts_where_the_model_is_clear(with_agreement, unclear):
    before = pd.read_parquet(with_agreement / "agreement.parquet")
    nounpp = {column: lambda t, c=column: t[c].mask(t["template"] == "nounpp", unclear[c]) for column in unclear}
    edit(with_agreement, "agreement", lambda t: t.assign(**nounpp))
    row = claim(agreement_claims, with_agreement)
    assert row["ours"] == pytest.approx(1.0) and "3 runs on simple; not clear: nounpp" in row["note"]
    edit(with_agreement, "agreement", lambda t: t.assign(**unclear))
    row = claim(agreement_claims, with_agreement)
    assert np.isnan(row["ours"]) and "no clear preference" in row["note"] and "simple: right verb on" in row["note"]
    before.to_parquet(with_agreement / "agreement.parquet")


# sweeps


def rows_of(tables, words: str) -> dict[str, pd.Series]:
    """The claims on sweeps that have these words, by the objective that they begin with."""
    return {text.split(":")[0]: row for text, row in rows(sweep_claims, tables).filter(like=words, axis=0).iterrows()}


def scale(tables, metric: str, factors: dict[str, float]) -> None:
    """Multiply `metric` by a factor for the runs whose name ends so."""

    def change(table):
        factor = pd.Series(1.0, index=table.index)
        for end, value in factors.items():
            factor = factor.mask(table["run"].str.endswith(end), value)
        return table.assign(value=table["value"] * factor.where(table["metric"] == metric, 1.0))

    edit(tables, "fidelity", change)


def test_alive_features_at_higher_learning_rates(make_tables):
    tables = sweep_tables(make_tables(**SEEDS), "lr", [5e-4, 1e-3, 1e-2], ["local", "e2e"], ce_factor=1.0)
    edit(tables, "runs", lambda t: t.assign(lr=t["lr"].where(t["objective"] != "e2e_ds", 5e-4)))
    scale(tables, "alive_features", {"-lr0.001": 0.8, "-lr0.01": 0.5})
    found = rows_of(tables, "learning rate")
    assert set(found) == {"local", "e2e"}
    assert (found["local"]["ours"], found["local"]["verdict"]) == (pytest.approx(np.sqrt(0.8 * 0.5)), REPRODUCED)
    assert found["local"]["note"] == "3 seeds; 0.001, 0.01 over 0.0005"
    scale(tables, "alive_features", {"-lr0.001": 2.0, "-lr0.01": 3.0})
    assert rows_of(tables, "learning rate")["local"]["verdict"] == OPPOSITE
    edit(tables, "runs", lambda t: t[t["seed"] < 2])
    assert rows_of(tables, "learning rate")["local"]["verdict"] == UNTESTED
    edit(tables, "runs", lambda t: t.assign(lr=t["lr"].where(t["objective"] == "local", 1e-2)))
    assert "of most runs, 0.01, and one above it" in rows_of(tables, "learning rate")["local"]["note"]


def test_alive_features_grow_with_the_dictionary_and_sweeps_of_one_objective_are_named_apart(make_tables):
    tables = sweep_tables(make_tables(**SEEDS), "d_sae", [512, 1024, 2048], ["local"], ce_factor=1.0)
    scale(tables, "alive_features", {"-d_sae1024": 1.8, "-d_sae2048": 3.0})
    row = rows_of(tables, "largest dictionary")["local"]
    assert (row["ours"], row["verdict"]) == (pytest.approx(3), REPRODUCED) and row["note"].endswith("sizes 512, 1024, 2048")
    again = {"run": lambda t: t["run"] + "-b", "family_but_d_sae": "b", "group": "local-b"}
    edit(tables, "runs", lambda t: pd.concat([t, t[t["objective"] == "local"].assign(**again)]))
    edit(tables, "fidelity", lambda t: pd.concat([t, t.assign(run=t["run"] + "-b")]))
    assert set(rows_of(tables, "largest dictionary")) == {"local (local)", "local (local-b)"}
    scale(tables, "ce_increase", {"-d_sae2048": 100.0})
    assert "no common range" in rows_of(tables, "largest dictionary")["local (local)"]["note"]


TOKENS = [50, 200, 400, 800]


@pytest.fixture
def with_tokens(make_tables):
    """A sweep of training tokens of all three objectives in which 400 is the usual number, with CE increases as in the paper."""
    tables = sweep_tables(make_tables(**SEEDS), "n_tokens", TOKENS, None, ce_factor=1.0, l0_factor=1.0)
    # further runs make 400 the usual number
    others = {"run": lambda t: t["run"] + "-more", "family_but_n_tokens": "of further runs"}
    edit(tables, "runs", lambda t: pd.concat([t, t[t["n_tokens"] == 400].assign(**others)]))
    edit(tables, "fidelity", lambda t: pd.concat([t, t[t["run"].str.endswith("400")].assign(run=others["run"])]))
    scale(tables, "ce_increase", {"-n_tokens50": 1.6, "-n_tokens200": 1.05})
    edit(tables, "fidelity", lambda t: t.assign(value=t["value"].mask(by_end_to_end(t, 200), t["value"] * 1.2)))
    edit(tables, "fidelity", lambda t: t.assign(value=t["value"].mask(by_end_to_end(t, 800), t["value"] * 0.9)))
    return tables


def by_end_to_end(table: pd.DataFrame, n_tokens: int) -> pd.Series:
    of_e2e = table["run"].str.contains("/e2e") & table["run"].str.endswith(f"-n_tokens{n_tokens}")
    return of_e2e & (table["metric"] == "ce_increase")


def test_training_tokens_as_in_the_paper_and_not(with_tokens):
    few = rows_of(with_tokens, "few tokens")["local"]
    assert (few["ours"], few["verdict"], few["note"]) == (pytest.approx(1.6), REPRODUCED, "3 seeds; 5e-05M over 0.0004M tokens")
    most = rows_of(with_tokens, "most tokens")
    assert (most["local"]["ours"], most["local"]["verdict"]) == (pytest.approx(1 / 1.05), REPRODUCED)  # above 0.9
    assert (most["e2e"]["ours"], most["e2e"]["verdict"]) == (pytest.approx(0.9 / (1.05 * 1.2)), REPRODUCED)
    usual = rows_of(with_tokens, "over that with the fewest")
    assert set(usual) == {"e2e+ds"} and usual["e2e+ds"]["ours"] == pytest.approx(1 / 1.6)
    scale(with_tokens, "ce_increase", {"-n_tokens50": 0.5 / 1.6, "-n_tokens800": 0.7})
    assert rows_of(with_tokens, "few tokens")["local"]["verdict"] == OPPOSITE
    assert rows_of(with_tokens, "most tokens")["local"]["verdict"] == OPPOSITE  # below 0.9
    assert rows_of(with_tokens, "over that with the fewest")["e2e+ds"]["verdict"] == OPPOSITE


def test_a_sweep_of_tokens_that_lacks_a_number_says_which(with_tokens):
    edit(with_tokens, "runs", lambda t: t[~t["n_tokens"].isin([50, 800])])
    row = rows_of(with_tokens, "few tokens")["local"]
    assert row["verdict"] == UNTESTED and "a quarter of the usual number or less (it has 0.0002M, 0.0004M)" in row["note"]


@pytest.fixture
def with_finetuning(make_tables):
    """Fine-tuned runs on 5, 20 and 50 % of the tokens, each of local's four; half of the CE increase is left by the first."""
    tables = make_tables(objectives=("local", "e2e", "e2e_ds", "finetune"), **SEEDS)
    edit(tables, "runs", lambda t: t.assign(start_from=t["start_from"].str.replace("finetune", "local")))
    return sweep_tables(tables, "n_tokens", [50_000, 200_000, 500_000], ["finetune"], ce_factor=0.8)


def test_fine_tuning_removes_a_share_at_the_papers_budget_and_is_compared_with_more_tokens_of_local(with_finetuning):
    starts = pd.read_parquet(with_finetuning / "fidelity.parquet").query("metric == 'ce_increase'").set_index("run")["value"]
    row = claim(finetune_claims, with_finetuning)
    assert row["verdict"] == REPRODUCED and row.name.endswith("that fine-tuning removes")
    assert row["note"].endswith("9 runs of 5 % more tokens, L0 1.00 to 1.00 times the start's")
    name = f"{HOOK}/local-c6-s0"
    assert 1 - starts[f"{HOOK}/finetune-c6-s0-n_tokens50000"] / starts[name] == pytest.approx(row["ours"], rel=0.1)
    # continued runs that remove a fifth as much
    tuned = {
        "objective": "continued",
        "run": lambda t: t["run"].str.replace("/finetune", "/continued"),
        "family_but_n_tokens": "continued",
    }
    edit(with_finetuning, "runs", lambda t: pd.concat([t, t[t["objective"] == "finetune"].assign(**tuned)]))
    of_tuned = {"run": lambda t: t["run"].str.replace("/finetune", "/continued")}
    edit(with_finetuning, "fidelity", lambda t: pd.concat([t, t[t["run"].str.contains("/finetune")].assign(**of_tuned)]))
    row = claim(finetune_claims, with_finetuning, "the same, less")
    assert (row["ours"], row["verdict"]) == (pytest.approx(0), NO_DIFFERENCE)
    dearer = {
        "value": lambda t: t["value"] * np.where((t["metric"] == "ce_increase") & t["run"].str.contains("/continued"), 1.6, 1.0)
    }
    edit(with_finetuning, "fidelity", lambda t: t.assign(**dearer))
    row = claim(finetune_claims, with_finetuning, "the same, less")
    assert row["verdict"] == REPRODUCED and row["ours"] > 0.2
    edit(with_finetuning, "runs", lambda t: t[t["objective"] != "local"])
    assert "continues" in claim(finetune_claims, with_finetuning)["note"]


# the table


def test_empty_tables_of_studies_are_no_crash(with_umap, with_pca, with_agreement):
    tables = with_agreement
    for name in ("umap", "umap_regions", "pca_histogram", "pca_correlation", "pca_ablation", "agreement"):
        edit(tables, name, lambda t: t.iloc[:0])
    found = verdicts.claims(tables, ["umap", "principal_directions", "agreement"]).set_index("claim")
    found = found.filter(regex="UMAP|principal|agreement", axis=0)
    assert len(found) == 6 and (found["verdict"] == UNTESTED).all() and (found["note"] != "").all()


def test_markdown_has_the_tested_in_a_table_and_the_others_by_reason(tables):
    edit(tables, "geometry", lambda t: t[t["comparison"] != "cross_seed"])
    found = all_claims(tables)
    table, others = verdicts.markdown(found).split("\n\nCannot be tested, and why:\n\n")
    said, _, *lines = table.split("\n")
    assert said == f"Model: toy. Hook point: {HOOK}."
    assert lines[0] == "| claim | published | source | ours [interval] | power | verdict |"
    assert len(lines) - 2 == (found["verdict"] != UNTESTED).sum() == 22
    assert lines[2].startswith(
        "| CE increase of e2e over local at equal L0 | < 0.45 | Braun et al. 2024, Fig. 1 and 4 | 0.422 [0.370, 0.482] | 1.00 |"
    )
    assert others.startswith("* *no two runs differ in their seed only*: nearest cosine across seeds, local: excess")
    counts = [f"{(found['verdict'] == verdict).sum()} {verdict}" for verdict in VERDICTS]
    assert verdicts.summary(found) == f"Of 26 tests: {', '.join(counts)}." and counts[-1] == "4 cannot be tested"


def test_markdown_names_the_hook_point_where_there_are_several(make_tables):
    tables = make_tables(hook_points=("blocks.2.hook_resid_pre", HOOK), **SEEDS)
    text = verdicts.markdown(all_claims(tables))
    assert text.startswith("Model: toy.\n\n| hook point | claim |")
    assert f"\n| {HOOK} | CE increase of e2e over local" in text
    assert f"\n* {HOOK}, *it was not measured*: " in text


def _assert_shown(written: Path, found: pd.DataFrame) -> None:
    """The page has every claim with all that is known of it, the LaTeX table what a page of print has room for."""
    shown = verdicts.readable(found)
    brief = ["claim", "published", "source", "ours [interval]", "verdict"]
    lines = html_rows((written / "claims.html").read_text())
    held = [name for name in ("criterion", "power", "detectable", "note") if (shown[name] != "").any()]
    assert lines == shown[[*brief, *held]].to_numpy().tolist()  # of one model and hook point
    page = (written / "claims.html").read_text()
    assert verdicts.summary(found) in page and "Model: toy. Hook point: blocks.4.hook_resid_pre." in page
    in_print = tex_rows((written / "claims.tex").read_text())
    assert [row[-1] for row in in_print] == found["verdict"].tolist() and {len(row) for row in in_print} == {len(brief)}


def test_a_page_of_claims_names_the_hook_point_where_there_are_several(make_tables):
    hooks = [TWO_LAYERS[0], HOOK]
    shown = verdicts.display(all_claims(make_tables(hook_points=hooks, **SEEDS)))
    assert shown.cells.index.names == ["hook point", "claim"] and "power" in shown.cells.columns
    assert list(dict.fromkeys(row[0] for row in html_rows(shown.html("claims", "A", "B.")))) == hooks


def test_the_table_of_claims_is_written_and_printed_for_one_experiment_or_several(make_tables, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, settings in (("one", {}), ("two", SEEDS)):
        make_tables(f"results/{name}/tables", **settings)
        verdicts.write_claims(name, ["runs", "fidelity", "geometry", "sweeps"])
        written = tmp_path / "results" / name / "tables"
        stored, found = pd.read_parquet(written / "claims.parquet"), all_claims(written)
        pd.testing.assert_frame_equal(stored, found)
        assert list(stored.columns) == verdicts.COLUMNS and (written / "claims.csv").exists()
        assert (stored["source"] != "").all() and stored["criterion"].str.startswith("interval over seeds").all()
        _assert_shown(written, found)
    show_claims(["two"], markdown=True)
    alone = capsys.readouterr().out
    assert alone == f"{verdicts.summary(found)}\n\n{verdicts.markdown(found)}\n"
    show_claims(["two", "two"], markdown=True)
    assert capsys.readouterr().out == f"## two\n\n{alone}\n## two\n\n{alone}"
    show_claims(["two"])
    assert capsys.readouterr().out == f"{verdicts.summary(found)}\n\n{listed(found)}\n"
    with pytest.raises(UserError, match="results/three/tables/claims.parquet is missing"):
        show_claims(["three"])
    with pytest.raises(UserError, match="there is no study 'sweps'.*did you mean 'sweeps'"):
        verdicts.write_claims("one", ["sweps"])


def test_a_terminal_shows_claims_by_verdict_with_what_decided(make_tables):
    hooks = (TWO_LAYERS[0], HOOK)
    found = all_claims(papers_pattern(make_tables(hook_points=hooks, **SEEDS)))
    text = listed(found)
    assert max(map(len, text.splitlines())) <= 100
    assert text.startswith(
        f"Model: toy.\n\nreproduced, at {hooks[0]}:\n  CE increase of e2e over local at equal L0\n      published < 0.45 (Braun et al. 2024,"
    )
    words = " ".join(text.split())
    for row in verdicts.readable(found).to_dict("records"):
        tested = f"ours {row['ours [interval]']}; criterion: {row['criterion']}"
        decided = row["note"] if row["verdict"] == UNTESTED else tested
        assert f" {row['claim']} published {row['published']} ({row['source']}); {decided}" in words
    assert [line for line in text.splitlines()[1:] if line and line[0] != " "] == [
        f"{verdict}, at {hook}:"
        for verdict in verdicts.VERDICTS
        for hook in hooks
        if ((found["verdict"] == verdict) & (found["hook_point"] == hook)).any()
    ]


def test_where_no_claim_is_tested_a_sentence_says_so(tables):
    found = all_claims(tables)
    none = verdicts.markdown(found.assign(verdict=UNTESTED, note="one seed"))
    assert none.startswith(
        f"Model: toy. Hook point: {HOOK}.\n\nNo claim could be tested on these runs.\n\nCannot be tested, and why:"
    )
    assert "|" not in none and none.count("\n* ") == 1
    nothing = verdicts.of_papers(found, "Nobody 1999")
    assert verdicts.markdown(nothing) == "No claim could be tested on these runs."
    assert verdicts.summary(nothing) == "No claim is about what this experiment measures."
    assert verdicts.summary(nothing) in verdicts.display(nothing).html("claims", "A", "B.")


def test_the_claims_of_some_papers_are_those_with_their_source():
    found = pd.DataFrame({"source": [f"{BRAUN}, Fig. 3a", "Karvonen 2025", f"{GURNEE}, GPT-2 small"], "claim": list("abc")})
    assert verdicts.of_papers(found, BRAUN, KARVONEN)["claim"].tolist() == ["a", "b"]
    assert verdicts.of_papers(found, GURNEE)["claim"].tolist() == ["c"]
    assert list(verdicts.VERDICT_MEANINGS) == list(VERDICTS)
