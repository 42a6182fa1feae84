"""The ReLU dictionary, one number at a time, and what is particular to the one of Braun et al."""

from __future__ import annotations

import torch
from tests.sae.literal import make, random

from saeworks.sae.architectures.relu import ReluSAE


def _literal(sae: ReluSAE, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Reconstruction and codes of (tokens, d_in), one number at a time."""
    norms = [sum(sae.W_dec[f, i] ** 2 for i in range(sae.d_in)) ** 0.5 for f in range(sae.d_sae)]
    outputs, codes = [], []
    for token in x:
        pre = [sum(token[i] * sae.W_enc[i, f] for i in range(sae.d_in)) + sae.b_enc[f] for f in range(sae.d_sae)]
        code = [value if value > 0 else value * 0 for value in pre]
        parts = [[code[f] * sae.W_dec[f, i] / norms[f] for f in range(sae.d_sae)] for i in range(sae.d_in)]
        outputs.append(torch.stack([sum(part) + sae.b_dec[i] for i, part in enumerate(parts)]))
        codes.append(torch.stack(code))
    return torch.stack(outputs), torch.stack(codes)


def test_the_forward_pass_and_its_gradients_equal_the_literal_formula():
    sae, x, upstream = make("relu", decoder="normalised"), random(4, 5, seed=9), random(4, 5, seed=3)

    def gradients(output: torch.Tensor, codes: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad((output * upstream).sum() + codes.square().sum(), list(sae.parameters()))

    ours, theirs = sae(x), _literal(sae, x)
    for actual, expected in zip((*ours, *gradients(*ours)), (*theirs, *gradients(*theirs)), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-11)
    assert (ours[1] == 0).any() and (ours[1] > 0).any()


def test_the_decoder_bias_is_subtracted_from_the_input_under_pre_bias_only():
    x = random(4, 5, seed=9)
    for pre_bias in (True, False):
        sae = make("relu", pre_bias=pre_bias)
        codes = sae.encode(x)
        with torch.no_grad():
            sae.b_dec += 100
        assert torch.equal(sae.encode(x), codes) is not pre_bias
        torch.testing.assert_close(sae.encode(x + 100 * pre_bias), codes, rtol=1e-9, atol=1e-9)


def test_normalised_rows_make_the_scale_of_the_decoder_irrelevant():
    sae = make("relu", decoder="normalised")
    torch.testing.assert_close(sae.dictionary().norm(dim=1), torch.ones(11, dtype=torch.float64), rtol=1e-12, atol=0)
    before = sae(random(4, 5))[0]
    with torch.no_grad():
        sae.W_dec.mul_(torch.rand(11, 1, dtype=torch.float64) * 10 + 0.1)
    torch.testing.assert_close(sae(random(4, 5))[0], before)
    sae(random(20, 5))[0].square().sum().backward()
    along = (sae.W_dec.grad * sae.dictionary()).sum(dim=1).abs()
    assert (sae.W_dec.grad.norm(dim=1) > 0).sum() > 5
    assert (along <= 1e-10 * sae.W_dec.grad.norm(dim=1)).all()
