"""Every initialisation has the distribution that it is named after, and nothing is random but its generator."""

from __future__ import annotations

from itertools import product

import torch
from scipy.optimize import minimize
from tests.each import each
from tests.sae.literal import normalised_rows, random
from tests.saes import ARCHITECTURES
from torch import Tensor

from saeworks.config.training import TrainingConfig
from saeworks.sae.build import build_sae
from saeworks.sae.init import geometric_median, initialise


def _sae(d_in: int = 16, seed: int = 0, sample: Tensor | None = None, **settings):
    settings = TrainingConfig(**{"d_sae": 2048, **settings})
    sae = build_sae(d_in, settings, k=2)
    initialise(sae, settings, torch.Generator().manual_seed(seed), sample)
    return sae


def _assert_uniform(values: Tensor, bound: float) -> None:
    """Within ±bound, and evenly over the whole range."""
    assert 0.99 * bound < values.abs().max() <= bound
    shares = torch.histc(values.detach(), 4, -bound, bound) / values.numel()
    assert (shares - 0.25).abs().max() < 5 * (0.25 * 0.75 / values.numel()) ** 0.5


@each("option, bound", [("linear", 16**-0.5), ("kaiming", (6 / 16) ** 0.5), ("kaiming_d_sae", (6 / 2048) ** 0.5)])
def test_the_encoder_is_uniform(option, bound):
    _assert_uniform(_sae(encoder_init=option).W_enc, bound)


def test_the_kaiming_decoder_is_uniform_by_the_size_of_the_input():
    _assert_uniform(_sae(decoder_init="kaiming").W_dec, (6 / 16) ** 0.5)


def test_the_encoder_bias_is_uniform_or_zero():
    _assert_uniform(_sae(encoder_bias_init="linear", d_sae=20_000).b_enc, 16**-0.5)
    assert not _sae(encoder_bias_init="zero").b_enc.any()


def test_the_decoder_bias_is_uniform_by_the_size_of_the_dictionary_or_zero():
    _assert_uniform(_sae(d_in=20_000, d_sae=4, decoder_init="gaussian").b_dec, 4**-0.5)
    assert not _sae(decoder_bias_init="zero").b_dec.any()


def test_the_orthogonal_decoder_has_orthonormal_columns_and_is_not_tied_to_the_encoder():
    sae = _sae(d_sae=400)
    torch.testing.assert_close(sae.W_dec.T @ sae.W_dec, torch.eye(16), rtol=0, atol=1e-5)
    cosines = torch.nn.functional.cosine_similarity(sae.W_enc.T, sae.W_dec)
    assert cosines.abs().mean() < 0.3
    narrow = _sae(d_sae=3)  # fewer features than inputs: orthonormal rows
    torch.testing.assert_close(narrow.W_dec @ narrow.W_dec.T, torch.eye(3), rtol=0, atol=1e-5)


def test_the_gaussian_decoder_has_independent_normal_entries():
    W_dec = _sae(decoder_init="gaussian").W_dec.detach()
    assert abs(W_dec.mean()) < 5 / 16 / 2048**0.5
    assert abs(W_dec.std() - 1) < 0.02
    assert abs((W_dec.abs() < 1).float().mean() - 0.6827) < 0.015


@each("decoder_init", ["orthogonal", "kaiming", "gaussian"])
@each(
    "settings, norm",
    [
        ({"decoder": "free", "decoder_init_norm": 0.1}, 0.1),
        ({"decoder": "normalised", "decoder_init_norm": 3.0}, 3.0),
        ({"decoder": "renormalised"}, 1.0),
        ({"decoder": "renormalised", "decoder_init_norm": 0.5}, 0.5),
        ({"decoder": "free"}, None),
        ({"decoder": "normalised"}, None),
    ],
)
def test_the_norm_of_the_rows_is_as_set(settings, norm, decoder_init):
    norms = _sae(decoder_init=decoder_init, **settings).W_dec.norm(dim=1)
    if norm is None:
        assert norms.std() > 0.01
    else:
        torch.testing.assert_close(norms, torch.full((2048,), norm), rtol=1e-5, atol=0)


