"""Nearest cosines equal a loop over pairs, intervals cover what they should, and the right dictionaries are compared."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from saeworks.config.training import TrainingConfig
from saeworks.sae.architectures.relu import ReluSAE
from saeworks.sae.formats import save_sae
from saeworks.sae.init import initialise
from saeworks.store.seeds import derive_seed
from saeworks.studies.geometry import measure as module
from saeworks.studies.geometry.measure import (
    Dictionary,
    compare,
    linked,
    mean_interval,
    measure,
    nearest,
    nearest_cosine,
    random_baseline,
)
from saeworks.studies.geometry.settings import GeometryConfig
from saeworks.studies.place import Place
from saeworks.studies.tables import write_table

_D = 6
_CONFIG = GeometryConfig(n_resamples=100)


def _random(n: int, seed: int = 0, d: int = _D) -> torch.Tensor:
    values = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values * torch.linspace(0.1, 9, n, dtype=torch.float64)[:, None]  # norms must not matter


def _literal(a: torch.Tensor, b: torch.Tensor | None = None) -> list[float]:
    """Largest cosine of each row of `a` with the rows of `b`, or with the other rows of `a`."""
    out = []
    for i, one in enumerate(a.tolist()):
        cosines = [
            sum(x * y for x, y in zip(one, two, strict=True)) / math.hypot(*one) / math.hypot(*two)
            for j, two in enumerate((a if b is None else b).tolist())
            if b is not None or i != j
        ]
        out.append(max(cosines, default=math.nan))
    return out


def test_nearest_cosines_of_two_dictionaries_equal_a_loop_in_both_directions():
    for chunk, (n, m) in itertools.product([1, 3, 7, 100], [(7, 9), (9, 2), (1, 5), (5, 1), (1, 1)]):
        a, b = _random(n), _random(m, 1)
        forward, backward = nearest_cosine(a, b, chunk)
        assert forward.tolist() == pytest.approx(_literal(a, b), abs=1e-6)
        assert backward.tolist() == pytest.approx(_literal(b, a), abs=1e-6)


def test_nearest_cosines_have_the_precision_of_the_dictionaries():
    a, b = _random(7).double(), _random(9, 1).double()
    for cosines, expected in zip(nearest_cosine(a, b), (_literal(a, b), _literal(b, a)), strict=True):
        assert cosines.dtype == torch.float64
        assert cosines.tolist() == pytest.approx(expected, rel=0, abs=1e-14)


def test_nearest_cosines_within_a_dictionary_leave_out_the_feature_itself():
    for chunk, n in itertools.product([1, 2, 3, 100], [2, 3, 7]):
        a = _random(n)
        for cosines in nearest_cosine(a, chunk=chunk):
            assert cosines.tolist() == pytest.approx(_literal(a), abs=1e-6)
            assert cosines.max() < 0.999


def test_equal_and_opposite_features_have_cosines_of_one_and_minus_one():
    a = torch.tensor([[1.0, 0.0], [3.0, 0.0], [-2.0, 0.0]])
    assert nearest_cosine(a)[0].tolist() == [1, 1, -1]
    forward, backward = nearest_cosine(a[:1], a[2:])
    assert (forward.tolist(), backward.tolist()) == ([-1], [-1])


def test_a_feature_with_nobody_to_be_compared_with_has_no_cosine():
    nobody, one, some = _random(0), _random(1), _random(4)
    assert [t.shape for t in nearest_cosine(nobody)] == [(0,), (0,)]
    assert all(math.isnan(t.item()) for t in nearest_cosine(one))
    forward, backward = nearest_cosine(some, nobody)
    assert forward.isnan().tolist() == [True] * 4 and backward.shape == (0,)
    forward, backward = nearest_cosine(nobody, some)
    assert forward.shape == (0,) and backward.isnan().tolist() == [True] * 4


def test_the_inputs_are_not_changed():
    a, b = _random(4), _random(5, 1)
    before = a.clone(), b.clone()
    nearest_cosine(a, b)
    nearest_cosine(a)
    assert torch.equal(a, before[0]) and torch.equal(b, before[1])


def test_the_random_baseline_is_the_mean_over_random_directions():
    within = np.mean([np.mean(_literal(_normal(30, seed))) for seed in range(30)])
    assert random_baseline(30, None, _D, 0)[0] == pytest.approx(within, abs=0.06)
    forward = np.mean([np.mean(_literal(_normal(30, seed), _normal(4, 100 + seed))) for seed in range(30)])
    backward = np.mean([np.mean(_literal(_normal(4, 100 + seed), _normal(30, seed))) for seed in range(30)])
    assert backward - forward > 0.2  # the larger dictionary offers more
    ours = random_baseline(30, 4, _D, 0)
    assert ours == (pytest.approx(forward, abs=0.12), pytest.approx(backward, abs=0.2))
    assert ours[1] > ours[0] + 0.1


def _normal(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, _D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_random_baseline_depends_on_its_arguments_alone():
    torch.manual_seed(1)
    first = random_baseline(20, 10, _D, 0)
    torch.manual_seed(2)
    assert random_baseline(20, 10, _D, 0) == first
    assert random_baseline(20, 10, _D, 1) != first


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    for samples in [1, 2]:
        rng, covered, n = np.random.default_rng(0), 0, 150
        for i in range(n):
            draws = tuple(rng.normal(2.0, 1.0, 40) for _ in range(samples))
            _, low, high = mean_interval(draws, GeometryConfig(n_resamples=200, confidence=0.8), str(i))
            covered += low <= (2.0 if samples == 1 else 0.0) <= high
        assert 0.7 < covered / n < 0.9


def test_intervals_depend_on_the_sample_the_seed_and_the_purpose_alone():
    sample = np.random.default_rng(0).normal(size=30)
    first = mean_interval((sample,), _CONFIG, "a")
    np.random.seed(5)
    assert mean_interval((sample,), _CONFIG, "a") == first
    assert mean_interval((sample,), _CONFIG, "b") != first
    assert mean_interval((sample,), GeometryConfig(n_resamples=100, seed=1), "a") != first


def test_samples_without_a_distribution_have_no_interval_or_none_of_width():
    empty, one, equal, two = np.array([]), np.array([0.5]), np.full(5, 0.25), np.array([0.0, 1.0])
    assert all(map(math.isnan, mean_interval((empty,), _CONFIG, "")))
    assert all(map(math.isnan, mean_interval((equal, empty), _CONFIG, "")))
    assert str(mean_interval((one,), _CONFIG, "")) == "(0.5, nan, nan)"
    assert str(mean_interval((equal, one), _CONFIG, "")) == "(-0.25, nan, nan)"
    assert mean_interval((equal,), _CONFIG, "") == (0.25, 0.25, 0.25)
    assert mean_interval((equal, equal), _CONFIG, "") == (0, 0, 0)
    value, low, high = mean_interval((two, equal), _CONFIG, "")
    assert value == 0.25 and not low > value and not high < value


def _runs() -> pd.DataFrame:
    rows = [
        ("l-c1-s0", "local", "l1", 0),
        ("l-c1-s1", "local", "l1", 1),
        ("l-c2-s0", "local", "l2", 0),
        ("e-c1-s0", "e2e", "e1", 0),
        ("e-c1-s1", "e2e", "e1", 1),
    ]
    table = pd.DataFrame(rows, columns=["run", "objective", "settings", "seed"])
    return table.assign(
        group="g",
        family=table["objective"],
        sparsity_coeff=1.0,
        architecture="relu",
        hook_point="blocks.1.hook_resid_pre",
        d_in=_D,
    )


def _dictionaries(runs: pd.DataFrame, alive: dict[str, list[int]] | None = None) -> dict[str, Dictionary]:
    out = {}
    for i, run in enumerate(runs["run"]):
        mask = np.zeros(8, dtype=bool)
        mask[[0, 2, 3, 5, 7] if alive is None else alive[run]] = True
        out[run] = Dictionary(run, {"decoder": _random(8, 10 + i), "encoder": _random(8, 50 + i)}, mask)
    return out


@pytest.fixture(scope="module")
def compared():
    runs = _runs()
    dictionaries = _dictionaries(runs)
    return dictionaries, *compare(runs, dictionaries, _CONFIG)


def test_every_run_is_compared_with_itself_with_its_other_seeds_and_with_other_objectives(compared):
    _, table, _ = compared
    pairs = {c: sorted(set(zip(g["run_a"], g["run_b"], strict=True))) for c, g in table.groupby("comparison")}
    across = [("l-c1-s0", "e-c1-s0"), ("l-c1-s1", "e-c1-s1"), ("l-c2-s0", "e-c1-s0")]
    assert pairs.pop("to_local", []) == []  # no two runs of e2e make a curve
    assert pairs == {
        "within": sorted((run, run) for run in _runs()["run"]),
        "cross_seed": [("e-c1-s0", "e-c1-s1"), ("l-c1-s0", "l-c1-s1")],
        "cross_objective": across,
        "within_difference": across,
    }
    directions = {c: sorted(set(g["direction"])) for c, g in table.groupby("comparison")}
    assert directions == {
        "within": ["a_to_a"],
        "cross_seed": ["a_to_b", "b_to_a", "both"],
        "cross_objective": ["a_to_b", "b_to_a", "both"],
        "within_difference": ["a_to_a"],
    }
    assert len(table) == 4 * (5 + 3 * 2 + 3 * 3 + 3)  # for decoder and encoder, alive and all
    assert not table.duplicated(["comparison", "run_a", "run_b", "directions", "features", "direction"]).any()
    assert set(table["resampled"]) == {"clusters"}
    assert set(table["n_resamples"]) == {100}


def test_every_value_equals_the_mean_of_literal_cosines(compared):
    dictionaries, table, _ = compared
    for row in table.itertuples():
        a, b = (dictionaries[run].directions[row.directions] for run in (row.run_a, row.run_b))
        if row.features == "alive":
            a, b = a[[0, 2, 3, 5, 7]], b[[0, 2, 3, 5, 7]]
        assert (row.n_a, row.n_b) == (len(a), len(b))
        means = {
            "within": lambda a, b: {"a_to_a": np.mean(_literal(a))},
            "within_difference": lambda a, b: {"a_to_a": np.mean(_literal(a)) - np.mean(_literal(b))},
        }.get(
            row.comparison,
            lambda a, b: {
                "a_to_b": np.mean(_literal(a, b)),
                "b_to_a": np.mean(_literal(b, a)),
                "both": (np.mean(_literal(a, b)) + np.mean(_literal(b, a))) / 2,
            },
        )(a, b)
        assert row.value == pytest.approx(means[row.direction], abs=1e-6)
        assert np.isnan(row.ci_low) or row.ci_low <= row.value <= row.ci_high and row.ci_low < row.ci_high
    assert table["ci_low"].notna().mean() > 0.8  # a few of the tiny dictionaries are one cluster


def test_along_the_curves_every_run_is_compared_with_local_of_its_seed():
    rows = [("l1", "local", 0), ("l2", "local", 0), ("l3", "local", 1), ("e1", "e2e", 0), ("e2", "e2e", 0), ("e3", "e2e", 1)]
    runs = pd.DataFrame(rows, columns=["run", "objective", "seed"])
    runs = runs.assign(settings=runs["run"], family=runs["objective"], architecture="relu", d_in=_D)
    dictionaries = _dictionaries(runs)
    table, _ = compare(runs, dictionaries, _CONFIG, selected=set())
    found = table[table["comparison"] == "to_local"].set_index(["run_a", "run_b"])
    assert list(found.index) == [("e1", "l1"), ("e1", "l2"), ("e2", "l1"), ("e2", "l2")]  # seed 1 has one run of each
    for (a, b), row in found.iterrows():
        literal = np.mean(_literal(*(dictionaries[run].rows("decoder", "alive") for run in (a, b))))
        assert row["value"] == pytest.approx(literal, abs=1e-6) and np.isnan(row["ci_low"]) and row["resampled"] == "none"
    other = runs.assign(architecture=["relu"] * 3 + ["topk"] * 3)
    assert "to_local" not in set(compare(other, dictionaries, _CONFIG, selected=set())[0]["comparison"])


def test_nearest_neighbours_link_clusters_of_features():
    a, b = _random(40, 3), _random(25, 4)
    found = nearest(a, b, chunk=7)
    unit = [torch.nn.functional.normalize(t, dim=1) for t in (a, b)]
    cosines = unit[0] @ unit[1].T
    assert (
        found.of_forward.tolist() == cosines.argmax(dim=1).tolist()
        and found.of_backward.tolist() == cosines.argmax(dim=0).tolist()
    )
    of_own = nearest(a, chunk=9).of_forward.numpy()
    cluster = linked(of_own)
    reached = [{i} for i in range(40)]  # literally: what one reaches by links in either direction
    for _ in range(40):
        reached = [set.union(r, {int(of_own[i]) for i in r}, {j for j in range(40) if of_own[j] in r}) for r in reached]
    assert all((cluster[i] == cluster[j]) == (j in reached[i]) for i in range(40) for j in range(40))
    assert 1 < len(set(cluster)) <= 20


def test_an_interval_over_clusters_resamples_and_leaves_out_whole_clusters():
    """A loop over resamples with the same draws, and a jackknife that leaves out one cluster at a time."""
    rng = np.random.default_rng(0)
    samples, clusters = (rng.gamma(1.0, size=60), rng.gamma(2.0, size=40)), (np.arange(60) // 4, rng.integers(12, size=40))
    config = GeometryConfig(n_resamples=300, confidence=0.9)
    for number in (1, 2):
        value, low, high = mean_interval(samples[:number], config, "x", clusters[:number])
        generator = np.random.default_rng(derive_seed("bootstrap", config.seed, "x"))
        resampled, influence = np.zeros(300), []
        for sign, sample, labels in zip((1, -1), samples[:number], clusters, strict=False):
            members = [sample[labels == label] for label in np.unique(labels)]
            drawn = generator.integers(len(members), size=(300, len(members)))
            resampled += sign * np.array([np.concatenate([members[i] for i in row]).mean() for row in drawn])
            influence += [sign * sum(m - sample.mean()) / len(sample) for m in members]
        assert value == pytest.approx(samples[0].mean() - (samples[1].mean() if number == 2 else 0))
        acceleration = sum(c**3 for c in influence) / 6 / sum(c**2 for c in influence) ** 1.5
        bias = stats.norm.ppf(np.clip((resampled < value).mean(), 1 / 600, 1 - 1 / 600))
        levels = [stats.norm.cdf(bias + (bias + z) / (1 - acceleration * (bias + z))) for z in stats.norm.ppf([0.05, 0.95])]
        assert (low, high) == pytest.approx(tuple(np.quantile(resampled, levels)))
    alone = (np.arange(60),)
    assert mean_interval(samples[:1], config, "x", alone) == pytest.approx(mean_interval(samples[:1], config, "x"))
    assert np.isnan(mean_interval(samples[:1], config, "x", (np.zeros(60, int),))[1:]).all()
    assert mean_interval((np.full(4, 0.25),), config, "x", (np.array([0, 0, 1, 1]),)) == (0.25, 0.25, 0.25)


@pytest.mark.slow
def test_intervals_within_dictionaries_of_split_features_cover_what_they_claim_by_clusters_alone():
    """Each feature has a copy nearby, its nearest neighbour: half as many cosines are independent as there are features."""
    config, covered, n = GeometryConfig(n_resamples=400, confidence=0.9), {"clusters": 0, "features": 0}, 600

    def dictionary(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        one, aside = (torch.nn.functional.normalize(torch.randn(40, 64, generator=generator), dim=1) for _ in range(2))
        return torch.cat([one, one + torch.rand(40, 1, generator=generator) * aside])

    truth = np.mean([nearest_cosine(dictionary(seed))[0].mean().item() for seed in range(10_000, 12_000)])
    for seed in range(n):
        found = nearest(dictionary(seed))
        cosines, clusters = found.forward.double().numpy(), linked(found.of_forward.numpy())
        for name, of in (("clusters", (clusters,)), ("features", None)):
            _, low, high = mean_interval((cosines,), config, str(seed), of)
            covered[name] += low <= truth <= high
    assert covered["clusters"] / n == pytest.approx(0.9, abs=0.04) and covered["features"] / n < 0.8


def test_the_interval_of_both_directions_is_as_narrow_as_that_of_a_mean(compared):
    _, table, _ = compared
    cross = table[table["comparison"] == "cross_seed"]
    width = (cross["ci_high"] - cross["ci_low"]).groupby(cross["direction"]).mean()
    assert 0.5 < width["both"] / (width["a_to_b"] ** 2 + width["b_to_a"] ** 2) ** 0.5 * 2 < 1.5


def test_random_baselines_are_those_of_the_same_shapes(compared):
    _, table, _ = compared
    for row in table.itertuples():
        if row.comparison == "within":
            expected = random_baseline(row.n_a, None, _D, 0)[0]
        elif row.comparison == "within_difference":
            expected = 0.0
        else:
            forward, backward = random_baseline(row.n_a, row.n_b, _D, 0)
            expected = {"a_to_b": forward, "b_to_a": backward, "both": (forward + backward) / 2}[row.direction]
        assert row.random_baseline == expected


def test_the_cosines_of_alive_decoder_features_are_kept_one_by_one(compared):
    dictionaries, _, nearest = compared
    assert sorted(set(nearest["comparison"])) == ["cross_seed", "within"]
    for (comparison, run_a, run_b, direction), group in nearest.groupby(["comparison", "run_a", "run_b", "direction"]):
        a, b = (dictionaries[run].rows("decoder", "alive") for run in (run_a, run_b))
        assert group["feature"].tolist() == [0, 2, 3, 5, 7]
        expected = _literal(a) if comparison == "within" else _literal(a, b) if direction == "a_to_b" else _literal(b, a)
        assert group["cosine"].tolist() == pytest.approx(expected, abs=1e-6)
    assert len(nearest) == 5 * (5 + 2 * 2)


def test_across_objectives_cosines_are_kept_of_pairs_that_are_both_selected():
    runs = _runs()
    dictionaries = _dictionaries(runs)
    _, nearest = compare(runs, dictionaries, _CONFIG, selected={"l-c2-s0", "e-c1-s0", "l-c1-s1"})
    across = nearest[nearest["comparison"] == "cross_objective"]
    assert set(zip(across["run_a"], across["run_b"], strict=True)) == {("l-c2-s0", "e-c1-s0")}
    a, b = (dictionaries[run].rows("decoder", "alive") for run in ("l-c2-s0", "e-c1-s0"))
    for direction, expected in (("a_to_b", _literal(a, b)), ("b_to_a", _literal(b, a))):
        found = across[across["direction"] == direction]
        assert found["feature"].tolist() == [0, 2, 3, 5, 7]
        assert found["cosine"].tolist() == pytest.approx(expected, abs=1e-6)


def test_dictionaries_with_no_or_one_living_feature_have_no_value_where_there_is_none():
    runs = _runs().iloc[[0, 1, 3]]
    alive = {"l-c1-s0": [], "l-c1-s1": [3], "e-c1-s0": [1, 4, 6]}
    table, nearest = compare(runs, _dictionaries(runs, alive), _CONFIG)
    living = table[(table["features"] == "alive") & (table["directions"] == "decoder")]
    within = living[living["comparison"] == "within"].set_index("run_a")
    assert within["value"].isna().to_dict() == {"l-c1-s0": True, "l-c1-s1": True, "e-c1-s0": False}
    assert within["random_baseline"].isna().to_dict() == {"l-c1-s0": True, "l-c1-s1": True, "e-c1-s0": False}
    assert within["n_a"].to_dict() == {"l-c1-s0": 0, "l-c1-s1": 1, "e-c1-s0": 3}
    across = living[living["comparison"].isin(["cross_seed", "cross_objective"])]
    assert len(across) == 6 and across["value"].isna().all()
    assert set(nearest["run_a"]) == {"e-c1-s0"}
    assert table[table["features"] == "all"]["value"].notna().all()


def test_objectives_are_compared_between_runs_of_one_architecture():
    runs = _runs().assign(architecture=["topk", "relu", "topk", "relu", "relu"])
    assert [pair for pair in module._pairs(runs) if pair[0] == "cross_objective"] == [("cross_objective", "l-c1-s1", "e-c1-s1")]


def test_a_single_run_is_compared_with_itself_alone():
    runs = _runs().iloc[:1]
    table, _ = compare(runs, _dictionaries(runs), _CONFIG)
    assert set(table["comparison"]) == {"within"} and len(table) == 4


def test_the_same_run_under_two_names_is_no_pair_of_seeds():
    runs = _runs().iloc[[0, 0]].assign(run=["a", "b"])
    assert module._pairs(runs) == []


def test_the_stage_reads_runs_and_their_living_features_from_disk(tmp_path):
    runs = _runs().iloc[[0, 1, 3]]
    other = runs.assign(run=["x", "y", "z"], hook_point="blocks.2.hook_resid_pre")
    write_table(pd.concat([runs, other]), tmp_path / "tables" / "runs.parquet", csv=False)
    features, saes = [], {}
    for i, run in enumerate(runs["run"]):
        saes[run] = ReluSAE(_D, 9)
        initialise(saes[run], TrainingConfig(), torch.Generator().manual_seed(i))
        (tmp_path / "saes" / run).mkdir(parents=True)
        save_sae(saes[run], tmp_path / "saes" / run, {})
        features.append(pd.DataFrame({"run": run, "feature": range(9), "alive": [f % (i + 2) > 0 for f in range(9)]}))
    shuffled = pd.concat(features).sample(frac=1, random_state=0)
    write_table(shuffled, tmp_path / "tables" / "features.parquet", csv=False)
    criteria = ["similar_ce", "similar_ce", "similar_l0", "similar_l0"]
    chosen = ["l-c1-s0", "e-c1-s0", "l-c1-s1", "e-c1-s0"]
    selection = pd.DataFrame({"criterion": criteria, "hook_point": "blocks.1.hook_resid_pre", "run": chosen})
    write_table(selection, tmp_path / "tables" / "selection.parquet", csv=False)
    found = measure(Place(tmp_path, "blocks.1.hook_resid_pre"), _CONFIG)
    table, nearest = found["geometry"], found["nearest"]
    assert set(table["run_a"]) == set(runs["run"])
    rows = table.query("comparison == 'cross_seed' and features == 'alive' and direction == 'a_to_b'").set_index("directions")
    alive = [[f for f in range(9) if f % (i + 2) > 0] for i in range(3)]
    decoders = [saes[run].dictionary().detach()[a] for run, a in zip(runs["run"][:2], alive[:2], strict=True)]
    encoders = [saes[run].W_enc.detach().T[a] for run, a in zip(runs["run"][:2], alive[:2], strict=True)]
    assert rows.loc["decoder", "value"] == pytest.approx(np.mean(_literal(*decoders)), abs=1e-5)
    assert rows.loc["encoder", "value"] == pytest.approx(np.mean(_literal(*encoders)), abs=1e-5)
    assert nearest[nearest["comparison"] == "within"].groupby("run_a")["feature"].apply(list).to_dict() == dict(
        zip(runs["run"], alive, strict=True)
    )
    across = nearest[nearest["comparison"] == "cross_objective"]
    assert set(zip(across["run_a"], across["run_b"], strict=True)) == {("l-c1-s0", "e-c1-s0")}


def test_the_interval_is_scipy_s_bca_up_to_resampling_noise():
    for sizes in [(400,), (300, 500)]:
        generator = np.random.default_rng(1)
        samples = tuple(generator.gamma(0.7, size=size) for size in sizes)  # skewed, so that bias and acceleration matter
        config = GeometryConfig(n_resamples=20_000, confidence=0.9)
        value, low, high = mean_interval(samples, config, "test")

        def statistic(*parts, axis=-1):
            return parts[0].mean(axis=axis) - (parts[1].mean(axis=axis) if len(parts) == 2 else 0.0)

        expected = stats.bootstrap(
            samples, statistic, n_resamples=20_000, confidence_level=0.9, method="BCa", rng=np.random.default_rng(2)
        ).confidence_interval
        width = expected.high - expected.low
        assert value == pytest.approx(statistic(*samples))
        assert low == pytest.approx(expected.low, abs=0.02 * width)
        assert high == pytest.approx(expected.high, abs=0.02 * width)
