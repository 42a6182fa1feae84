"""Ghost activations and resampling: dead features get what the papers say, living ones nothing at all."""

from __future__ import annotations

from itertools import product

import torch
from tests.each import each
from tests.sae import literal
from tests.sae.literal import make, random
from tests.saes import forward
from torch import Tensor

from saeworks.sae.base import SAE
from saeworks.sae.dead import ghost_activations, resample
from saeworks.sae.execution import active, dense

DEAD = torch.tensor([f in (0, 4, 7) for f in range(11)])


@each("way", [active, dense])
@each("exp_relu, pre_bias", product([True, False], [True, False]))
@each("decoder", ["normalised", "renormalised", "free"])
def test_ghost_activations_and_their_gradients_equal_the_literal_formula(decoder, pre_bias, exp_relu, way):
    sae, x, upstream = make("relu", decoder=decoder, pre_bias=pre_bias), random(6, 5, seed=9), random(6, 5, seed=3)
    ghost = ghost_activations(sae, forward(sae, x, way=way), DEAD, exp_relu)
    D = literal.normalised_rows(sae.W_dec) if decoder == "normalised" else sae.W_dec
    pre = (x - sae.b_dec if pre_bias else x) @ sae.W_enc + sae.b_enc
    expected = sum(torch.exp(pre[:, f].clamp(min=0) if exp_relu else pre[:, f])[:, None] * D[f] for f in (0, 4, 7))
    torch.testing.assert_close(ghost, expected, rtol=1e-10, atol=1e-12)
    ours, theirs = (
        torch.autograd.grad((value * upstream).sum(), list(sae.parameters()), materialize_grads=True)
        for value in (ghost, expected)
    )
    for actual, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-10, atol=1e-11)
    for gradient in (ours[0].T, ours[1], ours[2]):
        assert not gradient[~DEAD].any()


@each("exp_relu", [True, False])
def test_with_exp_relu_the_encoder_of_dead_features_gets_no_gradient_at_all(exp_relu):
    sae = make("relu")
    with torch.no_grad():
        sae.b_enc[DEAD] = -30.0  # dead: never positive, but exp is not zero
    ghost_activations(sae, forward(sae, random(6, 5, seed=9)), DEAD, exp_relu).sum().backward()
    for gradient in (sae.W_enc.grad[:, DEAD], sae.b_enc.grad[DEAD]):
        assert not gradient.any() if exp_relu else gradient.all()
    assert sae.W_dec.grad[DEAD].all() and not sae.W_dec.grad[~DEAD].any()


@each("exp_relu, dead", product([True, False], [torch.zeros(11), torch.ones(11)]))
def test_ghost_activations_of_no_and_of_all_features(dead, exp_relu):
    sae, x = make("relu"), random(6, 5, seed=9)
    ghost = ghost_activations(sae, forward(sae, x), dead.bool(), exp_relu)
    pre = x @ sae.W_enc + sae.b_enc
    expected = torch.exp(pre.clamp(min=0) if exp_relu else pre) @ sae.W_dec * dead.any()
    torch.testing.assert_close(ghost, expected, rtol=1e-10, atol=1e-12)
    ghost.sum().backward()


# resampling


def _trained(variant: str = "relu", **options) -> tuple[SAE, torch.optim.Adam]:
    """An SAE whose optimiser has moments for every entry of every parameter."""
    sae = make(variant, **options)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-3)
    for parameter in sae.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return sae, optimizer


def _per_feature(name: str, tensor: Tensor) -> Tensor:
    return tensor.T if name == "W_enc" else tensor


@each("variant", ["relu", "topk", "batch_topk", "gated", "jumprelu"])
@each("pre_bias", [True, False])
def test_dead_features_are_reset_and_living_ones_are_untouched(variant, pre_bias):
    sae, optimizer = _trained(variant, pre_bias=pre_bias)
    before = {name: p.detach().clone() for name, p in sae.named_parameters()}
    moments = {name: {key: v.clone() for key, v in optimizer.state[p].items()} for name, p in sae.named_parameters()}
    buffers = {name: value.clone() for name, value in sae.named_buffers()}
    x = random(20, 5, seed=9)
    resample(sae, optimizer, DEAD, x, torch.Generator().manual_seed(0))
    assert sae.training
    assert all(torch.equal(value, buffers[name]) for name, value in sae.named_buffers())
    for name, parameter in sae.named_parameters():
        state = optimizer.state[parameter]
        assert state["step"] == moments[name]["step"]
        if name == "b_dec":
            assert torch.equal(parameter, before[name])
            assert all(torch.equal(state[key], moments[name][key]) for key in ("exp_avg", "exp_avg_sq"))
            continue
        now, then = _per_feature(name, parameter), _per_feature(name, before[name])
        assert torch.equal(now[~DEAD], then[~DEAD])
        for key in ("exp_avg", "exp_avg_sq"):
            now_moment, then_moment = _per_feature(name, state[key]), _per_feature(name, moments[name][key])
            assert torch.equal(now_moment[~DEAD], then_moment[~DEAD]) and then_moment.all()
            assert not now_moment[DEAD].any()
        if name in ("b_enc", "b_mag", "r_mag", "threshold"):
            assert not now[DEAD].any() and then[DEAD].all()
    inputs = literal.normalised_rows(x - before["b_dec"] if pre_bias else x)
    encoder_norm = sum(float(column.norm()) for column in before["W_enc"].T[~DEAD]) / 8
    decoder_norm = sum(float(row.norm()) for row in before["W_dec"][~DEAD]) / 8
    for feature in (0, 4, 7):
        direction = sae.W_dec[feature].detach() / decoder_norm
        assert (inputs - direction).abs().amax(dim=1).min() < 1e-12  # it is one of the inputs
        torch.testing.assert_close(sae.W_enc[:, feature].detach(), 0.2 * encoder_norm * direction, rtol=1e-10, atol=1e-12)


