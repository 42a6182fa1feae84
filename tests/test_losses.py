"""Every loss equals a slow literal formula in float64, and so does its gradient."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from saeworks import losses
from saeworks.losses import downstream_mse, logits_kl, reconstruction_mse
from tests.each import each

_D, _V = 5, 7


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _assert_equal_with_gradients(value: torch.Tensor, expected: torch.Tensor, *wrt: torch.Tensor) -> None:
    torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-14)
    gradients = [torch.autograd.grad(v, wrt, allow_unused=True, materialize_grads=True) for v in (value, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-14)


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


@each("shape", [(_D,), (1, 1), (3, _D), (2, 3, _D)])
def test_reconstruction_is_the_mean_over_tokens_and_components(shape):
    output, target = _random(*shape).requires_grad_(), _random(*shape, seed=1)
    value, expected = reconstruction_mse(output, target), _literal_mse(output, target)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    ours, theirs = (torch.autograd.grad(v, output)[0] for v in (value, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)


def test_reconstruction_of_a_known_case():
    assert reconstruction_mse(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 4.0]])).item() == 13 / 4


@each("shape", [(1, 1), (1, _D), (3, 1), (3, _D)])
def test_the_normalised_errors_equal_their_formulas(shape):
    output, target = _random(*shape).requires_grad_(), _random(*shape, seed=1)
    goals, places = target.tolist(), [(t, i) for t in range(shape[0]) for i in range(shape[1])]
    norms = [sum(value**2 for value in row) ** 0.5 for row in goals]
    by_norm = sum((output[t, i] - goals[t][i]) ** 2 / norms[t] for t, i in places) / len(places)
    _assert_equal_with_gradients(losses.mse_by_input_norm(output, target), by_norm, output)
    by_variance = sum((output[t, i] - goals[t][i]) ** 2 for t, i in places) / len(places) / 0.37
    _assert_equal_with_gradients(
        losses.mse_by_variance(output, target, torch.tensor(0.37, dtype=torch.float64)), by_variance, output
    )


def test_the_error_by_input_norm_is_linear_in_the_scale_of_the_activations():
    output, target = _random(4, _D), _random(4, _D, seed=1)
    value = losses.mse_by_input_norm(output, target)
    torch.testing.assert_close(losses.mse_by_input_norm(7 * output, 7 * target), 7 * value)


_PENALTIES = {
    "l1": (lambda c, n, norms: losses.l1(c, n), lambda size, norm: size),
    "lp": (lambda c, n, norms: losses.lp(c, n, 0.3), lambda size, norm: size**0.3),
    "lp above 1": (lambda c, n, norms: losses.lp(c, n, 1.7), lambda size, norm: size**1.7),
    "lp of 1": (lambda c, n, norms: losses.lp(c, n, 1.0), lambda size, norm: size),
    "l1_decoder_norm": (losses.l1_decoder_norm, lambda size, norm: size * norm),
    "tanh": (
        lambda c, n, norms: losses.tanh_sparsity(c, n, norms, 2.5),
        lambda size, norm: 1 - 2 / (torch.exp(2 * 2.5 * size * norm) + 1),
    ),
}


@each("name", _PENALTIES)
@each("shape, form", product([(1, 1), (1, 9), (4, 1), (4, 9)], ["dense", "entries"]))
def test_a_penalty_is_the_mean_over_tokens_of_a_sum_over_features(name, form, shape):
    penalty, term = _PENALTIES[name]
    mask = _random(*shape, seed=3) > -0.3
    mask[0, 0] = True
    codes, norms = (_random(*shape) * mask).requires_grad_(), _random(shape[1], seed=4).abs().requires_grad_()
    rows, cols = mask.nonzero(as_tuple=True)  # zeros may be left out, or not
    value = penalty(codes, shape[0], norms) if form == "dense" else penalty(codes[rows, cols], shape[0], norms[cols])
    size = [[codes[t, f] if codes[t, f] > 0 else -codes[t, f] for f in range(shape[1])] for t in range(shape[0])]
    expected = sum(term(size[t][f], norms[f]) for t, f in mask.nonzero().tolist()) / shape[0]
    _assert_equal_with_gradients(value, expected, codes, norms)


@each("name", _PENALTIES)
def test_a_penalty_of_no_activation_is_zero_with_zero_gradient(name):
    for codes in (torch.zeros(4, 9).double(), torch.zeros(0).double()):
        codes.requires_grad_()
        norms = torch.ones(9 if codes.dim() == 2 else 0).double()
        value = _PENALTIES[name][0](codes, 4, norms)
        value.backward()
        assert value == 0
        assert not codes.grad.any() and codes.grad.isfinite().all()


def test_l0_is_the_number_of_open_gates_of_a_token():
    gates = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]], requires_grad=True)
    value = losses.l0(gates, 2)
    assert value.item() == 1.5
    value.backward()
    assert torch.equal(gates.grad, torch.full((2, 3), 0.5))


@each("p", [0.1, 0.5, 1.0, 2.0])
def test_lp_at_zeros_has_a_finite_gradient_that_is_the_formula_elsewhere(p):
    codes = torch.tensor([[0.0, 2.0, 0.0], [-0.5, 0.0, -0.0]], dtype=torch.float64, requires_grad=True)
    losses.lp(codes, 2, p).backward()
    expected = [[0, p * 2 ** (p - 1) / 2, 0], [-p * 0.5 ** (p - 1) / 2, 0, 0]]
    torch.testing.assert_close(codes.grad, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_penalties_do_not_depend_on_the_number_of_tokens_or_of_silent_features():
    codes, norms = _random(4, 9), _random(9, seed=1).abs()
    for penalty, _ in _PENALTIES.values():
        value = penalty(codes, 4, norms)
        torch.testing.assert_close(penalty(codes.repeat(5, 1), 20, norms), value)
        silent = torch.cat([codes, torch.zeros(4, 20)], dim=1)
        torch.testing.assert_close(penalty(silent, 4, torch.cat([norms, torch.ones(20)])), value)


def test_the_tanh_penalty_is_between_l0_and_l1():
    codes, norms = _random(4, 9), _random(9, seed=1).abs() + 0.1
    small, large = losses.tanh_sparsity(codes, 4, norms, 1e-5), losses.tanh_sparsity(codes, 4, norms, 1e5)
    torch.testing.assert_close(small / 1e-5, losses.l1_decoder_norm(codes, 4, norms), rtol=1e-6, atol=0)
    assert large.item() == pytest.approx(9, rel=1e-9)


# dead features


@each("n, d, normalised", product([2, 4], [1, _D], [True, False]))
def test_auxk_is_the_error_at_the_residual_by_its_variance(n, d, normalised):
    residual, reconstruction = _random(n, d).requires_grad_(), _random(n, d, seed=1).requires_grad_()
    value = losses.auxk_loss(residual, reconstruction, normalised)
    goals = residual.tolist()
    error = sum((reconstruction[t, i] - goals[t][i]) ** 2 for t in range(n) for i in range(d)) / (n * d)
    means = [sum(goals[t][i] for t in range(n)) / n for i in range(d)]
    variance = sum((goals[t][i] - means[i]) ** 2 for t in range(n) for i in range(d)) / (n * d)
    _assert_equal_with_gradients(value, error / variance if normalised else error, reconstruction)
    assert torch.autograd.grad(losses.auxk_loss(residual, reconstruction), residual, allow_unused=True) == (None,)


def test_auxk_of_a_residual_that_does_not_vary_is_zero_with_zero_gradient():
    residual, reconstruction = _random(1, _D).expand(3, _D), _random(3, _D, seed=1).requires_grad_()
    value = losses.auxk_loss(residual, reconstruction)
    assert value == 0 and not torch.autograd.grad(value, reconstruction)[0].any()


def test_auxk_of_the_mean_residual_is_one():
    residual = _random(3, _D)
    assert losses.auxk_loss(residual, residual.mean(dim=0).expand(3, _D)).item() == pytest.approx(1, rel=1e-12)


def _literal_ghost(residual: torch.Tensor, ghost: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
    """The formulas of Bloom's code (3 and 9 February 2024), with every constant a plain number."""
    n, d = residual.shape
    r, g, mse = residual.tolist(), ghost.tolist(), error.tolist()
    mean = [sum(r[t][i] for t in range(n)) / n for i in range(d)]
    total = 0.0
    for t in range(n):
        scale = sum(v**2 for v in r[t]) ** 0.5 / (2 * sum(v**2 for v in g[t]) ** 0.5 + 1e-6)
        divisor = max(sum((r[t][i] - mean[i]) ** 2 for i in range(d)) ** 0.5, 1e-6)
        for i in range(d):
            element = (ghost[t, i] * scale - r[t][i]) ** 2 / divisor
            total = total + mse[t][i] / (element.item() + 1e-6) * element
    return total / n / d


