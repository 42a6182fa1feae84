"""TopK selects exactly k, whatever their sign; BatchTopK k per token of the batch, or what exceeds its threshold."""

from __future__ import annotations

import pytest
import torch
from tests.each import each
from tests.sae import literal
from tests.sae.literal import make, random
from tests.saes import forward

from saeworks.sae.architectures.batch_topk import BatchTopKSAE
from saeworks.sae.execution import active, dense

BOTH_WAYS = each("way", [active, dense])


def _mostly_negative(variant: str, **options) -> torch.nn.Module:
    """An SAE of which few pre-activations are positive."""
    sae = make(variant, **options)
    with torch.no_grad():
        sae.b_enc.sub_(1.5)
    return sae


@BOTH_WAYS
def test_with_fewer_than_k_positive_pre_activations_only_those_are_active(way):
    sae, x = _mostly_negative("topk", k=4), random(30, 5, seed=9)
    pre = x @ sae.W_enc + sae.b_enc
    step = forward(sae, x, way=way)
    counts = step.codes.dense().count_nonzero(dim=1)
    assert torch.equal(counts, (pre > 0).sum(dim=1).clamp(max=4))
    assert 0 in counts and 4 in counts and 2 in counts
    assert torch.equal(step.pre.dense().count_nonzero(dim=1), torch.full((30,), 4))


@BOTH_WAYS
def test_without_relu_l0_is_exactly_k_and_negative_values_are_kept(way):
    sae, x = _mostly_negative("topk_signed", k=4), random(30, 5, seed=9)
    step = forward(sae, x, way=way)
    assert step.codes.l0() == 4
    assert torch.equal(step.codes.dense().count_nonzero(dim=1), torch.full((30,), 4))
    assert (step.codes.dense() < 0).any()
    assert torch.equal(sae.encode(x).count_nonzero(dim=1), torch.full((30,), 4))
    literal_step = literal.step(sae, "topk_signed", x, 4)
    torch.testing.assert_close(step.codes.dense(), literal_step.codes, rtol=1e-10, atol=1e-12)


def test_a_known_case():
    sae = make("topk", d_in=4, d_sae=4, k=2)
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(4))
        sae.b_enc.zero_()
    codes = sae.encode(torch.tensor([[3.0, 1.0, 2.0, -5.0], [-1.0, -2.0, 4.0, -3.0]], dtype=torch.float64))
    assert codes.tolist() == [[3, 0, 2, 0], [0, 0, 4, 0]]


@BOTH_WAYS
def test_batchtopk_selects_k_per_token_of_the_batch_in_training(way):
    sae, x = make("batch_topk", k=3), random(9, 5, seed=9)
    step = forward(sae, x, way=way)
    counts = step.codes.dense().count_nonzero(dim=1)
    assert counts.sum() == step.pre.dense().count_nonzero() == 27
    assert counts.min() < 3 < counts.max()  # it is the batch that has k per token
    smallest = step.codes.dense()[step.codes.dense() > 0].min()
    pre = x @ sae.W_enc + sae.b_enc
    assert (pre > smallest + 1e-9).sum() == 26


@pytest.mark.parametrize("variant", ["batch_topk", "matryoshka"])
def test_the_threshold_is_the_running_mean_of_the_middle_between_kept_and_dropped_activations(variant):
    sae, middles = make(variant), []
    assert sae.threshold == 0
    for seed in range(5):
        x = random(4, 5, seed=seed) * (seed + 1)
        codes = literal.step(sae, variant, x).codes
        kept = [value for value in codes.flatten().tolist() if value > 0]
        dropped = sorted(literal.positive(x @ sae.W_enc + sae.b_enc).flatten().tolist(), reverse=True)[len(kept)]
        assert 0 < dropped < min(kept)
        middles.append((min(kept) + dropped) / 2)
        forward(sae, x, way=active if seed % 2 else dense)
        weights = [0.001 * 0.999 ** (len(middles) - 1 - i) for i in range(len(middles))]
        expected = sum(w * value for w, value in zip(weights, middles, strict=True)) / sum(weights)
        assert sae.threshold.item() == pytest.approx(expected, rel=1e-12)
    assert max(middles) > 2 * min(middles)


