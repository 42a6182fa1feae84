"""The ReLU dictionary computes its formula, differentiates through the normalisation, and starts as the paper's does."""

from __future__ import annotations

import torch

from saeworks.sae.init import init_braun2024
from saeworks.sae.relu import ReluSAE

_D, _F = 5, 11


def _sae(seed: int = 0, d_in: int = _D, d_sae: int = _F) -> ReluSAE:
    """A float64 SAE whose decoder rows have all kinds of norms."""
    sae = ReluSAE(d_in, d_sae).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.normal_(generator=generator)
        sae.W_dec.mul_(torch.logspace(-2, 2, d_sae, dtype=torch.float64)[:, None])
    return sae


def _inputs(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, _D, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def _literal(sae: ReluSAE, x: torch.Tensor) -> tuple[list[list[torch.Tensor]], list[list[torch.Tensor]]]:
    """Reconstruction and codes of (tokens, d_in), one number at a time."""
    norms = [sum(sae.W_dec[f, i] ** 2 for i in range(sae.d_in)) ** 0.5 for f in range(sae.d_sae)]
    outputs, codes = [], []
    for token in x:
        pre = [sum(token[i] * sae.W_enc[i, f] for i in range(sae.d_in)) + sae.b_enc[f] for f in range(sae.d_sae)]
        code = [value if value > 0 else value * 0 for value in pre]
        parts = [[code[f] * sae.W_dec[f, i] / norms[f] for f in range(sae.d_sae)] for i in range(sae.d_in)]
        outputs.append([sum(part) + sae.b_dec[i] for i, part in enumerate(parts)])
        codes.append(code)
    return outputs, codes


def _stack(rows: list[list[torch.Tensor]]) -> torch.Tensor:
    return torch.stack([torch.stack(row) for row in rows])


def test_the_forward_pass_and_its_gradients_equal_the_literal_formula():
    sae, x = _sae(), _inputs(4)
    output, codes = sae(x)
    expected_output, expected_codes = map(_stack, _literal(sae, x))
    torch.testing.assert_close(output, expected_output, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(codes, expected_codes, rtol=1e-10, atol=1e-12)
    assert (codes == 0).any() and (codes > 0).any()
    upstream = torch.randn(4, _D, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def gradients(out: torch.Tensor, code: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad((out * upstream).sum() + code.square().sum(), list(sae.parameters()))

    for ours, theirs in zip(gradients(output, codes), gradients(expected_output, expected_codes), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_any_number_of_leading_axes_is_one_batch():
    sae, x = _sae(), _inputs(2, 3)
    output, codes = sae(x)
    assert (output.shape, codes.shape) == ((2, 3, _D), (2, 3, _F))
    flat_output, flat_codes = sae(x.flatten(0, 1))
    torch.testing.assert_close(output.flatten(0, 1), flat_output)
    torch.testing.assert_close(codes.flatten(0, 1), flat_codes)
    single, _ = sae(x[1, 2])
    torch.testing.assert_close(single, output[1, 2])


def test_forward_is_encode_then_decode():
    sae, x = _sae(), _inputs(4)
    output, codes = sae(x)
    assert torch.equal(codes, sae.encode(x))
    assert torch.equal(output, sae.decode(codes))


def test_the_decoder_bias_is_not_subtracted_from_the_input():
    sae, x = _sae(), _inputs(4)
    codes = sae.encode(x)
    with torch.no_grad():
        sae.b_dec += 100
    assert torch.equal(sae.encode(x), codes)


def test_one_feature_and_one_token_work():
    sae = _sae(d_sae=1)
    with torch.no_grad():
        sae.b_enc.fill_(50)
    output, codes = sae(_inputs(1))
    expected_output, expected_codes = map(_stack, _literal(sae, _inputs(1)))
    torch.testing.assert_close(output, expected_output)
    torch.testing.assert_close(codes, expected_codes)


def test_a_silent_dictionary_reconstructs_the_decoder_bias():
    sae = _sae()
    with torch.no_grad():
        sae.b_enc.fill_(-1e6)
    output, codes = sae(_inputs(4))
    assert not codes.any()
    torch.testing.assert_close(output, sae.b_dec.expand(4, _D))


def test_the_dictionary_has_unit_rows_whatever_the_scale_of_the_decoder():
    sae = _sae()
    torch.testing.assert_close(sae.dictionary().norm(dim=1), torch.ones(_F, dtype=torch.float64), rtol=1e-12, atol=0)
    before = sae(_inputs(4))[0]
    with torch.no_grad():
        sae.W_dec.mul_(torch.rand(_F, 1, dtype=torch.float64) * 10 + 0.1)
    torch.testing.assert_close(sae(_inputs(4))[0], before)


def test_the_gradient_along_a_decoder_row_is_zero_and_across_it_is_not():
    sae = _sae()
    sae(_inputs(20))[0].square().sum().backward()
    rows = sae.dictionary().detach()
    along = (sae.W_dec.grad * rows).sum(dim=1)
    firing = sae.W_dec.grad.norm(dim=1) > 0
    assert firing.sum() > _F // 2
    assert (along.abs()[firing] / sae.W_dec.grad.norm(dim=1)[firing]).max() < 1e-10


def test_the_initial_encoder_and_biases_are_uniform_in_the_paper_s_ranges():
    d_in, d_sae = 16, 4096
    sae = ReluSAE(d_in, d_sae)
    init_braun2024(sae, torch.Generator().manual_seed(0))
    for parameter, bound in ((sae.W_enc, d_in**-0.5), (sae.b_enc, d_in**-0.5), (sae.b_dec, d_sae**-0.5)):
        assert parameter.abs().max() <= bound
    for parameter in (sae.W_enc, sae.b_enc):
        quarters = torch.histc(parameter.detach(), 4, -(d_in**-0.5), d_in**-0.5) / parameter.numel()
        assert (quarters - 0.25).abs().max() < 0.03  # uniform over the whole range, not a part of it
    assert sae.b_dec.abs().max() > 0.6 * d_sae**-0.5
    assert sae.b_dec.min() < 0 < sae.b_dec.max()


def test_the_initial_decoder_has_orthonormal_columns_and_is_not_tied_to_the_encoder():
    sae = ReluSAE(16, 400)
    init_braun2024(sae, torch.Generator().manual_seed(0))
    torch.testing.assert_close(sae.W_dec.T @ sae.W_dec, torch.eye(16), rtol=0, atol=1e-5)
    mean_norm = sae.W_dec.norm(dim=1).square().mean().sqrt().item()
    assert abs(mean_norm - (16 / 400) ** 0.5) < 1e-5
    cosines = (torch.nn.functional.normalize(sae.W_enc.T, dim=1) * sae.dictionary()).sum(dim=1)
    assert cosines.abs().mean() < 0.3


def test_a_dictionary_smaller_than_the_input_starts_with_orthonormal_rows():
    sae = ReluSAE(16, 3)
    init_braun2024(sae, torch.Generator().manual_seed(0))
    torch.testing.assert_close(sae.W_dec @ sae.W_dec.T, torch.eye(3), rtol=0, atol=1e-5)


def test_the_initialisation_depends_on_its_generator_alone():
    def weights(seed: int, global_seed: int) -> torch.Tensor:
        torch.manual_seed(global_seed)
        sae = ReluSAE(_D, _F)
        state = torch.get_rng_state()
        init_braun2024(sae, torch.Generator().manual_seed(seed))
        assert torch.equal(torch.get_rng_state(), state)
        return torch.cat([p.detach().flatten() for p in sae.parameters()])

    assert torch.equal(weights(1, 0), weights(1, 5))
    other = weights(2, 0)
    assert (other != weights(1, 0)).all()


def test_initialising_leaves_the_parameters_trainable():
    sae = ReluSAE(_D, _F)
    init_braun2024(sae, torch.Generator().manual_seed(0))
    assert all(p.requires_grad and p.is_leaf for p in sae.parameters())
