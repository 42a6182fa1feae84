"""Every loss equals a slow literal formula in float64, and so does its gradient."""

from __future__ import annotations

import math

import pytest
import torch

from saeworks import losses
from saeworks.losses import downstream_mse, l1_sparsity, logits_kl, reconstruction_mse

_D, _V = 5, 7


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _literal_mse(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    rows, goals = output.reshape(-1, output.shape[-1]), target.reshape(-1, target.shape[-1])
    summed = sum((rows[t, i] - goals[t, i]) ** 2 for t in range(len(rows)) for i in range(rows.shape[1]))
    return summed / len(rows) / rows.shape[1]


def _literal_kl(hidden: torch.Tensor, original: torch.Tensor, W_U: torch.Tensor, b_U: torch.Tensor | None) -> torch.Tensor:
    """Mean over tokens of Σ_v p_original (ln p_original − ln p_new), from full logits without any library softmax."""
    summed = 0.0
    tokens = list(zip(hidden.reshape(-1, _D), original.reshape(-1, _D), strict=True))
    for new, old in tokens:
        p, q = (torch.exp(W_U @ h + (0 if b_U is None else b_U)) for h in (old, new))
        p, q = p / p.sum(), q / q.sum()
        summed = summed + sum(p[v] * (torch.log(p[v]) - torch.log(q[v])) for v in range(len(W_U)))
    return summed / len(tokens)


@pytest.mark.parametrize("shape", [(_D,), (1, 1), (3, _D), (2, 3, _D)])
def test_reconstruction_is_the_mean_over_tokens_and_components(shape):
    output, target = _random(*shape).requires_grad_(), _random(*shape, seed=1)
    value, expected = reconstruction_mse(output, target), _literal_mse(output, target)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    ours, theirs = (torch.autograd.grad(v, output)[0] for v in (value, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)


def test_reconstruction_of_a_known_case():
    assert reconstruction_mse(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 4.0]])).item() == 13 / 4


