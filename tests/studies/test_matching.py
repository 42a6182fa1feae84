"""Matchings equal the best of all permutations, whichever route finds them, and need no more than their candidates hold."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from saeworks.studies import matching as module
from saeworks.studies.matching import Matching, one_to_one, shared


def _random(n: int, seed: int = 0, d: int = 4) -> torch.Tensor:
    values = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values * torch.linspace(0.1, 9, n, dtype=torch.float64)[:, None]  # norms must not matter


def _clustered(n: int, seed: int, d: int = 12, centres: int = 9, spread: float = 0.1) -> torch.Tensor:
    """Rows about few centres, which are the same for every seed: everybody wants the same partners."""
    generator = torch.Generator().manual_seed(seed)
    around = torch.randn(centres, d, generator=torch.Generator().manual_seed(99))
    weights = torch.arange(1.0, centres + 1) if seed % 2 else torch.arange(centres, 0, -1.0)
    return around[weights.multinomial(n, True, generator=generator)] + spread * torch.randn(n, d, generator=generator)


def _cosines(a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    return (F.normalize(a, dim=1) @ F.normalize(b, dim=1).T).double().numpy()


def _largest_sum(a: torch.Tensor, b: torch.Tensor) -> float:
    cosines = _cosines(a, b) if len(a) <= len(b) else _cosines(b, a)
    n, m = cosines.shape
    return max(sum(cosines[i, j] for i, j in enumerate(chosen)) for chosen in itertools.permutations(range(m), n))


ROUTES = {"dense": {}, "sparse": {"dense_below": 0, "candidates": 1}}


def test_the_sum_of_cosines_is_the_largest_of_all_permutations():
    for route, (n, m) in itertools.product(ROUTES, [(1, 1), (1, 6), (6, 1), (4, 6), (6, 4), (6, 6), (2, 2)]):
        for seed in range(6):
            a, b = _random(n, seed), _random(m, 50 + seed)
            found = one_to_one(a, b, **ROUTES[route])
            assert found.swapped == (n > m) and len(found.partner) == min(n, m) == len(set(found.partner))
            assert found.cosine.sum() == pytest.approx(_largest_sum(a, b), abs=1e-9)
            own = _cosines(b, a) if found.swapped else _cosines(a, b)
            np.testing.assert_allclose(found.cosine, own[np.arange(min(n, m)), found.partner], atol=1e-9)


def test_the_sparse_route_finds_the_optimum_of_the_dense_one():
    for candidates, (n, m), kind in itertools.product(
        [1, 2, 8], [(150, 150), (120, 170), (170, 120)], ["random", "planted", "clustered", "crowded"]
    ):
        a = (
            _clustered(n, 0)
            if kind in ("clustered", "crowded")
            else torch.randn(n, 12, generator=torch.Generator().manual_seed(0))
        )
        b = {
            "random": torch.randn(m, 12, generator=torch.Generator().manual_seed(1)),
            "planted": torch.cat([a, a])[:m].flip(0) + 0.2 * torch.randn(m, 12, generator=torch.Generator().manual_seed(1)),
            "clustered": _clustered(m, 1),
            "crowded": _clustered(m, 1, centres=2, spread=0.02),
        }[kind]
        dense, sparse = (one_to_one(a, b, candidates, dense_below=size) for size in (4096, 0))
        assert sparse.cosine.sum() == pytest.approx(dense.cosine.sum(), abs=1e-6 * min(n, m))
        assert (sparse.partner == dense.partner).mean() > 0.97  # but for pairs that make no difference
        assert sparse.swapped == dense.swapped


def test_without_the_prices_few_candidates_would_miss_the_optimum(monkeypatch):
    a, b = _clustered(150, 0), _clustered(150, 1)
    best = one_to_one(a, b).cosine.sum()
    monkeypatch.setattr(module, "_missing", lambda a, b, *_: module.csr_array((len(a), len(b))))
    assert one_to_one(a, b, candidates=2, dense_below=0).cosine.sum() < best - 0.01


def test_prices_prove_the_optimum_over_the_edges():
    a, b = (F.normalize(_clustered(n, seed), dim=1) for n, seed in ((40, 0), (60, 1)))
    edges, reach = module._candidates(a, b, 60)
    found = one_to_one(a, b)
    u, v = module._prices(edges, found.partner, edges[np.arange(40), found.partner] - 2)
    slack = u[:, None] + v[None] - _cosines(a, b)
    assert slack.min() > -1e-6 and v.min() >= 0
    np.testing.assert_allclose(slack[np.arange(40), found.partner], 0, atol=1e-6)
    assert u.sum() + v.sum() == pytest.approx(found.cosine.sum(), abs=1e-4)
    np.testing.assert_allclose(reach, _cosines(a, b).min(axis=1), atol=1e-6)


def test_the_reach_of_a_row_bounds_every_cosine_beyond_its_candidates():
    a, b = (F.normalize(_clustered(n, seed), dim=1) for n, seed in ((40, 0), (60, 1)))
    edges, reach = module._candidates(a, b, 5)
    others = np.where(edges.toarray() == 0, _cosines(a, b), -2)
    assert (others.max(axis=1) <= reach + 1e-6).all()
    counts = edges.toarray() != 0
    assert (counts.sum(axis=1) >= 5).all() and (counts.sum(axis=0) >= 5).all()


def test_ties_and_copies_have_a_partner_each():
    for route in ROUTES:
        a = torch.eye(3)[[0, 0, 0, 1, 2, 2]]
        found = one_to_one(a, a.flip(0), **ROUTES[route])
        assert sorted(found.partner) == [0, 1, 2, 3, 4, 5] and found.cosine.tolist() == [1] * 6
        same = torch.ones(5, 3)
        assert sorted(one_to_one(same, same, **ROUTES[route]).partner) == [0, 1, 2, 3, 4]
        nothing = torch.zeros(3, 4)
        assert one_to_one(nothing, _random(3).float(), **ROUTES[route]).cosine.tolist() == [0] * 3
        opposite = one_to_one(a[:1], -a[:1], **ROUTES[route])
        assert opposite.cosine == pytest.approx([-1])


def test_an_empty_dictionary_has_no_partners():
    for route in ROUTES:
        for a, b in ((_random(0), _random(3)), (_random(3), _random(0)), (_random(0), _random(0))):
            found = one_to_one(a, b, **ROUTES[route])
            assert len(found.partner) == len(found.cosine) == 0
            partner, cosine = found.of_a(len(a))
            assert partner.tolist() == [-1] * (len(a) if found.swapped else 0) and np.isnan(cosine).all()


def test_partners_are_told_for_either_dictionary():
    a, b = _random(6), _random(4, 1)
    found, back = one_to_one(a, b), one_to_one(b, a)
    assert found.swapped and not back.swapped
    partner, cosine = found.of_a(6)
    assert (partner >= 0).sum() == 4 and np.isnan(cosine[partner < 0]).all()
    for row, (other, value) in enumerate(zip(partner, cosine, strict=True)):
        if other >= 0:
            assert back.partner[other] == row and value == pytest.approx(_cosines(a, b)[row, other])
    assert back.of_a(4)[0].tolist() == back.partner.tolist()


def test_shared_features_have_the_same_partner_twice_at_high_cosines():
    decoder = Matching(np.array([0, 1, 2, 3, 4]), np.array([0.9, 0.9, 0.69, 0.9, 0.7]), swapped=False)
    encoder = Matching(np.array([0, 2, 2, 3, 4]), np.array([0.9, 0.9, 0.9, 0.6, 0.7]), swapped=False)
    assert shared(decoder, encoder).tolist() == [True, False, False, False, True]


def test_the_inputs_are_not_changed_and_the_result_is_the_same_again():
    a, b = _clustered(60, 0), _clustered(70, 1)
    before = a.clone(), b.clone()
    first, second = (one_to_one(a, b, 2, dense_below=0) for _ in range(2))
    assert torch.equal(a, before[0]) and torch.equal(b, before[1])
    assert first.partner.tolist() == second.partner.tolist() and first.cosine.tolist() == second.cosine.tolist()