@each("pre_bias", [True, False])
def test_a_single_badly_reconstructed_input_is_given_to_all_dead_features(pre_bias):
    sae, optimizer = _trained(pre_bias=pre_bias)
    x = random(50, 5, seed=9)
    with torch.no_grad():  # an identity made of the 2·5 living features x_i and −x_i; feature 10 is dead
        shift = sae.b_dec if pre_bias else torch.zeros(5)
        signed = torch.cat([torch.eye(5), -torch.eye(5), torch.zeros(1, 5)]).double()
        sae.W_enc.copy_(signed.T)
        sae.W_dec.copy_(signed)
        sae.b_enc.fill_(0.0)
        sae.b_dec.copy_(shift)
        sae.b_enc[0] = -4.0  # all are exact but those with a large first component
        sae.W_enc[0, 0] = 2.0
        x[:, 0] = -x[:, 0].abs() + shift[0]
        x[17, 0] = 3.0 + shift[0]  # 2·3 − 4 = 2 instead of 3
    dead = torch.arange(11) == 10
    error = (forward(sae, x).output - x).square().sum(dim=1)
    assert error[17] > 0.9 and error.sum() - error[17] < 1e-20
    for seed in range(5):
        resample(sae, optimizer, dead, x, torch.Generator().manual_seed(seed))
        direction = (x[17] - shift) / (x[17] - shift).norm()
        torch.testing.assert_close(sae.W_dec[10].detach() / sae.W_dec[10].norm().detach(), direction, rtol=1e-10, atol=1e-12)


def test_inputs_are_drawn_by_the_square_of_their_squared_error():
    d_sae = 4000
    sae, optimizer = _trained(d_in=3, d_sae=d_sae)
    with torch.no_grad():  # silent: the reconstruction is 0, the squared error ‖x‖²
        sae.b_enc.fill_(-1e6)
        sae.b_dec.zero_()
    x = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)).sqrt()
    resample(sae, optimizer, torch.ones(d_sae, dtype=torch.bool), x, torch.Generator().manual_seed(0))
    shares = (sae.W_dec > 0.5).double().mean(dim=0)
    expected = torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64) / 14  # with ‖x‖² it would be 1, 2, 3 of 6
    assert (shares - expected).abs().max() < 4 * (0.25 / d_sae) ** 0.5
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(d_sae).double())  # no living row: norm 1
    torch.testing.assert_close(sae.W_enc.norm(dim=0), torch.full((d_sae,), 0.2).double())


def test_the_weights_of_more_inputs_than_fit_one_pass_are_those_of_all():
    sae, optimizer = _trained()
    x = torch.zeros(2500, 5, dtype=torch.float64)
    with torch.no_grad():
        sae.b_enc.fill_(-1e6)
        sae.b_dec.zero_()
    x[2100] = random(5)
    resample(sae, optimizer, DEAD, x, torch.Generator().manual_seed(0))
    torch.testing.assert_close(literal.normalised_rows(sae.W_dec[DEAD]), (random(5) / random(5).norm()).repeat(3, 1))


def test_without_any_error_all_inputs_are_equally_likely():
    sae, optimizer = _trained(d_in=3, d_sae=3000)
    with torch.no_grad():
        sae.b_enc.fill_(-1e6)
        sae.b_dec.copy_(torch.tensor([0.0, 1.0, 0.0]))
    x = sae.b_dec.detach().repeat(4, 1)
    resample(sae, optimizer, torch.ones(3000, dtype=torch.bool), x, torch.Generator().manual_seed(0))
    torch.testing.assert_close(sae.W_dec.detach(), x[:1].repeat(3000, 1))


def test_without_dead_features_nothing_happens():
    sae, optimizer = _trained()
    before = [p.detach().clone() for p in sae.parameters()]
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    resample(sae, optimizer, torch.zeros(11, dtype=torch.bool), random(20, 5), generator)
    assert all(torch.equal(p, b) for p, b in zip(sae.parameters(), before, strict=True))
    assert torch.equal(generator.get_state(), state)


def test_the_same_generator_resamples_the_same():
    results = []
    for seed in (0, 0, 1):
        sae, optimizer = _trained()
        torch.manual_seed(len(results))
        resample(sae, optimizer, DEAD, random(20, 5, seed=9), torch.Generator().manual_seed(seed))
        results.append(sae.W_dec.detach().clone())
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_the_threshold_of_batchtopk_is_not_moved_by_a_look():
    sae, optimizer = _trained("batch_topk")
    forward(sae, random(20, 5))
    threshold = sae.threshold.clone()
    resample(sae, optimizer, DEAD, random(20, 5, seed=9), torch.Generator().manual_seed(0))
    assert sae.threshold == threshold > 0
