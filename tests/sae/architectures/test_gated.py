"""The gated SAE: what its penalty and its auxiliary loss may and may not move, and its equivalence with JumpReLU."""

from __future__ import annotations

import torch
from tests.each import each
from tests.sae import literal
from tests.sae.literal import make, random
from tests.saes import forward
from torch import Tensor

from saeworks.sae.base import SAE, Forward
from saeworks.sae.execution import active, dense

BOTH_WAYS = each("way", [active, dense])


def _gate_error(sae: SAE, step: Forward) -> Tensor:
    weight, output = sae.further_outputs(step)["gate"]
    return weight * literal.mse(output, step.x)


@BOTH_WAYS
@each("decoder", ["normalised", "free"])
def test_the_auxiliary_loss_does_not_move_the_decoder(decoder, way):
    sae, x = make("gated", decoder=decoder), random(6, 5, seed=9)
    _gate_error(sae, forward(sae, x, way=way)).backward()
    for name in ("W_dec", "b_dec", "b_mag", "r_mag"):
        gradient = sae.get_parameter(name).grad
        assert gradient is None or not gradient.any()
    assert sae.W_enc.grad.any() and sae.b_enc.grad.any()


@BOTH_WAYS
def test_under_pre_bias_the_auxiliary_loss_reaches_the_bias_through_the_encoder_only(way):
    sae, x = make("gated", pre_bias=True), random(6, 5, seed=9)
    _gate_error(sae, forward(sae, x, way=way)).backward()
    torch.testing.assert_close(sae.b_dec.grad, -(sae.W_enc @ sae.b_enc.grad).detach(), rtol=1e-10, atol=1e-12)


@BOTH_WAYS
def test_the_penalty_moves_the_gate_and_not_the_magnitudes(way):
    sae, x = make("gated"), random(6, 5, seed=9)
    penalised = sae.penalised(forward(sae, x, way=way), "l1")
    torch.testing.assert_close(penalised.dense(), literal.positive(x @ sae.W_enc + sae.b_enc), rtol=1e-10, atol=1e-12)
    penalised.values.sum().backward()
    assert sae.b_mag.grad is None and sae.r_mag.grad is None
    assert sae.b_enc.grad.any()


def test_inference_needs_an_open_gate_and_a_positive_magnitude():
    sae, x = make("gated").eval(), random(40, 5, seed=9)
    gate = (x @ sae.W_enc + sae.b_enc > 0).tolist()
    magnitude = (x @ (sae.W_enc * sae.r_mag.exp()) + sae.b_mag).tolist()
    expected = [[m if g and m > 0 else 0.0 for g, m in zip(*rows, strict=True)] for rows in zip(gate, magnitude, strict=True)]
    torch.testing.assert_close(sae.encode(x), torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-12)
    kinds = {(g, m > 0) for rows in zip(gate, magnitude, strict=True) for g, m in zip(*rows, strict=True)}
    assert len(kinds) == 4


def test_it_is_a_jumprelu_of_the_magnitude():
    """Rajamanoharan et al. 2024, appendix: f = z·1[z > θ] with z = π_mag and θ = b_mag − exp(r_mag) b_gate, where θ ≥ 0."""
    sae, jump, x = make("gated", pre_bias=True).eval(), make("jumprelu", pre_bias=True).eval(), random(40, 5, seed=9)
    with torch.no_grad():
        sae.b_enc.copy_(-sae.b_enc.abs())
        sae.b_mag.abs_()
        jump.W_enc.copy_(sae.W_enc * sae.r_mag.exp())
        jump.b_enc.copy_(sae.b_mag)
        jump.b_dec.copy_(sae.b_dec)
        jump.threshold.copy_(sae.b_mag - sae.r_mag.exp() * sae.b_enc)
    torch.testing.assert_close(sae.encode(x), jump.encode(x), rtol=1e-10, atol=1e-12)
    assert sae.encode(x).any()