def test_a_batch_without_a_positive_activation_leaves_the_threshold_alone():
    sae, other = make("batch_topk"), make("batch_topk")
    silent = make("batch_topk").b_enc.detach() - 1e6
    usual = sae.b_enc.detach().clone()
    for seed in (-1, 0, -1, 1, -1):  # -1: nothing is positive
        with torch.no_grad():
            sae.b_enc.copy_(silent if seed < 0 else usual)
        forward(sae, random(4, 5, seed=max(seed, 0)))
        if seed >= 0:
            forward(other, random(4, 5, seed=seed))
        assert sae.threshold == other.threshold
    assert sae.threshold > 0


def test_at_inference_a_token_s_codes_do_not_depend_on_its_batch():
    sae, x = make("batch_topk"), random(8, 5, seed=9)
    forward(sae, x)
    in_training = sae.encode(x)
    alone_in_training = torch.cat([sae.encode(row[None]) for row in x])
    assert ((alone_in_training > 0) != (in_training > 0)).any()
    sae.eval()
    together = sae.encode(x)
    alone = torch.cat([sae.encode(row[None]) for row in x])
    torch.testing.assert_close(alone, together, rtol=1e-12, atol=1e-13)
    assert torch.equal(alone > 0, together > 0)
    for way in (active, dense):
        codes = torch.cat([forward(sae, row[None], way=way).codes.dense() for row in x])
        torch.testing.assert_close(codes, together, rtol=1e-12, atol=1e-13)


def test_at_inference_what_exceeds_the_threshold_is_active():
    sae, x = make("batch_topk"), random(8, 5, seed=9)
    for seed in range(3):
        forward(sae, random(8, 5, seed=seed))
    sae.eval()
    threshold, pre = sae.threshold.item(), x @ sae.W_enc + sae.b_enc
    expected = torch.tensor([[value if value > threshold else 0.0 for value in row] for row in pre.tolist()])
    torch.testing.assert_close(sae.encode(x), expected.double(), rtol=1e-6, atol=1e-6)
    assert ((pre > 0) & (pre <= threshold)).any() and (pre > threshold).any()
    state = {name: value.clone() for name, value in sae.state_dict().items()}
    sae(x)
    forward(sae, x)
    assert all(torch.equal(value, state[name]) for name, value in sae.state_dict().items())


def test_before_training_inference_is_a_relu():
    sae, x = make("batch_topk").eval(), random(8, 5, seed=9)
    torch.testing.assert_close(sae.encode(x), literal.positive(x @ sae.W_enc + sae.b_enc), rtol=1e-10, atol=1e-12)


def test_the_threshold_survives_saving_and_casting():
    sae, other = make("batch_topk"), make("batch_topk", seed=1)
    forward(sae, random(8, 5))
    other.load_state_dict(sae.state_dict())
    assert other.threshold == sae.threshold > 0
    assert sae.float().threshold.dtype == torch.float32


@BOTH_WAYS
def test_matryoshka_prefixes_know_nothing_of_later_features_and_end_with_the_whole(way):
    sae, x = make("matryoshka", d_sae=20), random(6, 5, seed=9)
    assert sae.prefixes == [2, 8, 20]
    before = forward(sae, x, way=way)
    codes = before.codes.dense()
    torch.testing.assert_close(before.outputs[-1], codes @ sae.W_dec + sae.b_dec, rtol=1e-10, atol=1e-12)
    assert before.output is before.outputs[-1]
    with torch.no_grad():
        sae.W_dec[8:] *= -3
    after = forward(sae, x, way=way)
    changed = [not torch.allclose(a, b) for a, b in zip(after.outputs, before.outputs, strict=True)]
    assert changed == [False, False, True]


@BOTH_WAYS
def test_a_prefix_without_features_is_the_bias(way):
    sae, x = make("matryoshka", d_sae=3), random(6, 5, seed=9)
    assert sae.prefixes == [0, 1, 3]
    step = forward(sae, x, way=way)
    assert torch.equal(step.outputs[0], sae.b_dec.expand(6, 5))
    torch.stack(step.outputs).sum().backward()
    assert torch.equal(sae.b_dec.grad, torch.full((5,), 18.0, dtype=torch.float64))


def test_a_matryoshka_sae_is_a_batchtopk_sae_but_for_its_outputs():
    sae, other, x = make("matryoshka"), make("batch_topk"), random(6, 5, seed=9)
    assert isinstance(sae, BatchTopKSAE)
    torch.testing.assert_close(forward(sae, x).output, forward(other, x).output, rtol=1e-12, atol=1e-12)
    assert torch.equal(sae.eval().encode(x), other.eval().encode(x))
