"""Tables of one-to-one matching: the right pairs, literal values, baselines, and means over pairs of seeds."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch

from saeworks.studies.geometry.measure import Dictionary, compare, match
from saeworks.studies.geometry.settings import GeometryConfig

_D, _N = 6, 6
_CONFIG = GeometryConfig(n_resamples=100)
_RUNS = [("l-s1", "local", "l1", 1), ("l-s0", "local", "l1", 0), ("l-s2", "local", "l1", 2), ("l-c2", "local", "l2", 0)]
_RUNS += [("e-s0", "e2e", "e1", 0), ("e-s1", "e2e", "e1", 1)]
_ALIVE = {run: [True, True, i % 2 == 0, True, True, i % 3 > 0] for i, (run, *_) in enumerate(_RUNS)}


def _runs() -> pd.DataFrame:
    table = pd.DataFrame(_RUNS, columns=["run", "objective", "settings", "seed"])
    return table.assign(family=table["objective"], architecture="relu", hook_point="blocks.1.hook_resid_pre", d_in=_D)


def _dictionaries(runs: pd.DataFrame) -> dict[str, Dictionary]:
    base = torch.randn(_N, _D, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    out = {}
    for i, run in enumerate(runs["run"]):
        generator = torch.Generator().manual_seed(i)
        order = torch.randperm(_N, generator=generator)
        decoder, encoder = (
            (base + scale * torch.randn(_N, _D, generator=generator, dtype=torch.float64))[order] for scale in (0.2, 0.4)
        )
        out[run] = Dictionary(run, {"decoder": decoder, "encoder": encoder}, np.array(_ALIVE[run]))
    return out


@pytest.fixture(scope="module")
def made():
    runs = _runs()
    dictionaries = _dictionaries(runs)
    table, _ = compare(runs, dictionaries, _CONFIG)
    return dictionaries, table, *match(runs, dictionaries, table, _CONFIG, selected={"l-s0", "e-s0"})


def _best(a: torch.Tensor, b: torch.Tensor) -> tuple[list[int], list[float]]:
    """Partner in b of each row of a, or −1, and cosines of the best permutation."""
    cosines = torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=-1).numpy()
    small, wide = (cosines, False) if len(a) <= len(b) else (cosines.T, True)
    chosen = max(
        itertools.permutations(range(small.shape[1]), len(small)), key=lambda p: sum(small[i, j] for i, j in enumerate(p))
    )
    partner = [chosen.index(i) if i in chosen else -1 for i in range(len(a))] if wide else list(chosen)
    return partner, [cosines[i, j] if j >= 0 else math.nan for i, j in enumerate(partner)]


def test_matched_are_seeds_and_all_seeds_of_the_selected_settings(made):
    *_, matching, _ = made
    pairs = matching[matching["resampled"] == "features"]
    found = {c: sorted(set(zip(g["run_a"], g["run_b"], strict=True))) for c, g in pairs.groupby("comparison")}
    assert found == {
        "cross_seed": [("e-s0", "e-s1"), ("l-s0", "l-s1"), ("l-s0", "l-s2"), ("l-s1", "l-s2")],
        "cross_objective": [("l-s0", "e-s0"), ("l-s1", "e-s1")],  # of l2 no run is selected
    }
    assert len(pairs) == 6 * 2 * 3
    keys = ["comparison", "run_a", "run_b", "directions", "features", "metric", "resampled"]
    assert not matching.duplicated(keys).any()


def test_values_equal_those_of_the_best_permutation(made):
    dictionaries, _, matching, _ = made
    for row in matching[matching["resampled"] == "features"].itertuples():
        a, b = dictionaries[row.run_a], dictionaries[row.run_b]
        best = {d: _best(a.rows(d, row.features), b.rows(d, row.features)) for d in ("decoder", "encoder")}
        if row.metric == "matched_cosine":
            expected = np.nanmean(best[row.directions][1])
        else:
            both = [
                p == q and p >= 0 and c >= 0.7 and e >= 0.7 for p, c, q, e in zip(*best["decoder"], *best["encoder"], strict=True)
            ]
            expected = sum(both) / min(row.n_a, row.n_b)
        assert row.value == pytest.approx(expected, abs=1e-6)
        assert row.ci_low <= row.value <= row.ci_high
        assert (row.n_a, row.n_b) == tuple(len(x.rows("decoder", row.features)) for x in (a, b))
    shares = matching.loc[matching["metric"] == "shared_fraction", "value"]
    assert 0 < shares.min() < shares.max() <= 1


def test_baselines_are_those_of_random_matchings(made):
    *_, matching, _ = made
    pairs = matching[matching["resampled"] == "features"]
    for (n_a, n_b), here in pairs.groupby(["n_a", "n_b"]):
        cosines, same = [], []
        for seed in range(60):
            generator = torch.Generator().manual_seed(seed)
            one, two = (
                _best(*(torch.randn(n, _D, generator=generator, dtype=torch.float64) for n in (int(n_a), int(n_b)))) for _ in "ab"
            )
            cosines.append(np.nanmean(one[1]))
            both = [p == q and c >= 0.7 and e >= 0.7 for p, c, q, e in zip(*one, *two, strict=True)]
            same.append(sum(both) / min(n_a, n_b))
        baseline = here.groupby("metric")["random_baseline"].unique()
        assert baseline["matched_cosine"] == pytest.approx([np.mean(cosines)], abs=4 * np.std(cosines))
        assert baseline["shared_fraction"] == pytest.approx([np.mean(same)], abs=0.06)


def test_three_seeds_have_means_over_their_pairs(made):
    _, table, matching, _ = made
    summed = matching[matching["resampled"] == "seed pairs"]
    assert set(zip(summed["run_a"], summed["run_b"], strict=True)) == {("l-s0", "l-s2")}  # e2e has two seeds only
    assert len(summed) == 2 * (2 * 4 + 1) and set(summed["n_pairs"]) == {3}
    runs = ["l-s0", "l-s1", "l-s2"]
    for row in summed.itertuples():
        same = {"directions": row.directions, "features": row.features, "comparison": "cross_seed"}
        source = matching[matching["resampled"] == "features"] if not row.metric.startswith("nearest") else table
        here = source[(source[list(same)] == pd.Series(same)).all(axis=1)]
        here = here[here["run_a"].isin(runs) & here["run_b"].isin(runs)]
        values = []
        for pair in here.itertuples():
            metric = getattr(pair, "metric", None) or f"nearest_{pair.direction}"
            if (pair.run_a, pair.run_b) == ("l-s1", "l-s0"):  # from the higher seed to the lower
                metric = {"nearest_a_to_b": "nearest_b_to_a", "nearest_b_to_a": "nearest_a_to_b"}.get(metric, metric)
            values += [pair.value] if metric == row.metric else []
        assert len(values) == 3 and row.value == pytest.approx(np.mean(values))
        assert row.ci_low < row.value < row.ci_high or min(values) == max(values) or np.isnan(row.ci_low)


def test_single_features_are_kept_of_the_two_lowest_seeds(made):
    dictionaries, _, _, matches = made
    assert sorted(set(zip(matches["run_a"], matches["run_b"], strict=True))) == [("e-s0", "e-s1"), ("l-s0", "l-s1")]
    for (run_a, run_b), here in matches.groupby(["run_a", "run_b"]):
        a, b = dictionaries[run_a], dictionaries[run_b]
        assert here["feature"].tolist() == np.flatnonzero(a.alive).tolist()
        for kind in ("decoder", "encoder"):
            partner, cosine = _best(a.rows(kind, "alive"), b.rows(kind, "alive"))
            numbers = np.flatnonzero(b.alive)
            assert here[f"{kind}_partner"].tolist() == [numbers[p] if p >= 0 else -1 for p in partner]
            assert here[f"{kind}_cosine"].tolist() == pytest.approx(cosine, abs=1e-6, nan_ok=True)


def test_runs_without_other_seeds_or_living_features_have_empty_tables_or_no_values():
    runs = _runs().iloc[[1]]
    table, _ = compare(runs, _dictionaries(runs), _CONFIG)
    matching, matches = match(runs, _dictionaries(runs), table, _CONFIG)
    assert len(matching) == len(matches) == 0
    runs = _runs().iloc[:3]
    dead = {run: Dictionary(run, d.directions, np.zeros(_N, dtype=bool)) for run, d in _dictionaries(runs).items()}
    table, _ = compare(runs, dead, _CONFIG)
    matching, matches = match(runs, dead, table, _CONFIG)
    assert len(matches) == 0
    assert matching[matching["features"] == "alive"]["value"].isna().all()
    assert matching[matching["features"] == "all"]["value"].notna().all()
