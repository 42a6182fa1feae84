"""Firing of two seeds' features equals literal formulas over tokens in float64."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csc_array
from tests.memory import largest_tensor
from tests.tiny_pipeline import CONTEXT, D_MODEL, D_VOCAB, HOOK, tiny_decoder

from saeworks.config.training import TrainingConfig
from saeworks.lm.sites import Site
from saeworks.sae.architectures.relu import ReluSAE
from saeworks.sae.init import initialise
from saeworks.studies.firing.measure import (
    METRICS,
    RAW,
    Firing,
    Raw,
    Untrained,
    fire,
    joint,
    null_partners,
    paired,
    shuffled,
    study,
)
from saeworks.studies.firing.settings import FiringConfig

_T, _D = 60, 5
_CONFIG = FiringConfig(n_resamples=100)


def _codes(n: int, seed: int, density: float = 0.4) -> np.ndarray:
    rng = np.random.default_rng(seed)
    codes = rng.gamma(1.0, size=(_T, n)) * (rng.random((_T, n)) < density)
    codes[0] += 0.1  # every feature fires
    return codes


def _firing(codes: np.ndarray, seed: int = 0) -> Firing:
    generator = torch.Generator().manual_seed(seed)
    decoder, encoder = (torch.randn(codes.shape[1], _D, generator=generator, dtype=torch.float64) for _ in range(2))
    return Firing(csc_array(codes), np.arange(codes.shape[1]) * 2, decoder, encoder)


def _literal(one: np.ndarray, two: np.ndarray) -> dict[str, float]:
    """The four metrics of two features from their activations on each token."""
    both = sum(x > 0 and y > 0 for x, y in zip(one, two, strict=True))
    either = sum(x > 0 or y > 0 for x, y in zip(one, two, strict=True))
    return {
        "pearson": np.corrcoef(one, two)[0, 1],
        "jaccard": both / either,
        "p_b_given_a": both / (one > 0).sum(),
        "p_a_given_b": both / (two > 0).sum(),
    }


def test_metrics_of_pairs_equal_loops_over_tokens():
    one, two = _codes(7, 0), _codes(9, 1)
    two[:, 3] = 2 * one[:, 5]
    of_a, of_b = np.array([5, 0, 6, 0]), np.array([3, 8, 0, 1])
    found = paired(_firing(one), _firing(two), of_a, of_b)
    for place, (i, j) in enumerate(zip(of_a, of_b, strict=True)):
        for metric, value in _literal(one[:, i], two[:, j]).items():
            assert found[metric][place] == pytest.approx(value, abs=1e-12), metric
    assert (found["pearson"][0], found["jaccard"][0]) == pytest.approx((1, 1))


def test_a_feature_that_does_not_vary_has_no_correlation():
    one = _codes(2, 0)
    one[:, 1] = 0.3
    found = paired(_firing(one), _firing(_codes(1, 1)), np.array([0, 1]), np.array([0, 0]))
    assert np.isnan(found["pearson"]).tolist() == [False, True]
    assert found["p_a_given_b"][1] == 1
    together = joint(_firing(one), _firing(_codes(3, 1)))
    assert (together.best_of_b == 0).all()


def test_best_partners_and_alignment_equal_dense_formulas():
    for block in [1, 3, 100]:
        one, two = _codes(8, 0), _codes(5, 1)
        a, b = _firing(one, 0), _firing(two, 1)
        together = joint(a, b, block)
        r = np.array([[_literal(x, y)["pearson"] for y in two.T] for x in one.T])
        assert together.best_of_a.tolist() == r.argmax(axis=1).tolist()
        assert together.best_of_b.tolist() == r.argmax(axis=0).tolist()
        squares = {}
        for name, x, y in (("ab", (one, a), (two, b)), ("aa", (one, a), (one, a)), ("bb", (two, b), (two, b))):
            pair = []
            for left, right in ((x[0], y[0]), (x[0] @ x[1].decoder.numpy(), y[0] @ y[1].decoder.numpy())):
                left, right = left - left.mean(axis=0), right - right.mean(axis=0)
                pair.append(((left.T @ right / _T) ** 2).sum())
            squares[name] = pair
        assert (together.codes, together.reconstructions) == pytest.approx(tuple(squares["ab"]), rel=1e-9)
        runs = pd.DataFrame({"run": ["a", "b"], "settings": "s", "seed": [0, 1]})
        table = study(runs, {"a": a, "b": b}, _CONFIG)["firing"]
        for place, kind in enumerate(("codes", "reconstructions")):
            expected = squares["ab"][place] / math.sqrt(squares["aa"][place] * squares["bb"][place])
            row = table[table["partner"] == kind].iloc[0]
            assert row["value"] == pytest.approx(expected, rel=1e-9) and np.isnan(row["ci_low"]) and row["resampled"] == "none"


def test_alignment_is_one_for_the_same_features_in_another_order():
    codes = _codes(6, 0)
    a = _firing(codes)
    order = [3, 1, 5, 0, 2, 4]
    b = Firing(csc_array(4 * codes[:, order]), np.arange(6), a.decoder[order], a.encoder[order])
    runs = pd.DataFrame({"run": ["a", "b"], "settings": "s", "seed": [0, 1]})
    tables = study(runs, {"a": a, "b": b}, _CONFIG)
    table = tables["firing"].set_index(["partner", "metric"])["value"]
    assert table["codes", "cka"] == pytest.approx(1) and table["reconstructions", "cka"] == pytest.approx(1)
    for partner in ("decoder", "best_in_b", "best_in_a"):
        assert all(table[partner, metric] == pytest.approx(1) for metric in METRICS)
    assert table["null", "pearson"] < 0.5
    features = tables["firing_features"]
    assert features["feature_b"].tolist() == [order.index(i) for i in range(6)] == features["best_feature"].tolist()


def test_null_partners_fire_about_as_often_and_are_never_the_partner_itself():
    rate = np.random.default_rng(0).random(200)
    partner = np.repeat(np.arange(200), 30)
    null = null_partners(rate, partner, 1)
    rank = np.argsort(np.argsort(rate))
    assert (null != partner).all()
    assert (np.abs(rank[null] - rank[partner]) <= 10).all()
    inside = (rank[partner] >= 5) & (rank[partner] < 195)
    distance = (rank[null] - rank[partner])[inside]
    assert set(distance) == {-5, -4, -3, -2, -1, 1, 2, 3, 4, 5} and abs(distance.mean()) < 0.1
    assert null_partners(rate, partner, 1).tolist() == null.tolist() != null_partners(rate, partner, 2).tolist()
    assert null_partners(np.array([0.1, 0.9]), np.array([0, 1, 1]), 0).tolist() == [1, 0, 0]


def _runs(n: int) -> pd.DataFrame:
    names = [f"r{i}" for i in range(n)]
    return pd.DataFrame({"run": [*names, "alone"], "settings": ["s"] * n + ["t"], "seed": [*range(n), 0]})


def test_tables_hold_all_pairs_of_seeds_their_means_and_the_features_of_the_lowest_two():
    firing = {f"r{i}": _firing(_codes(6 + i, i), i) for i in range(3)}
    tables = study(_runs(3), firing, _CONFIG)
    table = tables["firing"]
    pairs, summed = table[table["resampled"] != "seed pairs"], table[table["resampled"] == "seed pairs"]
    assert sorted(set(zip(pairs["run_a"], pairs["run_b"], strict=True))) == [("r0", "r1"), ("r0", "r2"), ("r1", "r2")]
    assert len(pairs) == 3 * (5 * 4 + 3) and len(summed) == 5 * 4 + 3
    for row in summed.itertuples():
        here = pairs[(pairs["partner"] == row.partner) & (pairs["metric"] == row.metric)]["value"]
        assert row.value == pytest.approx(here.mean())
        assert row.ci_low <= row.value <= row.ci_high
        assert (row.run_a, row.run_b, row.n_pairs) == ("r0", "r2", 3)
    features = tables["firing_features"]
    assert set(zip(features["run_a"], features["run_b"], strict=True)) == {("r0", "r1")} and len(features) == 6
    for row in features.itertuples():
        one, two = (firing[run].codes.toarray() for run in ("r0", "r1"))
        i, j, best = row.feature_a // 2, row.feature_b // 2, row.best_feature // 2
        for metric, value in _literal(one[:, i], two[:, j]).items():
            assert getattr(row, metric) == pytest.approx(value)
        for metric, value in _literal(one[:, i], two[:, best]).items():
            assert getattr(row, f"best_{metric}") == pytest.approx(value)
        cosine = torch.nn.functional.cosine_similarity
        assert row.decoder_cosine == pytest.approx(cosine(firing["r0"].decoder[i], firing["r1"].decoder[j], 0).item())
        assert row.encoder_cosine == pytest.approx(cosine(firing["r0"].encoder[i], firing["r1"].encoder[j], 0).item())
        assert row.best_decoder_cosine == pytest.approx(cosine(firing["r0"].decoder[i], firing["r1"].decoder[best], 0).item())
        assert row.firing_rate_a == pytest.approx((one[:, i] > 0).mean())
    means = pairs[(pairs["run_b"] == "r1") & (pairs["partner"] == "decoder")].set_index("metric")["value"]
    assert all(means[metric] == pytest.approx(features[metric].mean()) for metric in METRICS)


def test_runs_with_few_or_no_firing_features():
    for sizes in [(0, 4), (4, 0), (0, 0), (1, 1), (5, 1)]:
        firing = {f"r{i}": _firing(_codes(n, i), i) for i, n in enumerate(sizes)}
        tables = study(_runs(2), firing, _CONFIG)
        table = tables["firing"].set_index(["partner", "metric"])["value"]
        assert len(tables["firing_features"]) == min(sizes)
        assert np.isnan(table["decoder", "jaccard"]) == (min(sizes) == 0)
        assert np.isnan(table["null", "jaccard"]) == (sizes[1] < 2 or min(sizes) == 0)
        assert np.isnan(table["codes", "cka"]) == (min(sizes) == 0)
        empty = study(_runs(0), {}, _CONFIG)
        assert len(empty["firing"]) == len(empty["firing_features"]) == 0


def test_controls_of_best_partners_and_of_alignment():
    one, two, raw, untrained = _codes(8, 0), _codes(6, 1), np.random.default_rng(2).normal(size=(_T, _D)), _codes(30, 3, 0.3)
    firing = {"r0": _firing(one, 0), "r1": _firing(two, 1)}
    without = {RAW: _firing(raw), "r0": _firing(untrained)}
    found = study(_runs(2), firing, _CONFIG, without)
    table = found["firing"].set_index(["partner", "metric"])["value"]
    for name, other in (("activations", raw), ("untrained", untrained)):
        r = np.array([[np.corrcoef(x, y)[0, 1] for y in other.T] for x in one.T])
        assert table[f"best_in_{name}", "pearson"] == pytest.approx(r.max(axis=1).mean())
        centred = [values - values.mean(axis=0) for values in (one, other)]
        squares = [
            ((x.T @ y) ** 2).sum() for x, y in ((centred[0], centred[1]), (centred[0], centred[0]), (centred[1], centred[1]))
        ]
        assert table[f"codes_{name}", "cka"] == pytest.approx(squares[0] / math.sqrt(squares[1] * squares[2]))
    assert ("best_in_activations", "jaccard") not in table.index and ("best_in_untrained", "jaccard") in table.index
    mixed = shuffled(firing["r1"], 5)
    assert not np.array_equal(mixed.codes.toarray(), two) and sorted(map(tuple, mixed.codes.toarray())) == sorted(map(tuple, two))
    # of equal codes, the best partner is the feature itself, but on shuffled tokens only chance is left
    same = study(_runs(2), {"r0": _firing(one), "r1": _firing(one)}, _CONFIG)
    table = same["firing"].set_index(["partner", "metric"])["value"]
    assert table["best_in_b", "pearson"] == pytest.approx(1) and table["best_in_shuffled", "pearson"] < 0.5
    assert table["codes", "cka"] == pytest.approx(1) and table["codes_shuffled", "cka"] < 0.5
    means = [same["firing_features"][f"{prefix}pearson"].mean() for prefix in ("best_", "chance_")]
    assert means == pytest.approx([1, table["best_in_shuffled", "pearson"]])


def test_an_untrained_code_has_the_l0_of_the_sae_and_directions_of_its_own():
    sae = ReluSAE(D_MODEL, 40, decoder="normalised")
    initialise(sae, TrainingConfig(), torch.Generator().manual_seed(0))
    x = torch.randn(50, D_MODEL, generator=torch.Generator().manual_seed(1))
    code = Untrained(sae, 3, 7)
    values = code.encode(x)
    assert ((values > 0).sum(dim=1) == 3).all() and torch.allclose(code.W_enc.norm(dim=0), torch.ones(40))
    literal = x @ code.W_enc
    assert torch.equal(values, torch.where(literal >= literal.topk(3).values[:, -1:], literal, 0.0))
    assert not torch.equal(Untrained(sae, 3, 8).W_enc, code.W_enc) and torch.equal(Raw(D_MODEL).encode(x), x)


def test_codes_are_those_of_the_saes_on_every_token():
    model = tiny_decoder()
    tokens = np.random.default_rng(0).integers(D_VOCAB, size=(5, 6)).astype(np.uint16)
    saes = {}
    for seed in range(2):
        saes[f"r{seed}"] = ReluSAE(D_MODEL, 20, decoder="normalised")
        initialise(saes[f"r{seed}"], TrainingConfig(), torch.Generator().manual_seed(seed))
        saes[f"r{seed}"].b_enc.data[:3] = -1e3  # never fire
    firing = fire(saes, model, Site.parse(HOOK, model.arch), tokens, batch_rows=2)
    x = model.hook_values(torch.from_numpy(tokens.astype(np.int64)), [HOOK])[HOOK].flatten(0, 1)
    for run, sae in saes.items():
        codes = sae.encode(x).detach().numpy()
        fired = np.flatnonzero((codes > 0).any(axis=0))
        assert firing[run].features.tolist() == fired.tolist() and fired.min() >= 3
        np.testing.assert_allclose(firing[run].codes.toarray(), codes[:, fired], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(firing[run].rate, (codes[:, fired] > 0).mean(axis=0))
        assert torch.equal(firing[run].decoder, sae.dictionary().detach()[fired])
        assert torch.equal(firing[run].encoder, sae.W_enc.detach().T[fired])


def test_codes_are_never_dense_in_float64():
    model, tokens = tiny_decoder(), np.random.default_rng(0).integers(D_VOCAB, size=(4, CONTEXT)).astype(np.uint16)
    sae = ReluSAE(D_MODEL, 4096, decoder="normalised")
    initialise(sae, TrainingConfig(), torch.Generator().manual_seed(0))
    sae.b_enc.data[64:] = -1e3
    firing = {}
    taken = largest_tensor(lambda: firing.update(fire({"r": sae}, model, Site.parse(HOOK, model.arch), tokens, batch_rows=4)))
    assert 4 * tokens.size * sae.d_sae <= taken < 8 * tokens.size * sae.d_sae
    codes = firing["r"].codes
    assert (codes.data.dtype, codes.indices.dtype) == (np.float64, np.int32) and 0 < codes.shape[1] <= 64
