"""The entries of a matrix above a floor, packed on their device into buffers of a fixed size, and products with them.

Nothing depends on how many there are, so the host needs not wait to know. Triton kernels multiply them (`kernels`).
"""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .products import Active, EncodeActive

CHUNK_ROWS = 4096  # rows of pre-activations that exist at once


class Compacted(Active):
    """As `Active`, in buffers with room for more entries than there are.

    Places beyond the last entry have row 0, value 0 and feature F, which does not exist: they sort behind all others, and
    sums over a feature's or a row's entries do not meet them.
    """

    def __init__(
        self, rows: Int[Tensor, " n"], cols: Int[Tensor, " n"], row_offsets: Int[Tensor, " B+1"], shape: tuple[int, int]
    ) -> None:
        self.rows, self.cols, self.row_offsets, self.shape = rows, cols, row_offsets, shape

    @property
    def count(self) -> Int[Tensor, ""]:
        """Number of entries, also of those that found no place."""
        return self.row_offsets[-1]

    @cached_property
    def col_offsets(self) -> Int[Tensor, " F+1"]:
        """Where each feature's entries start in `by_feature`."""
        features = torch.arange(self.shape[1] + 1, dtype=self.cols.dtype, device=self.cols.device)
        return torch.searchsorted(self.cols[self.by_feature], features)

    def times(self, values: Float[Tensor, " n"], matrix: Float[Tensor, "F d"]) -> Float[Tensor, "B d"]:
        """The sparse matrix of `values`, times `matrix`."""
        from . import kernels  # needs Triton

        return kernels.segment_sums(self.cols, values, self.row_offsets, matrix)

    def transposed_times(self, values: Float[Tensor, " n"], matrix: Float[Tensor, "B d"]) -> Float[Tensor, "F d"]:
        """The transpose of the sparse matrix of `values`, times `matrix`."""
        from . import kernels

        order = self.by_feature
        return kernels.segment_sums(self.rows[order], values[order], self.col_offsets, matrix)

    def product_at(self, left: Float[Tensor, "B d"], right: Float[Tensor, "F d"]) -> Float[Tensor, " n"]:
        """Entries of `left @ right.T`, at the active places only."""
        from . import kernels

        return kernels.products_at(self.cols, self.row_offsets, left, right)

    def feature_sums(self, values: Float[Tensor, " n"]) -> Float[Tensor, " F"]:
        """Sum of `values` per feature."""
        return self.transposed_times(values, values.new_ones(self.shape[0], 1)).squeeze(1)

    def features_with(self, chosen: Bool[Tensor, " n"]) -> Bool[Tensor, " F"]:
        """Features of which some entry is chosen."""
        return self.feature_sums(chosen.float()) > 0

    def at(self, parameter: Float[Tensor, " F"]) -> Float[Tensor, " n"]:
        """A per-feature parameter, at each entry; 0 beyond the last."""
        return _At.apply(parameter, self)

    def dense(self, values: Float[Tensor, " n"]) -> Float[Tensor, "B F"]:
        """The whole matrix of `values`."""
        n_rows, n_features = self.shape
        return values.new_zeros(n_rows, n_features + 1).index_put((self.rows, self.cols), values)[:, :n_features]


class _At(torch.autograd.Function):
    @staticmethod
    def forward(ctx, parameter, active):
        ctx.active = active
        return F.pad(parameter, (0, 1)).index_select(0, active.cols)

    @staticmethod
    def backward(ctx, gradient):
        return ctx.active.feature_sums(gradient), None


def compact(matrix: Float[Tensor, "rows F"], floor: Float[Tensor, " F"], capacity: int) -> tuple[Compacted, Float[Tensor, " n"]]:
    """The entries of a matrix that are above their feature's floor, and their values."""
    builder = _Builder(matrix.shape, floor, capacity, matrix)
    builder.add(matrix)
    return builder.active, builder.values


class _Builder:
    """Buffers that are filled a chunk of rows at a time."""

    def __init__(self, shape: tuple[int, int], floor: Tensor, capacity: int, like: Tensor) -> None:
        indices = {"dtype": torch.int32, "device": like.device}
        self.values = like.new_zeros(capacity)
        self.active = Compacted(
            torch.zeros(capacity, **indices),
            torch.full((capacity,), shape[1], **indices),
            torch.zeros(shape[0] + 1, dtype=torch.long, device=like.device),
            tuple(shape),
        )
        self._floor, self._done = floor, 0

    def add(self, matrix: Float[Tensor, "rows F"]) -> None:
        """The next rows."""
        from . import kernels

        start, self._done = self._done, self._done + len(matrix)
        active = self.active
        offsets = active.row_offsets[start : self._done + 1]
        torch.add(offsets[0], kernels.count_rows(matrix, self._floor).cumsum(0), out=offsets[1:])
        kernels.fill(active.rows, active.cols, self.values, offsets, matrix, self._floor, start)


def encode_compact(
    x: Float[Tensor, "B d"],
    W_enc: Float[Tensor, "d F"],
    b_enc: Float[Tensor, " F"],
    b_dec: Float[Tensor, " d"] | None,
    floor: Float[Tensor, " F"] | float,
    capacity: int,
) -> tuple[Compacted, Float[Tensor, " n"]]:
    """Pre-activations `(x − b_dec) W_enc + b_enc` above `floor`; differentiable in the weights, not in `x`."""
    floor = floor.detach() if isinstance(floor, Tensor) else x.new_full((W_enc.shape[1],), floor)
    actives: list[Compacted] = []
    (values,) = _EncodeCompact.apply(x, W_enc, b_enc, b_dec, floor, capacity, actives)
    return actives[0], values


class _EncodeCompact(EncodeActive):
    @staticmethod
    def forward(ctx, x, W_enc, b_enc, b_dec, floor, capacity, actives):
        x = x if b_dec is None else x - b_dec
        builder = _Builder((len(x), W_enc.shape[1]), floor, capacity, x)
        for rows in x.split(CHUNK_ROWS):
            builder.add(F.linear(rows, W_enc.T, b_enc).to(x.dtype))  # in bf16 under autocast; selected in the input's precision
        actives.append(builder.active)
        ctx.save_for_backward(x, W_enc)
        ctx.actives, ctx.has_b_dec = actives, b_dec is not None
        return (builder.values,)
