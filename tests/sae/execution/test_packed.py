"""Kernels equal dense formulas, training steps through them equal the literal and the dense ones, and faults are noticed.

They run in Triton's interpreter, on the CPU, and are compiled for an H200, which needs none.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tests.each import each
from tests.sae import literal
from tests.sae.literal import random
from tests.sae.test_architectures import assert_literal
from tests.saes import forward
from torch import Tensor

pytest.importorskip("triton", reason="needs Triton: `make kernels`")

from saeworks.sae.codes import Codes  # noqa: E402
from saeworks.sae.execution import compact, kernels, packed, trial  # noqa: E402
from saeworks.sae.execution.compact import Compacted, encode_compact  # noqa: E402
from saeworks.sae.execution.packed import capacity_for, count_selected  # noqa: E402
from saeworks.sae.execution.products import decode_active  # noqa: E402
from saeworks.sae.execution.trial import kernel_fault  # noqa: E402

_CPU = torch.device("cpu")
_GRID = torch.arange(7)[:, None] * 9 + torch.arange(9)

# matrices of (rows, features) with entries above 0 where they are active
MASKS = {
    "one entry": torch.ones(1, 1, dtype=torch.bool),
    "one token": random(1, 9) > 0,
    "one feature": random(7, 1) > 0,
    "some": random(7, 9) > 0.5,
    "empty rows and features": (random(7, 9) > 0) & (torch.arange(9) % 3 == 1) & (torch.arange(7) % 2 == 1)[:, None],
    "first and last": _GRID % 62 == 0,
    "all": torch.ones(7, 9, dtype=torch.bool),
    "none": torch.zeros(7, 9, dtype=torch.bool),
    "a long row and a long feature": (torch.arange(13)[:, None] == 3) | (torch.arange(15) == 10),
}
with_masks = each("mask", MASKS.values())


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Several blocks in small matrices, none of whose sizes they divide."""
    for name, size in {"_BLOCK": 4, "_WIDTH": 4, "_TILE": 16, "_ENTRIES": 2, "_SPLITS": 2}.items():
        monkeypatch.setattr(kernels, name, size)


def _packed(mask: Tensor, spare: int = 0) -> tuple[Compacted, Tensor, Tensor]:
    """Places of the entries, their values, and the same as a dense matrix."""
    floor = random(mask.shape[1], seed=4)
    matrix = floor + (0.1 + random(*mask.shape, seed=5).abs()) * torch.where(mask, 1.0, -1.0)
    matrix[0, 0] = matrix[0, 0] if mask[0, 0] else floor[0]  # an entry at its floor is not above it
    active, values = compact.compact(matrix, floor, int(mask.sum()) + spare)
    return active, values, matrix * mask


def _close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-13)


def _with_zeros(values: Tensor, n: int) -> Tensor:
    return torch.cat([values, values.new_zeros(n - len(values))])


@with_masks
@each("spare", [0, 5])
def test_entries_above_their_floor_are_packed_in_order(mask, spare):
    active, values, dense = _packed(mask, spare)
    n = int(mask.sum())
    assert active.count == n and len(values) == n + spare
    assert torch.equal(torch.stack([active.rows[:n], active.cols[:n]], dim=1).long(), mask.nonzero())
    assert torch.equal(values, _with_zeros(dense[mask], n + spare))
    assert active.cols[n:].tolist() == [mask.shape[1]] * spare
    assert active.row_offsets.tolist() == [int(mask[:i].sum()) for i in range(mask.shape[0] + 1)]
    assert active.col_offsets.tolist() == [int(mask[:, :i].sum()) for i in range(mask.shape[1] + 1)]
    assert torch.equal(active.dense(values), dense)


@with_masks
@each("spare, d", [(0, 1), (5, 9)])
def test_the_products_equal_dense_ones(mask, spare, d):
    active, values, dense = _packed(mask, spare)
    n = int(mask.sum())
    rows, features = random(mask.shape[0], d, seed=1), random(mask.shape[1], d, seed=2)
    values[n:] = torch.nan  # which must not be read
    _close(active.times(values, features), dense @ features)
    _close(active.transposed_times(values, rows), dense.T @ rows)
    _close(active.feature_sums(values), dense.sum(dim=0))
    _close(active.product_at(rows, features), _with_zeros((rows @ features.T)[mask], n + spare))


