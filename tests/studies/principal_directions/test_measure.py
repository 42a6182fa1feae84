"""Directions, correlations, histograms and ablations equal literal recomputations, token by token in float64."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from tests.saes import trained_sae
from tests.tiny_pipeline import D_MODEL, D_VOCAB, HOOK, tiny_decoder

from saeworks.lm.sites import Site
from saeworks.store.seeds import derive_seed
from saeworks.studies.principal_directions import measure as pca
from saeworks.studies.principal_directions.measure import principal_directions, resample_ablation, study
from saeworks.studies.principal_directions.settings import PrincipalDirectionsConfig

_ROWS, _POS = 7, 6
_CONFIG = PrincipalDirectionsConfig(n_directions=4, bins=9, ablation_rows=5, batch_rows=3)


def _tokens(same_start: bool = False) -> np.ndarray:
    tokens = np.random.default_rng(3).integers(1, D_VOCAB, size=(_ROWS, _POS)).astype(np.uint16)
    tokens[1, 3] = tokens[4, 0] = 0  # ends of text
    if same_start:
        tokens[:, 0] = 0
    return tokens


@pytest.fixture(scope="module")
def model():
    return tiny_decoder(dtype=torch.float64)


def _site(model, hook: str = HOOK) -> Site:
    return Site.parse(hook, model.arch)


def _activations(model, tokens: np.ndarray, hook: str = HOOK) -> np.ndarray:
    return model.hook_values(torch.from_numpy(tokens.astype(np.int64)), [hook])[hook].numpy()


def _sae():
    return trained_sae("relu", d_in=D_MODEL, d_sae=40, decoder="normalised").double()


def _literal_directions(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`(variances, directions as rows)` by the singular values of the centred activations."""
    flat = x.reshape(-1, D_MODEL)
    _, singular, rows = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    towards = rows @ x[:, 0].mean(axis=0)
    return singular**2 / len(flat), rows * np.where(towards < 0, -1, 1)[:, None]


@pytest.fixture(scope="module")
def tables(model):
    return study(model, _site(model), {"a": _sae()}, _tokens(), {0}, _CONFIG)


def test_directions_are_those_of_the_covariance_about_the_mean(model, tables):
    x = _activations(model, _tokens())
    basis = principal_directions(torch.from_numpy(part) for part in np.array_split(x, 3))
    variance, rows = _literal_directions(x)
    np.testing.assert_allclose(basis.variance, variance, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(basis.directions.T, rows, atol=1e-7)
    table = tables["pca_components"]
    np.testing.assert_allclose(table["variance"], variance[:4], rtol=1e-9)
    np.testing.assert_allclose(table["variance_share"], variance[:4] / variance.sum(), rtol=1e-9)
    first = x[:, 0].mean(axis=0)
    np.testing.assert_allclose(table["cosine_first"], rows[:4] @ first / np.linalg.norm(first), atol=1e-9)
    assert (table["cosine_first"] >= 0).all()


def test_the_direction_of_an_outlier_at_position_0_comes_first():
    x = torch.randn(50, 8, D_MODEL, generator=torch.Generator().manual_seed(0))
    outlier = torch.nn.functional.normalize(torch.arange(1.0, D_MODEL + 1), dim=0)
    x[:, 0] += 300 * outlier
    basis = principal_directions(iter(x.split(20)))
    assert basis.cosine_first[0] > 0.999 and basis.cosine_first[1:].max() < 0.05
    assert (basis.directions[:, 0] @ outlier.double()).item() > 0.999


def test_the_histogram_counts_each_token_once_by_its_kind(model, tables):
    tokens = _tokens()
    x = _activations(model, tokens)
    _, rows = _literal_directions(x)
    component = (x - x.reshape(-1, D_MODEL).mean(axis=0)) @ rows[0]
    table = tables["pca_histogram"]
    expected = {"position 0": list(component[:, 0]), "end of text": [component[1, 3]], "other": []}
    expected["other"] = [component[r, p] for r in range(_ROWS) for p in range(1, _POS) if tokens[r, p] != 0]
    for kind, values in expected.items():
        here = table[table["tokens"] == kind]
        assert len(here) == 9 and here["count"].sum() == len(values)
        inside = np.array([*here["low"], here["high"].iloc[-1]]) + np.r_[-1e-9, np.zeros(8), 1e-9]
        for b, count in enumerate(here["count"]):
            assert count == sum(inside[b] <= v < inside[b + 1] for v in values)


@pytest.mark.parametrize(("positions", "place"), [("rest", slice(1, None)), ("first", slice(0, 1))])
def test_correlations_are_pearson_s(model, tables, positions, place):
    x = _activations(model, _tokens())
    out = _sae()(torch.from_numpy(x))[0].detach().numpy()
    _, rows = _literal_directions(x)
    table = tables["pca_correlation"].query("positions == @positions")
    assert table["direction"].tolist() == [0, 1, 2, 3] and set(table["run"]) == {"a"}
    for direction, r in zip(table["direction"], table["r"], strict=True):
        a, b = ((v[:, place] @ rows[direction]).ravel() for v in (x, out))
        assert r == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-9)