@each("n, d", product([1, 2, 6], [1, _D]))
def test_ghost_gradients_equal_the_literal_formula_and_reach_the_ghost_only(n, d):
    tensors = [_random(n, d), 3 * _random(n, d, seed=1), _random(n, d, seed=2).square()]
    residual, ghost, error = (t.requires_grad_() for t in tensors)
    _assert_equal_with_gradients(losses.ghost_gradients(residual, ghost, error), _literal_ghost(residual, ghost, error), ghost)
    value = losses.ghost_gradients(residual, ghost, error)
    assert torch.autograd.grad(value, (residual, error), allow_unused=True) == (None, None)
    assert torch.autograd.grad(losses.ghost_gradients(residual, ghost, error), ghost)[0].any()


def test_the_ghost_loss_has_the_value_of_the_error():
    residual, error = _random(6, _D), _random(6, _D, seed=2).square()
    value = losses.ghost_gradients(residual, _random(6, _D, seed=1), error)
    assert value.item() == pytest.approx(error.mean().item(), rel=1e-3)


@each("residual, ghost", product([_random(4, _D), torch.zeros(4, _D).double()], repeat=2))
def test_ghost_gradients_are_finite_at_zeros(residual, ghost):
    ghost = ghost.clone().requires_grad_()
    value = losses.ghost_gradients(residual, ghost, residual.square())
    value.backward()
    assert value.isfinite() and ghost.grad.isfinite().all()


