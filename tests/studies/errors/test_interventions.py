"""Every intervention equals a literal float64 formula, token by token, and keeps what it is named after to 1e-6 on every token."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.each import each

from saeworks.store.seeds import derive_seed
from saeworks.studies.directions import principal_directions
from saeworks.studies.errors.interventions import MAKE, Draws, Surroundings, Tokens, across, at_cosine, unit
from saeworks.studies.errors.settings import BASELINES, INTERVENTIONS

_ROWS, _POS, _D, _K = 4, 9, 7, 3
_RUN = "blocks.1.hook_resid_pre/a"


def _tokens(dtype: torch.dtype = torch.float64, rows: range = range(2, 2 + _ROWS), run: str = _RUN) -> Tokens:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = draw(8, _POS, _D) * torch.linspace(0.5, 4, _D) + torch.arange(_D)
    x[:, 0] *= 300  # an outlier at position 0
    output, other = x + 0.3 * draw(8, _POS, _D) - 0.05 * x, x + 0.2 * draw(8, _POS, _D)
    origin = torch.tensor([i for i in range(8 * _POS) if i % _POS])
    pool = x.flatten(0, 1)[origin]
    basis = principal_directions(iter([x[:, 1:]]))
    covariance = np.cov(x[:, 1:].flatten(0, 1).T, bias=True)
    unread = torch.linalg.qr(draw(_D, 2))[0]
    around = Surroundings.of(basis, _K, pool.to(dtype), origin, unread)
    np.testing.assert_allclose(around.scale @ around.scale.T, covariance, rtol=1e-5, atol=1e-5)
    here = slice(rows.start, rows.stop)
    draws = Draws(run, rows, _POS, x[here].to(dtype))
    pool_error = output.flatten(0, 1)[origin] - pool
    return Tokens(x[here].to(dtype), output[here].to(dtype), around, draws, pool_error.to(dtype), other[here].to(dtype))


def _literal(name: str, t: Tokens, r: int, p: int) -> np.ndarray:
    """One token's intervention in NumPy float64, from its definition; random draws from their own streams."""
    x, hat = t.x[r, p].numpy(), t.output[r, p].numpy()
    eps = math.sqrt(sum((a - b) ** 2 for a, b in zip(hat, x, strict=True)))
    size, out = np.linalg.norm(x), np.linalg.norm(hat)

    def normal(purpose: str) -> np.ndarray:
        generator = torch.Generator().manual_seed(derive_seed("errors", purpose, _RUN, t.draws.rows[r]))
        return torch.randn((1, _POS, _D), generator=generator)[0, p].double().numpy()

    def toward(direction: np.ndarray) -> np.ndarray:
        return x + eps * direction / np.linalg.norm(direction)

    def pooled(purpose: str, n: int, pool: torch.Tensor) -> list[np.ndarray]:
        return [pool[i].numpy() for i in t.draws.others(purpose, t.around.origin, n)[:, r, p]]

    later = t.around.pool.numpy()
    mean, covariance = later.mean(axis=0), np.cov(later.T, bias=True)
    values, vectors = np.linalg.eigh(covariance)
    top = vectors[:, ::-1][:, :_K]

    def gaussian(purpose: str) -> np.ndarray:
        return t.around.scale.numpy() @ normal(purpose)

    def at_its_cosine() -> np.ndarray:
        c = x @ hat / size / out
        u = normal("cosine")
        u = u - (u @ x) * x / size**2
        return out * (c * x / size + math.sqrt(1 - c**2) * u / np.linalg.norm(u))

    centred = hat - hat.mean()
    formulas = {
        "sae": lambda: hat,
        "norm_corrected": lambda: hat * size / out,
        "norm_only": lambda: x * out / size,
        "random": lambda: toward(normal("random")),
        "cosine_sae_norm": at_its_cosine,
        "cosine_true_norm": lambda: at_its_cosine() * size / out,
        "zero": lambda: 0 * x,
        "mean": lambda: mean,
        "gaussian": lambda: toward(mean + gaussian("gaussian") - x),
        "real": lambda: toward(pooled("real", 1, t.around.pool)[0] - x),
        "gaussian_mixture": lambda: toward(gaussian("gaussian_mixture a") - gaussian("gaussian_mixture b")),
        "real_mixture": lambda: toward(np.subtract(*pooled("real_mixture", 2, t.around.pool))),
        "other_token": lambda: toward(pooled("other_token", 1, t.pool_error)[0]),
        "other_seed": lambda: toward(t.other_output[r, p].numpy() - x),
        "on_directions": lambda: x + top @ top.T @ (hat - x),
        "off_directions": lambda: hat - top @ top.T @ (hat - x),
        "on_unread": lambda: x + sum((v @ (hat - x)) * v for v in t.around.unread.numpy().T),
        "off_unread": lambda: hat - sum((v @ (hat - x)) * v for v in t.around.unread.numpy().T),
        "layer_norm": lambda: x.mean() + centred * np.linalg.norm(x - x.mean()) / np.linalg.norm(centred),
        "after_first": lambda: hat if p else x,
    }
    return formulas[name]()


