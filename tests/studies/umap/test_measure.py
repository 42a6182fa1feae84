"""Regions are where a loop over points finds them, chance has large p-values, top tokens are those of a literal count."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from tests.saes import trained_sae
from tests.tiny_pipeline import D_MODEL, D_VOCAB, HOOK, tiny_decoder

from saeworks.lm.sites import Site
from saeworks.studies.principal_directions.measure import principal_directions
from saeworks.studies.umap import measure as embedding
from saeworks.studies.umap.measure import density_ratio, embed, nearest_points, pairs_with_local, regions, study, top_tokens
from saeworks.studies.umap.settings import UmapConfig

_CONFIG = UmapConfig(region_neighbors=6, density_ratio=3.0, min_features=4, n_shuffles=50)


def _points(n=90, seed=0) -> tuple[np.ndarray, np.ndarray]:
    """Two dictionaries mixed in one cloud, and a cloud of each alone."""
    rng = np.random.default_rng(seed)
    mixed, first, second = rng.normal(size=(n, 2)), rng.normal(size=(12, 2)) * 0.1 + 9, rng.normal(size=(20, 2)) * 0.1 - 9
    of_first = np.r_[np.arange(n) % 3 == 0, np.ones(12, bool), np.zeros(20, bool)]
    return np.concatenate([mixed, first, second]), of_first


def test_neighbours_and_ratios_equal_a_loop():
    points, of_first = _points()
    neighbours = nearest_points(points, 6)
    ratio = density_ratio(of_first, neighbours)
    for i in range(len(points)):
        distance = [np.hypot(*(points[i] - points[j])) if j != i else np.inf for j in range(len(points))]
        near = np.argsort(distance)[:6]
        assert set(near) == set(neighbours[i])
        a = sum(of_first[j] for j in near)
        assert ratio[i] == pytest.approx((a + 0.5) / (6 - a + 0.5) / (of_first.sum() / (~of_first).sum()))


def test_equal_points_have_others_as_neighbours():
    neighbours = nearest_points(np.zeros((9, 2)), 4)
    assert neighbours.shape == (9, 4) and (neighbours != np.arange(9)[:, None]).all()
    assert nearest_points(np.zeros((3, 2)), 15).shape == (3, 2)


def _literal_regions(of_first, neighbours, config) -> list[set[int]]:
    """Components by flooding from every point."""
    ratio = density_ratio(of_first, neighbours)
    side = [1 if r >= config.density_ratio else -1 if r <= 1 / config.density_ratio else 0 for r in ratio]
    near = [{*row, *np.flatnonzero((neighbours == i).any(axis=1))} for i, row in enumerate(neighbours)]
    found, left = [], {i for i, s in enumerate(side) if s}
    while left:
        region, edge = set(), {min(left)}
        while edge:
            i = edge.pop()
            region.add(i)
            edge |= {j for j in near[i] if side[j] == side[i] and j not in region}
        found.append(region)
        left -= region
    return sorted((r for r in found if len(r) >= config.min_features), key=lambda r: (-len(r), min(r)))


def test_regions_are_the_connected_components_of_dominated_points_by_size():
    for ratio in [1.5, 2.0, 3.0]:
        points, of_first = _points()
        neighbours, config = nearest_points(points, 6), _CONFIG.model_copy(update={"density_ratio": ratio, "n_regions": 99})
        numbers, p_values = regions(of_first, neighbours, config)
        expected = _literal_regions(of_first, neighbours, config)
        assert [set(np.flatnonzero(numbers == n)) for n in range(numbers.max() + 1)] == expected
        assert len(p_values) == len(expected) > 1


def test_the_clouds_of_one_dictionary_alone_are_significant_and_chance_is_not():
    points, of_first = _points()
    numbers, p_values = regions(of_first, nearest_points(points, 6), _CONFIG)
    assert set(np.flatnonzero(numbers == 0)) >= set(range(102, 122)) and p_values[0] == 1 / 51
    rng, small = np.random.default_rng(1), 0
    neighbours = nearest_points(rng.normal(size=(120, 2)), 6)
    for _ in range(20):
        small += min(regions(rng.permutation(120) < 50, neighbours, _CONFIG)[1], default=1) < 0.1
    assert small <= 6


def test_no_dominated_point_gives_no_region():
    points, _ = _points()
    numbers, p_values = regions(np.arange(len(points)) % 2 == 0, nearest_points(points, 6), UmapConfig(density_ratio=1e3))
    assert (numbers == -1).all() and p_values == []


def test_only_the_largest_regions_are_kept():
    points, of_first = _points()
    numbers, p_values = regions(of_first, nearest_points(points, 6), _CONFIG.model_copy(update={"n_regions": 1}))
    assert numbers.max() == 0 and len(p_values) == 1


@pytest.fixture(scope="module")
def model():
    return tiny_decoder(dtype=torch.float64)


def _tokens() -> np.ndarray:
    return np.random.default_rng(5).integers(12, size=(20, 6)).astype(np.uint16)


def test_top_tokens_are_those_with_the_largest_mean_activation(model):
    rows, site = _tokens(), Site.parse(HOOK, model.arch)
    a, b = (trained_sae("relu", seed, d_in=D_MODEL, d_sae=24).double() for seed in (0, 1))
    members = [[(a, np.array([1, 5])), (b, np.array([], dtype=int))], [(a, np.array([7])), (b, np.array([2, 3]))]]
    found = top_tokens(model, site, members, rows, UmapConfig(top_tokens=3, batch_rows=7))
    x = model.hook_values(torch.from_numpy(rows.astype(np.int64)), [HOOK])[HOOK]
    for got, region in zip(found, members, strict=True):
        total = sum(sae.encode(x)[..., torch.from_numpy(f)].sum(dim=-1) for sae, f in region).detach().numpy()
        mean = {t: total[rows == t].mean() for t in range(D_VOCAB) if (rows == t).sum() >= 5}
        assert got == sorted((t for t in mean if mean[t] > 0), key=lambda t: -mean[t])[:3]


def test_pairs_are_e2e_ds_and_e2e_with_local_of_the_same_architecture():
    rows = [("l", "local", "relu"), ("t", "local", "topk"), ("e", "e2e", "relu"), ("d", "e2e_ds", "relu"), ("g", "e2e", "gated")]
    runs = pd.DataFrame(rows, columns=["run", "objective", "architecture"])
    assert pairs_with_local(runs) == [("d", "l"), ("e", "l")]
    assert pairs_with_local(runs[runs["objective"] == "e2e"]) == []


def _flat(directions: np.ndarray, config: UmapConfig) -> np.ndarray:
    """The first two coordinates: UMAP compiles for seconds."""
    return directions[:, :2]


@pytest.fixture(scope="module")
def tables(model):
    saes = {name: trained_sae("relu", i, d_in=D_MODEL, d_sae=24).double() for i, name in enumerate("de")}
    saes["l"] = trained_sae("relu", 7, d_in=D_MODEL, d_sae=40, decoder="normalised").double()
    alive = {"d": np.arange(20), "e": np.arange(0), "l": np.arange(3, 40)}
    config = UmapConfig(region_neighbors=5, min_features=2, n_shuffles=10)
    pairs = [("d", "l"), ("e", "l")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "embed", _flat)
        return saes, study(model, Site.parse(HOOK, model.arch), pairs, saes, alive, _tokens(), str, config)


def test_the_tables_hold_every_alive_feature_and_leave_out_a_pair_without(model, tables):
    saes, found = tables
    table = found["umap"]
    assert set(table["first"]) == {"d"} and len(table) == 20 + 37
    assert table["feature"].tolist() == [*range(20), *range(3, 40)]
    x = model.hook_values(torch.from_numpy(_tokens().astype(np.int64)), [HOOK])[HOOK]
    direction = principal_directions(iter([x])).directions[:, 0].numpy()
    for row in table.iloc[[0, 19, 20, 56]].itertuples():
        atom = saes[row.run].W_dec[row.feature].detach().numpy()
        assert row.cosine_pca0 == pytest.approx(atom @ direction / np.linalg.norm(atom), abs=1e-9)
    for region in found["umap_regions"].itertuples():
        here = table[table["region"] == region.region]
        assert (region.n_first, region.n_second) == tuple((here["run"] == run).sum() for run in "dl")
        assert (region.x, region.y) == pytest.approx((here["x"].median(), here["y"].median()))
        assert isinstance(json.loads(region.top_tokens), list)
    assert set(table["region"]) - {""} == set(found["umap_regions"]["region"])


@pytest.mark.slow
def test_the_embedding_keeps_what_is_near_together_and_follows_its_seed():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(2, 10)) * 5
    directions = np.concatenate([centre + rng.normal(size=(40, 10)) * 0.1 for centre in centres])
    config = UmapConfig()
    place = embed(directions, config)
    assert (place == embed(directions, config)).all()
    assert (place != embed(directions, UmapConfig(seed=2))).any()
    assert all((np.sort(row < 40) == (i < 40)).all() for i, row in enumerate(nearest_points(place, 5)))