# end to end


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


@each("chunk, bias, shape", product([1, 2, 4, 6, 100], [True, False], [(1, _D), (6, _D), (2, 3, _D)]))
def test_kl_and_its_gradient_equal_the_literal_formula_for_every_chunk(shape, bias, chunk):
    hidden, original = _random(*shape).requires_grad_(), _random(*shape, seed=1)
    W_U, b_U = _random(_V, _D, seed=2), _random(_V, seed=3) if bias else None
    value, expected = logits_kl(hidden, original, W_U, b_U, chunk), _literal_kl(hidden, original, W_U, b_U)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-14)
    ours, theirs = (torch.autograd.grad(5 * v, hidden)[0] for v in (value, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-13)


def test_kl_of_capped_logits_is_that_of_their_tanh():
    cap, chunk = 0.7, 3
    hidden, original, W_U, b_U = _random(7, _D), _random(7, _D, seed=1), _random(_V, _D, seed=2), _random(_V, seed=3)
    hidden.requires_grad_()

    def log_p(h):
        return (cap * torch.tanh((h @ W_U.T + b_U) / cap)).log_softmax(dim=-1)

    expected = (log_p(original).exp() * (log_p(original) - log_p(hidden))).sum() / len(hidden)
    value = logits_kl(hidden, original, W_U, b_U, chunk, soft_cap=cap)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=0)
    assert abs(value - logits_kl(hidden, original, W_U, b_U, chunk)) > 0.01
    ours, theirs = (torch.autograd.grad(v, hidden)[0] for v in (value, expected))
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
