"""Products with active entries only equal dense ones, gradients included."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from tests.each import each
from tests.sae.literal import random
from torch import Tensor

from saeworks.sae.codes import Codes
from saeworks.sae.execution.products import Active, decode_active, encode_active
from saeworks.sae.selection import flat_nonzero

# masks of (rows, features): what is active
MASKS = {
    "one entry": torch.ones(1, 1, dtype=torch.bool),
    "one token": random(1, 9) > 0,
    "one feature": random(7, 1) > 0,
    "some": random(7, 9) > 0.5,
    "empty rows and features": (random(7, 9) > 0) & (torch.arange(9) % 3 == 1) & (torch.arange(7) % 2 == 1)[:, None],
    "first and last": torch.arange(63).view(7, 9) % 62 == 0,
    "all": torch.ones(7, 9, dtype=torch.bool),
    "none": torch.zeros(7, 9, dtype=torch.bool),
}
with_masks = each("mask", MASKS.values())


def _active(mask: Tensor) -> tuple[Active, Tensor, Tensor]:
    """Active entries, their values, and the same as a dense matrix."""
    dense = random(*mask.shape, seed=5) * mask
    flat = [i for i, kept in enumerate(mask.flatten().tolist()) if kept]
    return Active(torch.tensor(flat, dtype=torch.long), tuple(mask.shape)), dense.flatten()[flat], dense


def _close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-13)


@with_masks
@each("d", [1, 5])
def test_the_products_equal_dense_ones(mask, d):
    active, values, dense = _active(mask)
    rows, features = random(mask.shape[0], d, seed=1), random(mask.shape[1], d, seed=2)
    _close(active.times(values, features), dense @ features)
    _close(active.transposed_times(values, rows), dense.T @ rows)
    _close(active.product_at(rows, features), (rows @ features.T)[mask])
    _close(active.feature_sums(values), dense.sum(dim=0))
    assert active.row_offsets.tolist() == [int(mask[:i].sum()) for i in range(mask.shape[0] + 1)]
    assert active.col_offsets.tolist() == [int(mask[:, :i].sum()) for i in range(mask.shape[1] + 1)]
    assert torch.equal(active.cols[active.by_feature], mask.T.nonzero()[:, 0])
    assert torch.equal(active.rows[active.by_feature], mask.T.nonzero()[:, 1])


@with_masks
def test_decoding_and_its_gradients_equal_the_dense_product(mask):
    active, values, dense = _active(mask)
    dictionary, upstream = random(mask.shape[1], 5, seed=1).requires_grad_(), random(mask.shape[0], 5, seed=2)
    values.requires_grad_()
    dense.requires_grad_()
    output = decode_active(active, values, dictionary)
    _close(output, dense @ dictionary)
    ours = torch.autograd.grad((output * upstream).sum(), (values, dictionary))
    theirs = torch.autograd.grad((dense @ dictionary * upstream).sum(), (dense, dictionary))
    _close(ours[0], theirs[0][mask])
    _close(ours[1], theirs[1])


@with_masks
@each("chunk_rows, pre_bias", product([1, 2, 3, 7, 100], [True, False]))
def test_encoding_and_its_gradients_equal_the_dense_formula_for_every_chunk(mask, chunk_rows, pre_bias):
    n, d_sae = mask.shape
    x = random(n, 5, seed=1)
    W_enc, b_enc, b_dec = parameters = [random(*shape, seed=7).requires_grad_() for shape in ((5, d_sae), (d_sae,), (5,))]
    other = mask.roll(1, dims=1)  # a second purpose, which shares entries with the first
    sizes: list[int] = []

    def select(pre: Tensor) -> list[Tensor]:
        part = slice(sum(sizes), sum(sizes) + len(pre))
        sizes.append(len(pre))
        return [flat_nonzero(mask[part]), flat_nonzero(other[part])]

    results = encode_active(x, W_enc, b_enc, b_dec if pre_bias else None, select, chunk_rows)
    dense = (x - b_dec if pre_bias else x) @ W_enc + b_enc
    assert sizes == [min(chunk_rows, n - start) for start in range(0, n, chunk_rows)]
    ours, theirs = [], []
    for seed, (wanted, (active, values)) in enumerate(zip((mask, other), results, strict=True)):
        assert torch.equal(active.rows * d_sae + active.cols, wanted.flatten().nonzero().flatten())
        _close(values, dense[wanted])
        upstream = random(n, d_sae, seed=20 + seed)
        ours.append((values * upstream[wanted]).sum())
        theirs.append((dense * upstream * wanted).sum())
    wrt = parameters if pre_bias else parameters[:2]
    for actual, expected in zip(torch.autograd.grad(sum(ours), wrt), torch.autograd.grad(sum(theirs), wrt), strict=True):
        _close(actual, expected)


def test_a_purpose_without_a_gradient_adds_none():
    x, W_enc, b_enc = random(4, 5), random(5, 9, seed=1).requires_grad_(), random(9, seed=2).requires_grad_()
    (active, values), _ = encode_active(x, W_enc, b_enc, None, lambda pre: [flat_nonzero(pre > 0), flat_nonzero(pre < 0)], 4)
    values.sum().backward()
    _close(b_enc.grad, torch.zeros(9, dtype=torch.float64).index_add(0, active.cols, torch.ones(len(values)).double()))


def test_the_sparse_functions_pass_gradcheck():
    active, values, _ = _active(MASKS["some"])
    dictionary = random(9, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda v, D: decode_active(active, v, D), (values.requires_grad_(), dictionary))
    places = active.rows * 9 + active.cols

    def encoded(W: Tensor, b: Tensor, b_dec: Tensor) -> Tensor:
        return encode_active(random(7, 4, seed=2), W, b, b_dec, lambda pre: [places], 7)[0][1]

    inputs = (random(4, 9, seed=3), random(9, seed=4), random(4, seed=5))
    assert torch.autograd.gradcheck(encoded, [tensor.requires_grad_() for tensor in inputs])


@with_masks
def test_codes_are_the_same_matrix_in_either_form(mask):
    active, values, dense = _active(mask)
    dictionary, parameter = random(mask.shape[1], 5, seed=1), random(mask.shape[1], seed=2)
    forms = Codes(values, active), Codes(dense)
    for codes in forms:
        assert codes.n_tokens == mask.shape[0]
        _close(codes.dense(), dense)
        _close(codes.decode(dictionary), dense @ dictionary)
        _close(codes.replaced(codes.values * codes.at(parameter)).dense(), dense * parameter)
        assert torch.equal(codes.fired(), mask.any(dim=0))
        assert codes.l0().item() == pytest.approx(mask.sum().item() / mask.shape[0], rel=1e-6)


def test_stored_zeros_do_not_fire():
    active, values, dense = _active(MASKS["all"])
    codes = Codes(values.relu(), active)
    assert torch.equal(codes.fired(), (dense > 0).any(dim=0))
    assert codes.l0().item() == pytest.approx((dense > 0).sum().item() / 7, rel=1e-6)
    codes = codes.replaced(values * 0)
    assert not codes.fired().any() and codes.l0() == 0


def test_the_gradient_of_the_whole_matrix_reaches_the_values():
    active, values, dense = _active(MASKS["some"])
    values.requires_grad_()
    (Codes(values, active).dense() * random(7, 9, seed=3)).sum().backward()
    assert torch.equal(values.grad, random(7, 9, seed=3)[MASKS["some"]])