@each("decoder", ["normalised", "renormalised", "free"])
def test_the_transposed_encoder_is_the_dictionary(decoder):
    sae = _sae(encoder_init="transpose", decoder=decoder, decoder_init="kaiming")
    expected = normalised_rows(sae.W_dec[:50]) if decoder == "normalised" else sae.W_dec[:50]
    torch.testing.assert_close(sae.W_enc.T[:50], expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(sae.W_enc.T, sae.dictionary())
    assert sae.W_enc.data_ptr() != sae.W_dec.data_ptr()


@each("option", ["mean", "geometric_median"])
def test_the_decoder_bias_may_start_at_the_centre_of_a_sample(option):
    sample = (random(101, 16).exp() + 3).float()
    expected = torch.tensor([sum(column) / 101 for column in sample.T.tolist()])
    expected = expected if option == "mean" else geometric_median(sample)
    torch.testing.assert_close(_sae(decoder_bias_init=option, sample=sample).b_dec.detach(), expected, rtol=1e-5, atol=0)
    assert (sample.mean(dim=0) - geometric_median(sample)).norm() > 0.5


def test_the_threshold_of_jumprelu_starts_as_set():
    sae = _sae(architecture="jumprelu", jumprelu_threshold=0.25)
    assert torch.equal(sae.threshold.detach(), torch.full((2048,), 0.25))


@each("architecture", ARCHITECTURES)
@each("options", list(product(("linear", "kaiming", "transpose"), ("orthogonal", "kaiming", "gaussian"))))
def test_the_same_generator_gives_the_same_bytes_and_the_global_one_is_left_alone(architecture, options):
    def weights(seed: int, global_seed: int) -> Tensor:
        torch.manual_seed(global_seed)
        state = torch.get_rng_state()
        encoder, decoder = options
        sae = _sae(5, seed, architecture=architecture, d_sae=30, encoder_init=encoder, decoder_init=decoder)
        assert torch.equal(torch.get_rng_state(), state)
        assert all(p.requires_grad and p.is_leaf for p in sae.parameters())
        return torch.cat([p.detach().flatten() for p in (sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec)])

    assert torch.equal(weights(1, 0), weights(1, 5))
    assert (weights(1, 0) != weights(2, 0)).all()


# geometric median


def _sum_of_distances(points: Tensor, guess: Tensor) -> float:
    return sum(sum((p - g) ** 2 for p, g in zip(point, guess.tolist(), strict=True)) ** 0.5 for point in points.tolist())


def _brute_force(points: Tensor) -> Tensor:
    def total(guess):
        return _sum_of_distances(points, torch.from_numpy(guess))

    starts = [points.mean(dim=0), *points[:5]]
    results = [
        minimize(total, start.numpy(), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-13, "maxiter": 9000})
        for start in starts
    ]
    return torch.from_numpy(min(results, key=lambda result: result.fun).x)


@each(
    "points",
    [
        random(12, 2),
        random(15, 3).exp(),
        torch.cat([random(6, 2), random(6, 2)[:3]]),  # some points twice
        torch.cat([random(3, 2), torch.full((4, 2), 0.3, dtype=torch.float64)]),  # the median is a point of the sample
        torch.tensor([[0.0, 0], [0, 0], [0, 0], [1, 0], [4, 0]], dtype=torch.float64),  # the mean is one that is not the median
        torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1], [0, 0]], dtype=torch.float64),  # the mean is one that is
        torch.tensor([[-1.0, 0], [-1, 0], [-1, 0], [0, 0], [0, 0], [0, 0], [3, 0]], dtype=torch.float64),
        torch.tensor([[0.1, 0], [0.1, 0], [0.1, 0], [1.1, 0], [4.1, 0]], dtype=torch.float64),
    ],
)
def test_the_geometric_median_minimises_the_sum_of_distances(points):
    median, expected = geometric_median(points), _brute_force(points)
    torch.testing.assert_close(median, expected, rtol=0, atol=1e-3)
    assert _sum_of_distances(points, median) < (1 + 1e-9) * _sum_of_distances(points, expected)


@each("n", [1, 2, 7])
def test_the_geometric_median_of_equal_points_is_that_point(n):
    point = torch.tensor([0.1, -3.0, 7.7])
    torch.testing.assert_close(geometric_median(point.repeat(n, 1)), point, rtol=1e-6, atol=0)
    assert torch.equal(geometric_median(torch.zeros(n, 3)), torch.zeros(3))


def test_the_geometric_median_on_a_line_is_the_median_and_ignores_outliers():
    line = torch.tensor([[0.0], [1.0], [2.0], [3.0], [1e6]])
    torch.testing.assert_close(geometric_median(line), torch.tensor([2.0]), rtol=0, atol=0.01)


def test_the_geometric_median_moves_and_scales_with_its_points():
    points = random(200, 8).exp()
    for scale in (1e-6, 1e6):
        torch.testing.assert_close(
            geometric_median(scale * points + scale), scale * (geometric_median(points) + 1), rtol=1e-6, atol=0
        )
    assert geometric_median(points.float()).dtype == torch.float32


@each(
    "points",
    [
        (5 * random(64, 4)).exp(),  # most points near the origin, a few far away
        torch.cat([1e-3 * random(100, 5), 1 + 1e-3 * random(99, 5, seed=1)]),  # two clusters, of almost equal size
        torch.stack([10 * random(50, 1)[:, 0].exp(), 1e-6 * random(50, 1, seed=1)[:, 0]], dim=1),  # almost on a line
    ],
)
def test_the_geometric_median_is_found_to_the_stated_tolerance_where_that_is_hard(points):
    towards = points - geometric_median(points)
    lengths = towards.norm(dim=1)
    there = lengths < 1e-12 * lengths.mean()
    assert (towards[~there] / lengths[~there, None]).sum(dim=0).norm() <= there.sum() + 1e-8 * len(points)