def test_where_nothing_varies_there_is_no_correlation(model):
    for dtype in [torch.float32, torch.float64]:
        cast = model.to(dtype=dtype)
        table = study(cast, _site(cast), {"a": _sae().to(dtype)}, _tokens(same_start=True), {0}, _CONFIG)["pca_correlation"]
        assert table.query("positions == 'first'")["r"].isna().all()
        assert table.query("positions == 'rest'")["r"].notna().all()


def test_ablation_exchanges_one_component_by_one_permutation_and_leaves_position_0_alone(model):
    for hook in [HOOK, "blocks.2.hook_mlp_out", "blocks.1.attn.hook_z"]:
        tokens = _tokens()[:5]
        x = _activations(model, tokens, hook)
        _, rows = _literal_directions(x)
        directions = torch.from_numpy(rows[:3].T.copy())
        got = resample_ablation(model, _site(model, hook), tokens, directions, _CONFIG)
        order = torch.randperm(
            5 * (_POS - 1), generator=torch.Generator().manual_seed(derive_seed("resample ablation", _CONFIG.seed))
        )
        ids, site = torch.from_numpy(tokens.astype(np.int64)), _site(model, hook)
        clean = model.forward(ids).numpy()
        for j in range(3):
            component = (x[:, 1:] @ rows[j]).ravel()
            moved = x.copy()
            for i in range(len(component)):
                r, p = divmod(i, _POS - 1)
                moved[r, p + 1] += (component[order[i]] - component[i]) * rows[j]
            stream = model.hook_values(ids, [site.stream])[site.stream]
            last, _ = model.continue_from(site, torch.from_numpy(moved), torch.from_numpy(x), stream)
            other = model.logits(last).numpy()
            p, q = (np.exp(v) / np.exp(v).sum(axis=-1, keepdims=True) for v in (clean, other))
            assert got[0, j].item() == pytest.approx((p * np.log(p / q)).sum() / (5 * _POS), rel=1e-8)
            assert got[1, j].item() == pytest.approx((q * np.log(q / p)).sum() / (5 * _POS), rel=1e-8)
            np.testing.assert_allclose(p[:, 0], q[:, 0], rtol=1e-9)


def test_the_result_depends_on_the_seed_of_the_permutation_and_on_no_batch(model, tables, monkeypatch):
    def of(**changes):
        return study(model, _site(model), {"a": _sae()}, _tokens(), {0}, _CONFIG.model_copy(update=changes))

    monkeypatch.setattr(pca, "_LOGIT_ROWS", 4)
    same = of(batch_rows=100)
    for name, table in tables.items():
        pd.testing.assert_frame_equal(same[name], table, rtol=1e-8)
    assert not np.allclose(of(seed=1)["pca_ablation"]["kl"], tables["pca_ablation"]["kl"])


def test_more_directions_than_dimensions_and_more_rows_than_there_are_take_what_there_is(model):
    found = study(model, _site(model), {}, _tokens(), set(), PrincipalDirectionsConfig(n_directions=999, ablation_rows=999))
    assert len(found["pca_components"]) == len(found["pca_ablation"]) == D_MODEL
    assert set(found["pca_ablation"]["n_rows"]) == {_ROWS}
    assert found["pca_correlation"].empty
