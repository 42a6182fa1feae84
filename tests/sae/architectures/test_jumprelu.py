"""JumpReLU: the straight-through estimator by hand, the reach of its kernel, and thresholds that stay positive."""

from __future__ import annotations

import pytest
import torch
from tests.each import each
from tests.sae.literal import make, random
from tests.saes import forward

from saeworks.sae.architectures.jumprelu import JumpReluSAE
from saeworks.sae.execution import active, dense

BOTH_WAYS = each("way", [active, dense])

# one feature, z = x, θ = 1, ε = 0.5: the kernel is 1/ε strictly between 0.75 and 1.25
Z = [-2.0, 0.1, 0.7, 0.75, 0.76, 0.9, 1.0, 1.1, 1.24, 1.25, 1.3, 3.0]
OPEN = [False] * 7 + [True] * 5
NEAR = [False] * 4 + [True] * 5 + [False] * 3


def _one_feature() -> tuple[JumpReluSAE, torch.Tensor]:
    sae = JumpReluSAE(1, 1, jumprelu_bandwidth=0.5).double()
    with torch.no_grad():
        sae.W_enc.fill_(1.0)
        sae.W_dec.fill_(1.0)
        sae.threshold.fill_(1.0)
    return sae, torch.tensor(Z, dtype=torch.float64)[:, None]


@BOTH_WAYS
def test_the_gradients_of_the_activation_by_hand(way):
    sae, x = _one_feature()
    upstream = random(len(Z), 1)
    step = forward(sae, x, way=way)
    codes = step.codes.dense()
    assert codes.flatten().tolist() == [z if is_open else 0.0 for z, is_open in zip(Z, OPEN, strict=True)]
    (codes * upstream).sum().backward()
    u = upstream.flatten().tolist()
    threshold = sum(-(1.0 / 0.5) * u[i] for i in range(len(Z)) if NEAR[i])  # −(θ/ε) K, K = 1 inside the box
    assert sae.threshold.grad.item() == pytest.approx(threshold, rel=1e-12)
    assert sae.b_enc.grad.item() == pytest.approx(sum(u[i] for i in range(len(Z)) if OPEN[i]), rel=1e-12)
    assert sae.W_enc.grad.item() == pytest.approx(sum(u[i] * Z[i] for i in range(len(Z)) if OPEN[i]), rel=1e-12)


@BOTH_WAYS
def test_the_l0_term_counts_open_gates_and_moves_the_threshold_only(way):
    sae, x = _one_feature()
    gates = sae.penalised(forward(sae, x, way=way), "l0").dense()
    assert gates.flatten().tolist() == [float(is_open) for is_open in OPEN]
    upstream = random(len(Z), 1)
    (gates * upstream).sum().backward()
    expected = sum(-(1 / 0.5) * upstream[i].item() for i in range(len(Z)) if NEAR[i])
    assert sae.threshold.grad.item() == pytest.approx(expected, rel=1e-12)
    for parameter in (sae.W_enc, sae.b_enc):
        assert parameter.grad is None or not parameter.grad.any()


def test_the_way_with_active_entries_keeps_what_the_kernel_reaches_below_the_threshold_while_training():
    sae, x = _one_feature()
    kept = forward(sae, x, way=active).pre.active.rows.tolist()
    assert kept == [i for i in range(len(Z)) if Z[i] > 0.75]
    assert forward(sae, x, way=active).codes.l0() == sum(OPEN) / len(Z)  # those below it are not active
    sae.eval()
    assert forward(sae, x, way=active).pre.active.rows.tolist() == [i for i in range(len(Z)) if OPEN[i]]


def test_the_threshold_of_each_feature_gets_the_gradient_of_its_own_entries():
    sae, x = make("jumprelu"), random(30, 5, seed=9)
    upstream = random(30, 11, seed=1)
    (forward(sae, x, way=active).codes.dense() * upstream).sum().backward()
    pre = (x @ sae.W_enc + sae.b_enc).tolist()
    theta, width = sae.threshold.tolist(), sae.options.jumprelu_bandwidth
    expected = [
        sum(-theta[f] / width * upstream[t, f].item() for t in range(30) if abs(pre[t][f] - theta[f]) / width < 0.5)
        for f in range(11)
    ]
    torch.testing.assert_close(sae.threshold.grad, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-12)
    assert len(set(expected)) > 5


def test_a_step_does_not_take_thresholds_below_zero():
    sae = make("jumprelu")
    optimizer = torch.optim.Adam(sae.parameters(), lr=0.5)
    sae.threshold.grad = torch.ones_like(sae.threshold)
    before = sae.threshold.detach().clone()
    optimizer.step()
    assert (sae.threshold < 0).any() and (sae.threshold > 0).any()
    sae.after_step()
    torch.testing.assert_close(sae.threshold.detach(), (before - 0.5).clamp(min=0), rtol=1e-6, atol=1e-6)
    assert (sae.encode(random(30, 5)) >= 0).all()