def test_there_is_a_formula_for_every_intervention_that_is_declared():
    assert list(MAKE) == list(INTERVENTIONS)


@each("name", INTERVENTIONS)
def test_each_equals_its_literal_formula_on_every_token(name):
    t = _tokens()
    made = MAKE[name](t)
    assert made.shape == t.x.shape and made.dtype == torch.float64
    for r in range(_ROWS):
        for p in range(_POS):
            np.testing.assert_allclose(made[r, p], _literal(name, t, r, p), rtol=1e-6, atol=1e-6)


def _norm(x: torch.Tensor) -> torch.Tensor:
    return x.double().norm(dim=-1)


def _cosine(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x.double() * y.double()).sum(dim=-1) / _norm(x) / _norm(y)


@each("dtype", [torch.float64, torch.float32])
def test_norms_cosines_and_distances_are_kept_to_1e_6_of_the_norm_on_every_token(dtype):
    t = _tokens(dtype)
    made = {name: make(t).double() for name, make in MAKE.items()}
    x, output, size = t.x.double(), t.output.double(), _norm(t.x)

    def same(a: torch.Tensor, b: torch.Tensor, scale: torch.Tensor | float = 1.0) -> None:
        assert ((a - b).abs() <= 1e-6 * scale).all(), (a - b).abs().max()

    for name in BASELINES:
        same(_norm(made[name] - x), _norm(output - x), size)
    for name in ("norm_corrected", "cosine_true_norm"):
        same(_norm(made[name]), size, size)
    for name in ("norm_only", "cosine_sae_norm"):
        same(_norm(made[name]), _norm(output), size)
    same(_cosine(made["norm_only"], x), torch.ones_like(size))
    same(_cosine(made["norm_corrected"], output), torch.ones_like(size))
    for name in ("cosine_sae_norm", "cosine_true_norm"):
        same(_cosine(made[name], x), _cosine(output, x))
    for part in ("directions", "unread"):
        on, off = made[f"on_{part}"] - x, made[f"off_{part}"] - x
        same(on + off, output - x, size[..., None])
        same((on * off).sum(dim=-1), torch.zeros_like(size), size**2)
    same(made["layer_norm"].mean(dim=-1), x.mean(dim=-1), size)
    same(_norm(made["layer_norm"]), size, size)
    for cosine in (-1.0, 0.0, 0.3, 0.99, 1.0):
        noise = at_cosine(t.x, cosine, 0.9, t.draws.normal("c"))
        same(_cosine(noise, x), torch.full_like(size, cosine))
        same(_norm(noise), 0.9 * size, size)


def test_draws_depend_on_run_purpose_and_row_and_on_no_batch():
    whole, part = _tokens(rows=range(2, 6)), _tokens(rows=range(4, 5))
    for name in INTERVENTIONS:
        assert torch.equal(MAKE[name](part), MAKE[name](whole)[2:3]), name
    one = whole.draws.normal("random")
    assert not any(torch.equal(one[i], one[j]) for i in range(_ROWS) for j in range(i))
    for other in (whole.draws.normal("real"), _tokens(run="b").draws.normal("random")):
        assert not (one == other).any()


@each("size, n", [(3, 1), (3, 2), (4, 2), (200, 2)])
def test_other_tokens_are_never_the_token_itself_nor_each_other(size, n):
    origin = torch.arange(size)
    drawn = Draws("", range(0, 4), 10, torch.zeros(1, 1)).others("x", origin, n)
    assert drawn.shape == (n, 4, 10) and (drawn < size).all()
    own = torch.arange(40).view(4, 10)
    assert not (origin[drawn] == own).any()
    if n == 2:
        assert not (drawn[0] == drawn[1]).any()
    assert len(drawn.unique()) >= min(size, 20)


def test_vectors_without_a_direction_stay_without():
    zero = torch.zeros(2, _D)
    assert torch.equal(unit(zero), zero) and torch.equal(across(zero, zero), zero)


@pytest.mark.parametrize("name", ["norm_corrected", "cosine_sae_norm", "other_seed"])
def test_an_sae_without_error_or_output_gives_numbers(name):
    t = _tokens()
    for output in (t.x, torch.zeros_like(t.x)):
        other = Tokens(t.x, output, t.around, t.draws, t.pool_error, t.x)
        assert MAKE[name](other).isfinite().all()