def test_float32_is_summed_in_float32():
    mask = MASKS["a long row and a long feature"]
    active, values, dense = _packed(mask, 5)
    rows, features = random(13, 9, seed=1), random(15, 9, seed=2)
    for ours, theirs in (
        (active.times(values.float(), features.float()), dense @ features),
        (active.transposed_times(values.float(), rows.float()), dense.T @ rows),
        (active.product_at(rows.float(), features.float())[:-5], (rows @ features.T)[mask]),
    ):
        assert ours.dtype == torch.float32
        assert (ours - theirs).abs().max() < 3e-6 * theirs.abs().max()


def test_tensors_that_are_not_contiguous_are_read_as_they_are_meant():
    active, values, dense = _packed(MASKS["some"])
    rows, features = random(5, 7, seed=1).T, random(5, 9, seed=2).T
    _close(active.times(values, features), dense @ features)
    _close(active.transposed_times(values, rows), dense.T @ rows)
    _close(active.product_at(rows, features), (rows @ features.T)[MASKS["some"]])
    ones = values.new_ones(()).expand(len(values))
    _close(active.feature_sums(ones), MASKS["some"].double().sum(dim=0))


@each("capacity", [0, 1, 10, 62])
def test_entries_without_a_place_are_counted_and_nothing_is_written_or_read_beyond(capacity):
    mask = MASKS["all"]
    matrix, floor = random(7, 9, seed=5) + 10, torch.zeros(9, dtype=torch.float64)
    counts = kernels.count_rows(matrix, floor)
    assert counts.tolist() == [9] * 7
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    buffers = torch.full((70,), -1, dtype=torch.int32), torch.full((70,), -1, dtype=torch.int32), torch.full((70,), -1.0).double()
    kernels.fill(*(buffer[:capacity] for buffer in buffers), offsets, matrix, floor, 0)
    rows, cols, values = buffers
    for buffer in buffers:
        assert (buffer[capacity:] == -1).all() and (buffer[:capacity] >= 0).all()
    active = Compacted(rows[:capacity], cols[:capacity], offsets, (7, 9))
    assert active.count == mask.sum()
    kept = mask & (capacity > _GRID)
    rows, features = random(7, 5, seed=1), random(9, 5, seed=2)
    cols[capacity:] = 10**6  # a place that would end the process
    _close(active.times(values[:capacity], features), (matrix * kept) @ features)
    _close(active.transposed_times(values[:capacity], rows), (matrix * kept).T @ rows)
    _close(active.product_at(rows, features), (rows @ features.T)[kept])


@with_masks
def test_decoding_and_its_gradients_equal_the_dense_product(mask):
    active, values, dense = _packed(mask, 5)
    n = int(mask.sum())
    dictionary, upstream = random(mask.shape[1], 5, seed=1).requires_grad_(), random(mask.shape[0], 5, seed=2)
    values, dense = values.requires_grad_(), dense.requires_grad_()
    output = decode_active(active, values, dictionary)
    _close(output, dense @ dictionary)
    ours = torch.autograd.grad((output * upstream).sum(), (values, dictionary))
    theirs = torch.autograd.grad((dense @ dictionary * upstream).sum(), (dense, dictionary))
    _close(ours[0], _with_zeros(theirs[0][mask], n + 5))
    _close(ours[1], theirs[1])


@with_masks
@each("chunk_rows, pre_bias", [(3, True), (100, False)])
def test_encoding_and_its_gradients_equal_the_dense_formula_for_every_chunk(mask, chunk_rows, pre_bias, monkeypatch):
    monkeypatch.setattr(compact, "CHUNK_ROWS", chunk_rows)
    n, d_sae = mask.shape
    x = random(n, 5, seed=1)
    W_enc, b_enc, b_dec = parameters = [random(*shape, seed=7).requires_grad_() for shape in ((5, d_sae), (d_sae,), (5,))]
    dense = (x - b_dec if pre_bias else x) @ W_enc + b_enc
    floor = random(d_sae, seed=8)
    kept = dense > floor
    active, values = encode_compact(x, W_enc, b_enc, b_dec if pre_bias else None, floor, int(kept.sum()) + 3)
    _close(active.dense(values), dense * kept)
    upstream = random(n, d_sae, seed=20)
    ours = (values * _with_zeros(upstream[kept], len(values))).sum()
    theirs = (dense * upstream * kept).sum()
    wrt = parameters if pre_bias else parameters[:2]
    for actual, expected in zip(torch.autograd.grad(ours, wrt), torch.autograd.grad(theirs, wrt), strict=True):
        _close(actual, expected)


