"""The three constraints on the decoder, and building an SAE from settings."""

from __future__ import annotations

import torch
from tests.each import each
from tests.sae.literal import make, normalised_rows, random
from tests.saes import ARCHITECTURES, forward

from saeworks.config.training import TrainingConfig
from saeworks.sae.architectures.batch_topk import BatchTopKSAE
from saeworks.sae.architectures.jumprelu import JumpReluSAE
from saeworks.sae.architectures.matryoshka_batch_topk import MatryoshkaBatchTopKSAE
from saeworks.sae.architectures.topk import TopKSAE
from saeworks.sae.build import build_sae, sae_class


def test_renormalised_removes_the_part_of_the_gradient_along_each_row():
    sae = make("relu", decoder="renormalised")
    with torch.no_grad():
        sae.W_dec.mul_(torch.linspace(0.5, 2, 11, dtype=torch.float64)[:, None])  # between steps rows drift
    gradient = random(11, 5, seed=4)
    sae.W_dec.grad = gradient.clone()
    sae.before_step()
    for row, before, after in zip(sae.W_dec, gradient, sae.W_dec.grad, strict=True):
        projection = sum(g * w for g, w in zip(before, row, strict=True)) / sum(w**2 for w in row) * row
        torch.testing.assert_close(after, (before - projection).detach(), rtol=1e-10, atol=1e-12)
        assert projection.norm() > 0.01


@each("decoder", ["normalised", "free"])
def test_other_constraints_leave_the_gradient_and_the_rows_alone(decoder):
    sae = make("relu", decoder=decoder)
    sae.W_dec.grad = random(11, 5, seed=4)
    before = sae.W_dec.detach().clone()
    sae.before_step()
    sae.after_step()
    assert torch.equal(sae.W_dec.grad, random(11, 5, seed=4))
    assert torch.equal(sae.W_dec, before)


def test_renormalised_without_a_gradient_does_nothing():
    make("relu", decoder="renormalised").before_step()


def test_after_a_step_renormalised_rows_have_unit_norm():
    sae = make("relu", decoder="renormalised")
    optimizer = torch.optim.Adam(sae.parameters(), lr=0.1)
    before = sae.W_dec.detach().clone()
    forward(sae, random(8, 5)).output.square().mean().backward()
    sae.before_step()
    optimizer.step()
    expected = normalised_rows(sae.W_dec.detach())
    assert (sae.W_dec.norm(dim=1) - 1).abs().max() > 1e-3
    sae.after_step()
    torch.testing.assert_close(sae.W_dec.detach(), expected, rtol=1e-12, atol=0)
    assert not torch.equal(sae.W_dec, before)


def test_the_dictionary_is_the_decoder_unless_it_is_normalised_in_the_forward_pass():
    for decoder in ("free", "renormalised"):
        sae = make("relu", decoder=decoder)
        assert torch.equal(sae.dictionary(), sae.W_dec)
    sae = make("relu", decoder="normalised")
    torch.testing.assert_close(sae.dictionary(), normalised_rows(sae.W_dec), rtol=1e-12, atol=0)


@each("architecture", ARCHITECTURES)
def test_settings_build_each_architecture(architecture):
    settings = TrainingConfig(
        architecture=architecture,
        d_sae=64,
        decoder="free",
        pre_bias=True,
        activation_scale="layer_norm",
        topk_relu=False,
        multi_topk=True,
        jumprelu_bandwidth=0.25,
    )
    sae = build_sae(7, settings, k=5)
    assert type(sae) is sae_class(architecture) and sae.architecture == architecture
    assert (sae.d_in, sae.d_sae, sae.decoder, sae.pre_bias, sae.layer_norm) == (7, 64, "free", True, True)
    assert not any(p.any() for p in sae.parameters())
    if isinstance(sae, TopKSAE):
        assert (sae.k, sae.options.topk_relu, sae.options.multi_topk) == (5, False, True)
    if isinstance(sae, BatchTopKSAE):
        assert sae.k == 5
    if isinstance(sae, MatryoshkaBatchTopKSAE):
        assert sae.prefixes == [2, 6, 14, 30, 64]
    if isinstance(sae, JumpReluSAE):
        assert sae.options.jumprelu_bandwidth == 0.25
    with torch.no_grad():
        output, codes = sae(torch.randn(3, 7))
    assert (output.shape, codes.shape) == ((3, 7), (3, 64))
    assert not build_sae(7, TrainingConfig(architecture=architecture), k=5).layer_norm