@pytest.mark.parametrize("shape", [(9,), (1, 1), (4, 9), (2, 3, 9)])
@pytest.mark.parametrize("d_in", [1, 6])
def test_sparsity_is_the_mean_l1_norm_over_d_in(shape, d_in):
    codes = _random(*shape).requires_grad_()
    flat = codes.reshape(-1, shape[-1])
    expected = sum(abs(flat[t, i]) for t in range(len(flat)) for i in range(shape[-1])) / len(flat) / d_in
    value = l1_sparsity(codes, d_in)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    ours, theirs = (torch.autograd.grad(v, codes)[0] for v in (value, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


def test_sparsity_does_not_depend_on_the_number_of_tokens_or_of_silent_features():
    codes = _random(4, 9)
    value = l1_sparsity(codes, 6)
    torch.testing.assert_close(l1_sparsity(codes.repeat(5, 1), 6), value)
    torch.testing.assert_close(l1_sparsity(torch.cat([codes, torch.zeros(4, 20)], dim=1), 6), value)


def test_downstream_reconstruction_is_the_mean_over_the_listed_layers():
    layers = {2: (2, 3, _D), 3: (2, 3, _D), 7: (2, 3, _D)}
    new = {layer: _random(*shape, seed=layer).requires_grad_() for layer, shape in layers.items()}
    original = {layer: _random(*shape, seed=10 + layer) for layer, shape in layers.items()} | {9: _random(2, 3, _D)}
    value = downstream_mse(new, original)
    expected = (sum(_literal_mse(new[layer], original[layer]) for layer in layers)) / 3
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    for ours, theirs in zip(*(torch.autograd.grad(v, new.values()) for v in (value, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(downstream_mse({3: new[3]}, original), _literal_mse(new[3], original[3]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("chunk", [1, 2, 4, 6, 100])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, _D), (6, _D), (2, 3, _D)])
def test_kl_and_its_gradient_equal_the_literal_formula_for_every_chunk(shape, bias, chunk):
    hidden, original = _random(*shape).requires_grad_(), _random(*shape, seed=1)
    W_U, b_U = _random(_V, _D, seed=2), _random(_V, seed=3) if bias else None
    value, expected = logits_kl(hidden, original, W_U, b_U, chunk), _literal_kl(hidden, original, W_U, b_U)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-14)
    ours, theirs = (torch.autograd.grad(5 * v, hidden)[0] for v in (value, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-13)


def test_kl_is_from_the_original_to_the_new_distribution():
    original, new = torch.tensor([[0.8, 0.2]]).log(), torch.tensor([[0.5, 0.5]]).log()
    value = logits_kl(new, original, torch.eye(2))
    assert value.item() == pytest.approx(0.8 * math.log(1.6) + 0.2 * math.log(0.4), rel=1e-5)  # the other way it is 0.22
    assert value.item() == pytest.approx(0.19274, rel=1e-4)


def test_the_gradient_of_kl_passes_gradcheck():
    original, W_U, b_U = _random(5, _D, seed=1), _random(_V, _D, seed=2), _random(_V, seed=3)
    hidden = _random(5, _D).requires_grad_()
    assert torch.autograd.gradcheck(lambda h: logits_kl(h, original, W_U, b_U, 2), hidden)
    # through other operations before and after
    assert torch.autograd.gradcheck(lambda h: logits_kl(h.tanh(), original, W_U, b_U, 3).square() * 2, hidden)


def test_kl_of_equal_distributions_is_zero_with_zero_gradient():
    hidden = _random(6, _D).requires_grad_()
    value = logits_kl(hidden, hidden.detach(), _random(_V, _D, seed=2), None, 4)
    value.backward()
    assert abs(value.item()) < 1e-14
    assert hidden.grad.abs().max() < 1e-14


def test_kl_gives_no_gradient_to_the_frozen_inputs():
    tensors = [_random(6, _D), _random(6, _D, seed=1), _random(_V, _D, seed=2), _random(_V, seed=3)]
    hidden, *frozen = (t.requires_grad_() for t in tensors)
    logits_kl(hidden, *frozen, 4).backward()
    assert hidden.grad.abs().max() > 0
    assert all(t.grad is None for t in frozen)


def test_kl_of_extreme_float32_logits_is_finite():
    W_U = torch.eye(3)
    original = torch.tensor([[1e4, 0.0, -1e4], [0.0, 0.0, 3e4], [80.0, 0.0, 0.0]])
    hidden = torch.tensor([[0.0, 1e4, -1e4], [0.0, 0.0, 3e4], [-80.0, 0.0, 0.0]], requires_grad=True)
    value = logits_kl(hidden, original, W_U)
    value.backward()
    assert value.item() == pytest.approx((1e4 + 0 + 80 + math.log(2)) / 3, rel=1e-5)
    assert torch.isfinite(hidden.grad).all()
    torch.testing.assert_close(hidden.grad[0], torch.tensor([-1.0, 1.0, 0.0]) / 3)


def test_kl_works_without_gradients():
    hidden, original, W_U = _random(6, _D).requires_grad_(), _random(6, _D, seed=1), _random(_V, _D, seed=2)
    expected = _literal_kl(hidden, original, W_U, None).detach()
    with torch.no_grad():
        value = logits_kl(hidden, original, W_U, None, 4)
    assert not value.requires_grad
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(logits_kl(hidden.detach(), original, W_U), expected, rtol=1e-10, atol=0)


def test_kl_never_holds_the_logits_of_more_than_a_chunk(monkeypatch):
    rows, real = [], losses.F.linear

    def linear(x, *rest):
        rows.append(len(x))
        return real(x, *rest)

    monkeypatch.setattr(losses.F, "linear", linear)
    logits_kl(_random(7, _D).requires_grad_(), _random(7, _D, seed=1), _random(_V, _D, seed=2), None, 3).backward()
    assert rows == [3, 3, 3, 3, 1, 1]