@with_masks
def test_codes_are_the_same_matrix_in_either_form(mask):
    active, values, dense = _packed(mask, 5)
    dictionary, parameter = random(mask.shape[1], 5, seed=1), random(mask.shape[1], seed=2).requires_grad_()
    gradients = []
    for codes in (Codes(values, active), Codes(dense)):
        assert codes.n_tokens == mask.shape[0]
        _close(codes.decode(dictionary), dense @ dictionary)
        weighed = codes.replaced(codes.values * codes.at(parameter))
        _close(weighed.dense(), dense * parameter)
        gradients += torch.autograd.grad((weighed.dense() * random(*mask.shape, seed=3)).sum(), parameter)
        assert torch.equal(codes.fired(), mask.any(dim=0))
        assert codes.l0().item() == pytest.approx(mask.sum().item() / mask.shape[0], rel=1e-6)
    _close(*gradients)
    silent = Codes(values * 0, active)
    assert not silent.fired().any() and silent.l0() == 0


# training steps


def _entries(sae, x: Tensor) -> int:
    pre = (x - sae.b_dec if sae.pre_bias else x) @ sae.W_enc + sae.b_enc
    return int((pre > sae.floor()).sum())


@dataclass
class _WithPlaces:
    """Packed entries with so many places."""

    capacity: int

    def encode(self, sae, x, dead=None, k_aux=0):
        return packed.encode(sae, x, self.capacity)


@pytest.mark.parametrize("variant", ["relu", "gated", "jumprelu"])
@each("decoder, pre_bias", [("normalised", True), ("free", False)])
def test_a_training_step_and_its_gradients_equal_the_literal_formula(variant, decoder, pre_bias):
    sae, x = literal.make(variant, decoder=decoder, pre_bias=pre_bias), random(6, 5, seed=9)
    n = _entries(sae, x)
    expected, gradients = assert_literal(sae, variant, x, k=3, way=_WithPlaces(n + 7))
    assert (expected.codes == 0).any() and (expected.codes != 0).any()
    assert all(gradient.any() for gradient in gradients.values())
    step = forward(sae, x, way=_WithPlaces(n + 7))
    assert torch.equal(step.codes.fired(), expected.codes.any(dim=0))
    assert step.codes.l0().item() == pytest.approx((expected.codes != 0).sum().item() / 6, rel=1e-6)
    assert count_selected(sae, step.pre) == n == count_selected(sae, forward(sae, x).pre)


@each("variant", ["relu", "gated", "jumprelu"])
def test_a_dictionary_in_which_everything_or_nothing_is_active(variant):
    sae, x = literal.make(variant), random(4, 5, seed=9)
    for bias, n in ((1e3, 44), (-1e6, 0)):
        with torch.no_grad():
            for name in {"b_enc", "b_mag"} & dict(sae.named_parameters()).keys():
                sae.get_parameter(name).fill_(bias)
        assert_literal(sae, variant, x, k=3, way=_WithPlaces(n + 1))
        assert count_selected(sae, forward(sae, x, way=_WithPlaces(n + 1)).pre) == n


def test_what_the_threshold_kernel_reaches_counts_as_an_entry():
    sae, x = literal.make("jumprelu"), random(30, 5, seed=9)
    pre = x @ sae.W_enc + sae.b_enc
    near = (pre > sae.threshold - sae.options.jumprelu_bandwidth / 2) & (pre <= sae.threshold)
    step = forward(sae, x, way=_WithPlaces(400))
    assert near.any() and count_selected(sae, step.pre) == near.sum() + (pre > sae.threshold).sum()


# dense or sparse


def test_the_capacity_holds_more_than_the_last_step_had_and_is_dense_above_a_share():
    shape = (1000, 1000)
    assert capacity_for(None, shape, 0.05) is None
    assert capacity_for(50_001, shape, 0.05) is None
    capacities = [capacity_for(entries, shape, 0.05) for entries in range(0, 50_001)]
    for entries, capacity in enumerate(capacities):
        assert max(1024, 1.5 * entries - 1) <= capacity <= max(1024, 1.5 * entries * (1 + 1 / 8))
    assert len(set(capacities)) < 60  # so that freed memory fits again


def test_a_late_number_is_the_number():
    assert packed.LateNumber(torch.tensor(7)).read() == 7


def test_dense_steps_are_counted_on_some_rows(monkeypatch):
    monkeypatch.setattr(packed, "_COUNTED_ROWS", 2)
    sae = literal.make("relu")
    pre = torch.where(torch.arange(5)[:, None] < 2, 1.0, -1.0).double().expand(5, 11)
    assert count_selected(sae, Codes(pre)) == 55


# trust


@pytest.mark.slow
def test_the_kernels_pass_their_own_trial(monkeypatch):
    monkeypatch.undo()  # blocks as they are
    assert kernel_fault(_CPU) is None


