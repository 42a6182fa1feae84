"""Triton kernels of `compact`: entries of a matrix that are above a floor, and products with them. Needs Triton.

No kernel adds atomically: each number is summed by one program, in one order, so that equal input gives equal bytes. Sums are
in the precision of the output. `offsets` may point beyond `capacity`, where too many entries were found: what is beyond is
neither written nor read.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

_BLOCK = 1024  # entries of a row that are looked at together
_WIDTH = 128  # columns of a dense matrix that are looked at together, at most
_TILE = 4096  # numbers that a program of `segment_sums` holds, in registers
_ENTRIES, _SPLITS = 16, 4  # that a program of `products_at` looks at together; programs of a row


@triton.jit
def count_kernel(counts, matrix, floor, n_cols, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    total = tl.zeros((BLOCK,), dtype=tl.int32)
    for base in range(0, n_cols, BLOCK):
        cols = base + tl.arange(0, BLOCK)
        inside = cols < n_cols
        value = tl.load(matrix + row * n_cols + cols, mask=inside, other=0.0)
        least = tl.load(floor + cols, mask=inside, other=0.0)
        total += ((value > least) & inside).to(tl.int32)
    tl.store(counts + row, tl.sum(total, axis=0).to(tl.int64))


@triton.jit
def fill_kernel(rows, cols, values, offsets, matrix, floor, n_cols, first_row, capacity, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    place = tl.load(offsets + row)
    for base in range(0, n_cols, BLOCK):
        col = base + tl.arange(0, BLOCK)
        inside = col < n_cols
        value = tl.load(matrix + row * n_cols + col, mask=inside, other=0.0)
        least = tl.load(floor + col, mask=inside, other=0.0)
        kept = ((value > least) & inside).to(tl.int32)
        places = place + tl.cumsum(kept, axis=0) - 1
        fits = (kept > 0) & (places < capacity)
        tl.store(rows + places, (tl.zeros_like(col) + first_row + row).to(tl.int32), mask=fits)
        tl.store(cols + places, col.to(tl.int32), mask=fits)
        tl.store(values + places, value, mask=fits)
        place += tl.sum(kept, axis=0)


@triton.jit
def segment_kernel(out, index, weights, offsets, matrix, width, capacity, ENTRIES: tl.constexpr, WIDTH: tl.constexpr):
    segment = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = columns < width
    start = tl.load(offsets + segment)
    stop = tl.minimum(tl.load(offsets + segment + 1), capacity)
    total = tl.zeros((WIDTH,), dtype=out.dtype.element_ty)
    for first in range(start, stop, ENTRIES):
        entry = first + tl.arange(0, ENTRIES)
        here = entry < stop
        row = tl.load(index + entry, mask=here, other=0).to(tl.int64)
        weight = tl.load(weights + entry, mask=here, other=0.0)
        tile = tl.load(matrix + row[:, None] * width + columns[None, :], mask=here[:, None] & inside[None, :], other=0.0)
        total += tl.sum(weight[:, None] * tile, axis=0)
    tl.store(out + segment * width + columns, total, mask=inside)


@triton.jit
def product_kernel(out, cols, offsets, left, right, width, capacity, ENTRIES: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    start = tl.load(offsets + row) + tl.program_id(1) * ENTRIES
    stop = tl.minimum(tl.load(offsets + row + 1), capacity)
    for first in range(start, stop, ENTRIES * tl.num_programs(1)):
        entry = first + tl.arange(0, ENTRIES)
        here = entry < stop
        col = tl.load(cols + entry, mask=here, other=0).to(tl.int64)
        total = tl.zeros((ENTRIES,), dtype=out.dtype.element_ty)
        for base in range(0, width, WIDTH):
            columns = base + tl.arange(0, WIDTH)
            inside = columns < width
            vector = tl.load(left + row * width + columns, mask=inside, other=0.0)
            tile = tl.load(right + col[:, None] * width + columns[None, :], mask=here[:, None] & inside[None, :], other=0.0)
            total += tl.sum(tile * vector[None, :], axis=1)
        tl.store(out + entry, total, mask=here)


def count_rows(matrix: Float[Tensor, "B F"], floor: Float[Tensor, " F"]) -> Int[Tensor, " B"]:
    """Entries of each row that are above their feature's floor."""
    counts = torch.empty(len(matrix), dtype=torch.long, device=matrix.device)
    with torch.cuda.device_of(matrix):  # which Triton would not change to by itself
        count_kernel[(len(matrix),)](counts, matrix, floor, matrix.shape[1], BLOCK=_BLOCK)
    return counts


def fill(
    rows: Int[Tensor, " n"],
    cols: Int[Tensor, " n"],
    values: Float[Tensor, " n"],
    offsets: Int[Tensor, " B"],
    matrix: Float[Tensor, "B F"],
    floor: Float[Tensor, " F"],
    first_row: int,
) -> None:
    """Write row (counted from `first_row`), column and value of these entries, the first of each row at its offset."""
    sizes = matrix.shape[1], first_row, len(cols)
    with torch.cuda.device_of(matrix):
        fill_kernel[(len(matrix),)](rows, cols, values, offsets, matrix, floor, *sizes, BLOCK=_BLOCK)


def segment_sums(
    index: Int[Tensor, " n"], weights: Float[Tensor, " n"], offsets: Int[Tensor, " S+1"], matrix: Float[Tensor, "R d"]
) -> Float[Tensor, "S d"]:
    """Σ weights[e] · matrix[index[e]] over the entries e of each segment."""
    n_segments, width = len(offsets) - 1, matrix.shape[1]
    out = matrix.new_empty(n_segments, width)
    columns = min(_WIDTH, triton.next_power_of_2(width))
    entries = min(128, _TILE // columns)
    arguments = out, index, weights.contiguous(), offsets, matrix.contiguous(), width, len(index)
    with torch.cuda.device_of(matrix):
        # blocks of columns one after the other: those of a large matrix then stay in the cache
        segment_kernel[(n_segments, triton.cdiv(width, columns))](*arguments, ENTRIES=entries, WIDTH=columns)
    return out


def products_at(
    cols: Int[Tensor, " n"], offsets: Int[Tensor, " B+1"], left: Float[Tensor, "B d"], right: Float[Tensor, "F d"]
) -> Float[Tensor, " n"]:
    """Row of `left` times row of `right` at each entry; zero where there is none."""
    width = left.shape[1]
    out = left.new_zeros(len(cols))
    columns = min(_WIDTH, triton.next_power_of_2(width))
    arguments = out, cols, offsets, left.contiguous(), right.contiguous(), width, len(cols)
    with torch.cuda.device_of(left):
        product_kernel[(len(left), _SPLITS)](*arguments, ENTRIES=_ENTRIES, WIDTH=columns)
    return out
