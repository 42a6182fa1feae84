"""Each architecture, with active entries only and with dense products, equals the literal formula, and so does every gradient."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from tests.each import each
from tests.sae import literal
from tests.sae.literal import VARIANTS, random
from tests.saes import forward
from torch import Tensor

from saeworks.sae.architectures.batch_topk import BatchTopKSAE
from saeworks.sae.architectures.gated import GatedSAE
from saeworks.sae.architectures.jumprelu import JumpReluSAE
from saeworks.sae.base import SAE, Forward
from saeworks.sae.execution import active, dense
from saeworks.sae.execution.choice import ByDensity

ONES = {"d_in": 1, "d_sae": 1, "n": 1, "k": 1}
SIZES = [
    ONES,
    ONES | {"d_in": 5},  # one feature
    ONES | {"d_in": 5, "n": 4},
    ONES | {"d_in": 5, "d_sae": 11, "k": 3},  # one token
    {"d_in": 5, "d_sae": 11, "n": 4, "k": 11},  # all features
    {"d_in": 6, "d_sae": 2, "n": 3, "k": 1},  # fewer features than inputs
    {"d_in": 3, "d_sae": 40, "n": 7, "k": 2},
]


def _weighed(step: literal.Step, x: Tensor) -> Tensor:
    """A number that depends on all that a training step returns, each part with weights of its own."""
    parts = [(output * random(*output.shape, seed=i)).sum() for i, output in enumerate(step.outputs)]
    parts.append((step.penalised * random(*step.penalised.shape, seed=20)).sum())
    parts.append((step.codes.square() * random(*step.codes.shape, seed=21)).sum())
    parts += [3 * value for value in step.terms.values()]
    for extra in (step.aux, step.gates):
        if extra is not None:
            parts.append((extra * random(*extra.shape, seed=22)).sum())
    return torch.stack(parts).sum()


def _as_literal(sae: SAE, step: Forward) -> literal.Step:
    aux = None if step.aux is None else step.aux.replaced(step.aux.values.relu()).decode(sae.dictionary())
    gates = sae.penalised(step, "l0").dense() if isinstance(sae, JumpReluSAE) else None
    terms = {name: weight * literal.mse(output, step.x) for name, (weight, output) in sae.further_outputs(step).items()}
    return literal.Step(step.pre.dense(), step.codes.dense(), step.outputs, sae.penalised(step, "l1").dense(), aux, gates, terms)


def _gradients(sae: SAE, value: Tensor) -> dict[str, Tensor]:
    sae.zero_grad()
    value.backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in sae.named_parameters()}


def assert_literal(
    sae: SAE,
    variant: str,
    x: Tensor,
    k: int,
    dead: Tensor | None = None,
    k_aux: int = 0,
    way: Any = active,
) -> tuple[literal.Step, dict[str, Tensor]]:
    """A training step and its gradients equal the literal ones, which are returned with the gradients."""
    ours = _as_literal(sae, forward(sae, x, dead, k_aux, way))
    expected = literal.step(sae, variant, x, k, dead, k_aux)
    assert len(ours.outputs) == len(expected.outputs)
    assert ours.terms.keys() == expected.terms.keys()
    assert (ours.aux is None, ours.gates is None) == (expected.aux is None, expected.gates is None)
    pairs = [
        *zip(ours.outputs, expected.outputs, strict=True),
        (ours.codes, expected.codes),
        (ours.penalised, expected.penalised),
    ]
    pairs += [(ours.terms[name], expected.terms[name]) for name in ours.terms]
    pairs += [pair for pair in ((ours.aux, expected.aux), (ours.gates, expected.gates)) if pair[0] is not None]
    for actual, wanted in pairs:
        torch.testing.assert_close(actual, wanted, rtol=1e-10, atol=1e-12)
    gradients = _gradients(sae, _weighed(ours, x))
    for name, wanted in _gradients(sae, _weighed(expected, x)).items():
        torch.testing.assert_close(gradients[name], wanted, rtol=1e-10, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}")
    return expected, gradients


@each("variant", VARIANTS)
@each("way", [active, dense])
@each("decoder, pre_bias", product(["normalised", "renormalised", "free"], [True, False]))
def test_a_training_step_and_its_gradients_equal_the_literal_formula(variant, decoder, pre_bias, way):
    sae = literal.make(variant, decoder=decoder, pre_bias=pre_bias)
    expected, gradients = assert_literal(sae, variant, random(6, 5, seed=9), k=3, way=way)
    assert (expected.codes == 0).any() and (expected.codes != 0).any()
    assert all(gradient.any() for gradient in gradients.values())  # none is right for being zero


@each("variant", VARIANTS)
@each("way", [active, dense])
@each("size", SIZES)
def test_the_edge_sizes(variant, size, way):
    n, k = size["n"], size["k"]
    sae = literal.make(variant, size["d_in"], size["d_sae"], k, decoder="normalised", pre_bias=True)
    assert_literal(sae, variant, random(n, size["d_in"], seed=9), k, way=way)
    with torch.no_grad():  # a token on which everything fires, too
        for name in {"b_enc", "b_mag"} & dict(sae.named_parameters()).keys():
            sae.get_parameter(name).fill_(8.0)
    expected, _ = assert_literal(sae, variant, random(n, size["d_in"], seed=9), k, way=way)
    assert expected.codes.any()


@each("variant", [v for v in VARIANTS if v != "topk_signed"])
@each("way", [active, dense])
def test_a_silent_dictionary_returns_its_bias_and_has_no_encoder_gradient(variant, way):
    sae = literal.make(variant)
    with torch.no_grad():
        sae.b_enc.fill_(-1e6)
    x = random(4, 5, seed=9)
    step = forward(sae, x, way=way)
    assert not step.codes.dense().any() and not step.codes.fired().any() and step.codes.l0() == 0
    assert all(torch.equal(output, sae.b_dec.expand(4, 5)) for output in step.outputs)
    expected, gradients = assert_literal(sae, variant, x, k=3, way=way)
    assert not any(gradient.any() for name, gradient in gradients.items() if name != "b_dec")
    assert gradients["b_dec"].all()


@each("variant", ["relu", "topk", "batch_topk", "gated", "jumprelu", "multi_topk"])
@each("way", [active, dense])
@each("dead, k_aux", product([[0], [2, 5, 6], list(range(11))], [1, 2, 4, 11, 50]))
def test_auxk_takes_the_largest_dead_pre_activations(variant, k_aux, dead, way):
    sae, x = literal.make(variant, decoder="normalised", pre_bias=True), random(4, 5, seed=9)
    mask = torch.zeros(11, dtype=torch.bool)
    mask[dead] = True
    expected, _ = assert_literal(sae, variant, x, 3, mask, k_aux, way)
    assert expected.aux.any()
    aux = forward(sae, x, mask, k_aux, way).aux.dense()
    assert not aux[:, ~mask].any()
    assert torch.equal(aux.count_nonzero(dim=1), torch.full((4,), min(k_aux, len(dead))))


@each("way", [active, dense])
def test_auxk_of_no_dead_feature_is_empty(way):
    sae, x = literal.make("topk"), random(4, 5, seed=9)
    step = forward(sae, x, torch.zeros(11, dtype=torch.bool), 3, way)
    output = step.aux.decode(sae.dictionary())
    assert output.shape == (4, 5) and not output.any()
    (output.sum() + step.output.sum()).backward()
    assert all(p.grad.isfinite().all() for p in sae.parameters())
    assert_literal(sae, "topk", x, 3, torch.zeros(11, dtype=torch.bool), 3, way)


@each("variant", ["topk", "topk_signed", "multi_topk", "batch_topk", "matryoshka"])
@each("way", [active, dense])
def test_of_equal_pre_activations_the_first_are_taken(variant, way):
    sae, generator = literal.make(variant, k=2), torch.Generator().manual_seed(0)
    with torch.no_grad():  # whole numbers: every order of summation gives the same, and many entries are equal
        for parameter in (sae.W_enc, sae.b_enc):
            parameter.copy_(torch.randint(-1, 2, parameter.shape, generator=generator))
    x = torch.randint(-1, 2, (8, 5), generator=generator).double()
    pre = x @ sae.W_enc + sae.b_enc
    assert max(int((row == row.sort(descending=True).values[1]).sum()) for row in pre) > 2
    assert_literal(sae, variant, x, 2, way=way)


@each("variant", VARIANTS)
@each("way", [active, dense])
def test_chunks_that_do_not_divide_the_batch_change_nothing(variant, way, monkeypatch):
    monkeypatch.setattr(active, "CHUNK_ROWS", 3)
    sae, dead = literal.make(variant, pre_bias=True), torch.arange(11) % 3 == 0
    assert sae.selects_by_token is not isinstance(sae, BatchTopKSAE)
    assert_literal(sae, variant, random(7, 5, seed=9), 3, dead, 2, way)


@each("variant", VARIANTS)
@each("layer_norm", [True, False])
def test_inference_is_the_training_pass_in_the_space_of_the_input(variant, layer_norm):
    sae, x = literal.make(variant, decoder="normalised", pre_bias=True, layer_norm=layer_norm), 3 * random(6, 5, seed=9) + 2
    inputs, mean, std = x, 0.0, 1.0
    if layer_norm:
        mean = torch.stack([sum(row) / 5 for row in x])[:, None]
        std = torch.stack([(sum((entry - sum(row) / 5) ** 2 for entry in row) / 4) ** 0.5 for row in x])[:, None]
        inputs = (x - mean) / (std + 1e-5)  # the way back multiplies by the standard deviation itself, as SAELens does
    expected = literal.step(sae, variant, inputs)
    output, codes = sae(x)
    torch.testing.assert_close(codes, expected.codes, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(output, expected.outputs[-1] * std + mean, rtol=1e-10, atol=1e-12)
    normalised, stats = sae.normalise(x)
    torch.testing.assert_close(normalised, inputs, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(sae.denormalise(normalised, stats), normalised * std + mean, rtol=1e-12, atol=1e-13)
    assert torch.equal(codes, sae.encode(x))
    assert torch.equal(output, sae.denormalise(sae.decode(codes), stats))


@each("variant", VARIANTS)
def test_any_number_of_leading_axes_is_one_batch(variant):
    sae, x = literal.make(variant, layer_norm=True).eval(), random(2, 3, 5, seed=9)
    output, codes = sae(x)
    assert (output.shape, codes.shape) == ((2, 3, 5), (2, 3, 11))
    flat_output, flat_codes = sae(x.flatten(0, 1))
    torch.testing.assert_close(output.flatten(0, 1), flat_output)
    torch.testing.assert_close(codes.flatten(0, 1), flat_codes)
    single, single_codes = sae(x[1, 2])
    torch.testing.assert_close(single, output[1, 2])
    torch.testing.assert_close(single_codes, codes[1, 2])


@each("variant", VARIANTS)
def test_the_codes_of_both_paths_report_the_same_firing(variant):
    sae, x = literal.make(variant, d_sae=40), random(3, 5, seed=9)
    expected = literal.step(sae, variant, x).codes
    for way in (active, dense):
        codes = forward(sae, x, way=way).codes
        assert (codes.active is not None) == (way is active)
        assert codes.n_tokens == 3
        assert torch.equal(codes.fired(), torch.tensor([bool(column.any()) for column in expected.T]))
        assert codes.l0().item() == pytest.approx(sum(float(value != 0) for value in expected.flatten()) / 3, rel=1e-6)
    assert not codes.fired().all() and codes.fired().any()


def test_the_path_is_chosen_by_the_share_of_active_entries():
    sae, x = literal.make("relu", d_sae=100), random(8, 5, seed=9)
    assert forward(sae, x, way=ByDensity()).codes.active is None  # about half of the entries
    with torch.no_grad():
        sae.b_enc.fill_(-1e6)
    assert forward(sae, x, way=ByDensity()).codes.active is not None


@each("variant", VARIANTS)
def test_both_paths_agree_to_float_rounding_at_a_realistic_size(variant):
    d_in, d_sae, n, k = 64, 1024, 512, 16
    sae = literal.make(variant, d_in, d_sae, k, decoder="normalised", pre_bias=True)
    with torch.no_grad():
        sae.W_enc.div_(d_in**0.5)
        sae.b_enc.mul_(0.2).sub_(2.0)  # about one feature in fifty fires
        if isinstance(sae, JumpReluSAE):
            sae.threshold.mul_(0.1)
            sae.options = sae.options.model_copy(update={"jumprelu_bandwidth": 0.01})
        if isinstance(sae, GatedSAE):
            sae.r_mag.mul_(0.1)
    sae.float()
    x, dead = random(n, d_in, seed=9).float(), torch.arange(d_sae) % 7 == 0
    results = []
    for way in (active, dense):
        sae.zero_grad()
        step = forward(sae, x, dead, 32, way)
        parts = [(output - x).square().mean() for output in step.outputs] + [
            sae.penalised(step, "l1").values.abs().sum() / n / d_in
        ]
        parts += [weight * (output - x).square().mean() for weight, output in sae.further_outputs(step).values()]
        parts.append(step.aux.replaced(step.aux.values.relu()).decode(sae.dictionary()).square().mean())
        if isinstance(sae, JumpReluSAE):
            parts.append(sae.penalised(step, "l0").values.sum() / n / d_in)
        torch.stack(parts).sum().backward()
        results.append([step.codes.dense(), *step.outputs, *(p.grad.clone() for p in sae.parameters())])
    assert 1 < results[0][0].count_nonzero() / n < 0.08 * d_sae
    for sparse, full in zip(*results, strict=True):
        assert full.any()
        assert (sparse - full).norm() <= 2e-6 * full.norm()