@each(
    "name, found",
    [
        ("count_rows", "places"),
        ("fill", "values"),
        ("segment_sums", "codes times dictionary"),
        ("products_at", "products at entries"),
    ],
)
def test_a_wrong_kernel_is_refused_with_a_sentence(monkeypatch, name, found):
    monkeypatch.setattr(trial, "_TRIAL", (8, 20, 5))
    sound = getattr(kernels, name)

    def wrong(*args):
        if name == "fill":
            sound(*args)
            args[2][0] *= 1.001
            return None
        return sound(*args) + (torch.arange(8) == 2) if name == "count_rows" else sound(*args) * 1.001

    assert kernel_fault(_CPU) is None
    with monkeypatch.context() as patch:
        patch.setattr(kernels, name, wrong)
        assert kernel_fault(_CPU) == f"the sparse kernels are wrong there ({found})"


def test_a_wrong_number_is_refused_even_if_it_is_not_a_number(monkeypatch):
    monkeypatch.setattr(trial, "_TRIAL", (8, 20, 5))
    monkeypatch.setattr(kernels, "products_at", lambda cols, *_: torch.full((len(cols),), torch.nan))
    assert "wrong" in kernel_fault(_CPU)


def test_a_kernel_that_fails_and_a_missing_triton_are_sentences(monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError("no kernel image\nis available")

    with monkeypatch.context() as patch:
        patch.setattr(kernels, "count_rows", fail)
        assert kernel_fault(_CPU) == "the sparse kernels fail there (RuntimeError no kernel image is available)"
    monkeypatch.setitem(sys.modules, "saeworks.sae.execution.kernels", None)
    monkeypatch.delattr("saeworks.sae.execution.kernels")
    assert kernel_fault(_CPU) == "Triton, which the sparse kernels need, is not installed"


def test_a_device_is_tried_once_and_a_fault_said_once(monkeypatch, capsys):
    tried: list[torch.device] = []

    def fault(device: torch.device) -> str | None:
        tried.append(device)
        return None if device.index == 0 else "Triton is ill"

    monkeypatch.setattr(trial, "kernel_fault", fault)
    trial.usable.cache_clear()
    try:
        for _ in range(2):
            assert not trial.usable(_CPU)
            assert trial.usable(torch.device("cuda:0"))
            assert not trial.usable(torch.device("cuda:1"))
    finally:
        trial.usable.cache_clear()
    assert len(tried) == 2
    assert capsys.readouterr().out == "ReLU, Gated and JumpReLU SAEs train with dense products on cuda:1: Triton is ill.\n"


_COMPILE = """
import re

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from saeworks.sae.execution import kernels

CONSTANTS = {"BLOCK": kernels._BLOCK, "WIDTH": kernels._WIDTH}
ENTRIES = {"segment_kernel": kernels._TILE // kernels._WIDTH, "product_kernel": kernels._ENTRIES}
POINTERS = {"counts": "*i64", "offsets": "*i64", "rows": "*i32", "cols": "*i32", "index": "*i32"}
NUMBERS = {"n_cols": "i32", "first_row": "i32", "width": "i32"}
for dtype, capacity in (("*fp32", "i32"), ("*fp64", "i64")):
    for name in ("count_kernel", "fill_kernel", "segment_kernel", "product_kernel"):
        kernel = getattr(kernels, name)
        signature = {}
        for argument in kernel.arg_names:
            signature[argument] = POINTERS.get(argument) or NUMBERS.get(argument) or dtype
        signature |= {"capacity": capacity} if "capacity" in signature else {}
        given = CONSTANTS | {"ENTRIES": ENTRIES.get(name)}
        constants = {argument: given[argument] for argument in kernel.arg_names if argument.isupper()}
        signature |= dict.fromkeys(constants, "constexpr")
        compiled = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 90, 32))
        ptx = compiled.asm["ptx"]
        assert ".target sm_90" in ptx and len(compiled.asm["cubin"]) > 1000
        assert not re.search(r"\\b(atom|red)\\.", ptx), "sums would depend on the order of arrival"
        assert ".local" not in ptx, "registers are spilled"
        print(name, dtype)
"""


def test_the_kernels_compile_for_an_h200_without_atomic_sums(tmp_path):
    environment = os.environ | {
        "TRITON_INTERPRET": "0",
        "TRITON_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(Path(compact.__file__).parents[3]), *filter(None, sys.path)]),
    }
    done = subprocess.run([sys.executable, "-c", _COMPILE], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 8
