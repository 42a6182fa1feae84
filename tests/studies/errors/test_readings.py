"""What figures and claims make of the tables: ratios with intervals, z scores, correlations; verdicts follow the numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from tests.each import each
from tests.studies.drawing import TWO_LAYERS, edit, texts
from tests.studies.made_up import HOOK, every_table

from saeworks.config.resampling import ResamplingConfig
from saeworks.studies import figures
from saeworks.studies.claim import NO_DIFFERENCE, OPPOSITE, REPRODUCED, UNTESTED, WEAKER, Claim
from saeworks.studies.draw import displayed, drawn
from saeworks.studies.errors.claims import claims
from saeworks.studies.errors.correlates import gaps, of_other_hook_points, with_own
from saeworks.studies.errors.draws import z_scores
from saeworks.studies.errors.frame import measured_runs, run_ratio, seed_ratio, short_name, shown_run, tokens_of, visible
from saeworks.studies.resampling import ratio_interval

_CONFIG = ResamplingConfig(n_resamples=2000)


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    """Made-up tables of two layers and three seeds (read only)."""
    return every_table(tmp_path_factory.mktemp("made_up"), hook_points=TWO_LAYERS, seeds=(0, 1, 2))


@pytest.fixture
def tables(tmp_path):
    """Made-up tables of one hook point."""
    return every_table(tmp_path / "tables")


@pytest.fixture
def three_seeds(tmp_path):
    """Made-up tables of one hook point and three seeds."""
    return every_table(tmp_path / "three", seeds=(0, 1, 2))


def test_a_ratio_of_sums_is_covered_by_its_interval_over_clusters_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(150):
        level = rng.lognormal(0, 0.5, 40)  # rows differ in both sums alike
        above, below = 2 * level * rng.lognormal(0, 0.4, 40), level * rng.lognormal(0, 0.4, 40)
        value, low, high = ratio_interval(above, below, ResamplingConfig(n_resamples=300), f"{trial}")
        assert value == above.sum() / below.sum() and low < value < high
        covered += low <= 2 <= high
    assert 0.87 <= covered / 150 <= 0.99


@each(
    "above, below, expected",
    [
        ([], [], (np.nan, np.nan, np.nan)),
        ([3.0], [2.0], (1.5, np.nan, np.nan)),
        ([2.0, 4.0], [1.0, 2.0], (2.0, 2.0, 2.0)),
        ([2.0, 4.0], [0.0, 0.0], (np.nan, np.nan, np.nan)),
    ],
)
def test_ratios_without_an_interval(above, below, expected):
    np.testing.assert_array_equal(ratio_interval(np.array(above), np.array(below), _CONFIG, "x"), expected)


def test_a_run_s_ratio_is_that_of_its_means_and_leaves_out_what_was_not_measured(made_up):
    runs = measured_runs(made_up)
    assert list(dict.fromkeys(runs["objective"])) == ["local", "e2e", "e2e_ds"] and len(runs) == 6
    frame = tokens_of(made_up, runs, ["kl_sae", "kl_random", "ce_sae", "ce_random"], "rest")
    assert frame["position"].min() == 1
    for run in runs["run"]:
        here = frame[frame["run"] == run]
        for quantity in ("kl", "ce"):
            value, low, high = run_ratio(frame, run, f"{quantity}_sae", f"{quantity}_random")
            assert value == pytest.approx(here[f"{quantity}_sae"].mean() / here[f"{quantity}_random"].mean())
            assert low < value < high
    every = measured_runs(made_up, chosen=False)
    tokens = tokens_of(made_up, every, ["kl_sae", "kl_random"])
    first = shown_run(runs)
    assert first["objective"] == "local" and first["hook_point"] == TWO_LAYERS[0]
    *interval, n = seed_ratio(tokens, every, first["run"], "kl_sae", "kl_random")
    same = every[(every["settings"] == first["settings"]) & (every["hook_point"] == first["hook_point"])]
    values = [run_ratio(tokens, run, "kl_sae", "kl_random")[0] for run in same["run"]]
    assert n == len(values) == 3 and interval[0] == pytest.approx(stats.gmean(values))
    student = stats.t.interval(0.95, 2, np.log(values).mean(), stats.sem(np.log(values)))
    np.testing.assert_allclose(interval[1:], np.exp(student))


def test_z_scores_are_standard_deviations_of_the_directions():
    draws = pd.DataFrame(
        {"run": "a", "row": [0] * 5 + [1] * 3, "draw": [-1, 0, 1, 2, 3, -1, 0, 1], "kl": [9.0, 1, 2, 3, 6, 1, 2, 2]}
    )
    found = z_scores(draws)
    assert found.loc[("a", 0), "z"] == pytest.approx((9 - 3) / np.std([1, 2, 3, 6], ddof=1))
    assert np.isnan(found.loc[("a", 1), "z"]) and found.loc[("a", 1), "sae"] == 1


@each("method", ["spearman", "pearson"])
def test_correlates_are_those_of_scipy(made_up, method):
    runs = measured_runs(made_up)
    frame = tokens_of(made_up, runs, ["kl_sae", "kl_random", "cosine", "l0", "ce_clean", "input_norm"], "rest")
    own, matrix = with_own(frame, method), gaps(frame).corr(method)
    correlation = {"spearman": stats.spearmanr, "pearson": stats.pearsonr}[method]
    a, b = runs.loc[runs["objective"] == "local", "run"]
    gap = {run: (here["kl_sae"] - here["kl_random"]).to_numpy() for run, here in frame.groupby("run")}
    cosine = frame.loc[frame["run"] == a, "cosine"].to_numpy()
    assert own.loc[a, "cosine"] == pytest.approx(correlation(gap[a], cosine).statistic)
    assert matrix.loc[a, b] == pytest.approx(correlation(gap[a], gap[b]).statistic)
    assert of_other_hook_points(runs, matrix)[a] == pytest.approx(matrix.loc[a, b])
    constant = with_own(frame.assign(l0=3), method)
    assert constant["l0"].isna().all() and constant["cosine"].notna().all()


_LOCAL, _E2E = "KL of local's output over ε-random", "KL of the output of e2e over ε-random"


def _claims(tables, hook_point: str = HOOK) -> dict[str, Claim]:
    return {claim.claim: claim for claim in claims(hook_point, tables)}


@each(
    "objective, name, factor, verdict",
    [
        ("local", _LOCAL, 2.4, REPRODUCED),
        ("local", _LOCAL, 1.3, WEAKER),
        ("local", _LOCAL, 1.0, NO_DIFFERENCE),
        ("local", _LOCAL, 0.6, OPPOSITE),
        ("e2e", _E2E, 0.02, REPRODUCED),
        ("e2e", _E2E, 0.5, WEAKER),
        ("e2e", _E2E, 2.0, OPPOSITE),
    ],
)
def test_verdicts_follow_the_ratios_over_seeds(three_seeds, objective, name, factor, verdict):
    rng = np.random.default_rng(0)

    def changed(t: pd.DataFrame) -> pd.DataFrame:
        own = t["run"].str.contains(f"/{objective}-")
        of_seed = t["run"].map({run: rng.lognormal(0, 0.03) for run in t["run"].unique()})
        return t.assign(kl_sae=t["kl_sae"].where(~own, t["kl_random"] * factor * of_seed))

    edit(three_seeds, "errors", changed)
    claim = _claims(three_seeds)[name]
    assert claim.verdict == verdict and claim.n_seeds == 3 and claim.ours == pytest.approx(factor, rel=0.1)
    assert "over rows of tokens" in claim.note


def test_claims_that_the_tables_cannot_test_say_why(tables):
    found = _claims(tables)
    assert {claim.verdict for claim in found.values()} == {UNTESTED}  # two seeds
    assert found[_LOCAL].note.startswith("2 seeds, an interval needs 3; first seed: ") and found[_LOCAL].ours > 1
    across = next(claim for name, claim in found.items() if "other hook points" in name)
    assert across.note == "there are no such runs at several hook points"
    edit(tables, "errors", lambda t: t[~t["run"].str.contains("/local")])
    left = _claims(tables)
    assert left[_LOCAL].note == "no local run was chosen for similar CE increase"
    assert left[_E2E].ours < 1


def test_across_layers_the_gap_elsewhere_is_compared_with_the_token_s_own_values(made_up):
    claim = next(c for name, c in _claims(made_up, TWO_LAYERS[0]).items() if "other hook points" in name)
    assert claim.verdict == REPRODUCED and claim.ours > 0.2  # the made-up tokens are hard at both


def test_the_share_of_far_tokens_is_that_of_their_z_scores(three_seeds):
    name = next(name for name in _claims(three_seeds) if name.startswith("share of tokens"))
    draws = pd.read_parquet(three_seeds / "errors_draws.parquet")
    draws = draws[draws["run"].str.contains(f"{HOOK}/local-")]
    far = {False: [], True: []}  # of random directions, of the SAE
    for _, token in draws.groupby(["run", "row"]):
        random = token.loc[token["draw"] >= 0, "kl"]
        z = (token["kl"] - random.mean()) / random.std()
        for of_sae in far:
            far[of_sae].append((z[(token["draw"] < 0) == of_sae] > 3).mean())
    sae, random = np.mean(far[True]), np.mean(far[False])
    claim = _claims(three_seeds)[name]
    assert claim.ours == pytest.approx(sae - random) and 0 < random < sae < 1
    assert claim.note.startswith(f"3 seeds; {sae:.3f} and {random:.3f}; 6 tokens of each")


def test_an_sae_that_is_as_far_as_random_directions_are_is_no_different(three_seeds):
    name = next(name for name in _claims(three_seeds) if name.startswith("share of tokens"))
    rng, of_row = np.random.default_rng(1), ["run", "row"]

    def skewed(draws: pd.DataFrame) -> pd.DataFrame:
        """One more direction for each of many tokens stands for the SAE."""
        many = pd.concat([draws[["hook_point", "run", "position"]].drop_duplicates().assign(row=row) for row in range(200)])
        each = many.merge(pd.DataFrame({"draw": np.arange(-1, 40)}), how="cross").sort_values([*of_row, "draw"])
        return each.assign(kl=rng.lognormal(0, 1, len(each)))

    edit(three_seeds, "errors_draws", skewed)
    claim = _claims(three_seeds)[name]
    beyond = (z_scores(pd.read_parquet(three_seeds / "errors_draws.parquet"))["z"] > 3).mean()
    assert beyond > 0.01 and claim.verdict == NO_DIFFERENCE  # though random directions exceed three standard deviations


def test_errors_and_random_directions_are_compared_at_one_length(three_seeds):
    name = next(name for name in _claims(three_seeds) if "rescaled to one length" in name)
    length = np.array([0.5, 2.5, 5.0])  # of the made-up sweep; local's mean error lies between 1 and 2, nearest to 2.5
    mean = pd.read_parquet(three_seeds / "errors.parquet").query("position > 0 and run.str.contains('/local-')")["error"].mean()
    assert length[np.abs(np.log(length / mean)).argmin()] == 2.5
    assert (_claims(three_seeds)[name].verdict, _claims(three_seeds)[name].ours) == (NO_DIFFERENCE, pytest.approx(1))
    for at, verdict in ((2.5, REPRODUCED), (5.0, NO_DIFFERENCE)):

        def larger(t: pd.DataFrame, at=at) -> pd.DataFrame:
            local = t["run"].str.contains("/local-") & (t["length"] == at)
            return t.assign(kl=t["kl"] * np.where(local, 1.5 + 0.1 * t["run"].str[-1:].isin(["1"]), 1.0))

        before = pd.read_parquet(three_seeds / "errors_sweep.parquet")
        edit(three_seeds, "errors_sweep", larger)
        assert _claims(three_seeds)[name].verdict == verdict
        before.to_parquet(three_seeds / "errors_sweep.parquet")
    edit(three_seeds, "errors_sweep", lambda t: t[t["direction"] != "error"])
    assert _claims(three_seeds)[name].note == "no lengths were tried"


def test_a_published_range_around_one_names_no_side(tmp_path):
    hook = "blocks.4.attn.hook_z"
    tables = every_table(tmp_path / "z", hook_points=(hook,), seeds=(0, 1, 2))
    claim = _claims(tables, hook)[_LOCAL]
    assert claim.verdict == UNTESTED and claim.ours > 1.5 and "the published range holds 1" in claim.note


def test_a_table_of_chosen_runs_gives_the_interval_over_seeds_from_three_on(made_up, tables):
    style = figures()["errors_table"][1]
    three, two = (displayed("errors_table", folder, style()).cells for folder in (made_up, tables))
    assert three["over seeds"].str.contains(r"\[.*\] \(3\)").sum() == 6
    assert (two["over seeds"] == "–").all()
    assert displayed("errors_table", tables, style()).cells.loc[(HOOK, "local"), "ratio"] != "–"


def test_names_in_figures():
    assert [short_name(f"blocks.3.{place}") for place in ("hook_resid_pre", "hook_mlp_out", "attn.hook_z")] == [
        "3",
        "3 mlp",
        "3 z",
    ]
    assert visible(" a\n\x07") == "·a⏎?"


def test_the_figure_of_many_draws_gives_the_z_of_each_token(made_up):
    words = texts(drawn("errors_draws", made_up, figures()["errors_draws"][1](tokens=4)))
    runs = measured_runs(made_up, "errors_draws")
    z = z_scores(tokens_of(made_up, runs, ["draw", "kl"], table="errors_draws")).loc[shown_run(runs)["run"], "z"]
    assert all(f"row {row}: z = {z[row]:.1f}" in words for row in range(4)) and "row 4:" not in words


def test_where_no_part_of_the_errors_was_measured_a_figure_says_so(tables):
    parts = (
        "on_directions",
        "off_directions",
        "on_unread",
        "off_unread",
        "norm_only",
        "norm_corrected",
        "layer_norm",
        "after_first",
    )
    edit(tables, "errors", lambda t: t.assign(**{f"kl_{name}": np.nan for name in parts}))
    assert "No part of the errors was measured" in texts(drawn("errors_split", tables, figures()["errors_split"][1]()))
