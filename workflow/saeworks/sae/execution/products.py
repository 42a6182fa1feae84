"""Products with the active entries of a code matrix only.

The codes of a ReLU-family SAE are exactly zero where a feature is inactive, and so are their gradients. The decoder product,
the decoder's gradient and the encoder's gradient therefore need nothing but the active entries: the results are those of
the dense products up to the order of summation. `B` tokens, `F` = d_sae features, `n` active entries, row-major.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
torch.sparse.check_sparse_tensor_invariants.disable()  # the indices are made here; checking them costs more than the products


class Active:
    """Indices of the entries of a (B, F) matrix that are kept, sorted by row, then feature."""

    def __init__(self, flat: Int[Tensor, " n"], shape: tuple[int, int]) -> None:
        self.shape = shape
        self.rows, self.cols = flat // shape[1], flat % shape[1]

    @cached_property
    def row_offsets(self) -> Int[Tensor, " B+1"]:
        """Where each row's entries start."""
        return _offsets(self.rows, self.shape[0])

    @cached_property
    def col_offsets(self) -> Int[Tensor, " F+1"]:
        """Where each feature's entries start in `by_feature`."""
        return _offsets(self.cols, self.shape[1])

    @cached_property
    def by_feature(self) -> Int[Tensor, " n"]:
        """The permutation that sorts the entries by feature, then row."""
        return self.cols.argsort(stable=True)

    def times(self, values: Float[Tensor, " n"], matrix: Float[Tensor, "F d"]) -> Float[Tensor, "B d"]:
        """The sparse matrix of `values`, times `matrix`."""
        return _bag(self.cols, self.row_offsets, values, matrix)

    def transposed_times(self, values: Float[Tensor, " n"], matrix: Float[Tensor, "B d"]) -> Float[Tensor, "F d"]:
        """The transpose of the sparse matrix of `values`, times `matrix`."""
        order = self.by_feature
        return _bag(self.rows[order], self.col_offsets, values[order], matrix)

    def product_at(self, left: Float[Tensor, "B d"], right: Float[Tensor, "F d"]) -> Float[Tensor, " n"]:
        """Entries of `left @ right.T`, at the active places only."""
        if left.is_cuda or not torch.backends.mkl.is_available():
            return torch.cat(
                [(left[r] * right[c]).sum(-1) for r, c in zip(self.rows.split(65536), self.cols.split(65536), strict=True)]
            )
        zeros = torch.sparse_csr_tensor(self.row_offsets, self.cols, left.new_zeros(len(self.cols)), self.shape)
        return torch.sparse.sampled_addmm(zeros, left, right.T, beta=0.0).values()

    def feature_sums(self, values: Float[Tensor, " n"]) -> Float[Tensor, " F"]:
        """Sum of `values` per feature."""
        return values.new_zeros(self.shape[1]).index_add_(0, self.cols, values)

    def features_with(self, chosen: Bool[Tensor, " n"]) -> Bool[Tensor, " F"]:
        """Features of which some entry is chosen."""
        counts = torch.zeros(self.shape[1], dtype=torch.int32, device=chosen.device)
        return counts.index_add_(0, self.cols, chosen.int()) > 0  # indexing by a mask would stall a GPU

    def at(self, parameter: Float[Tensor, " F"]) -> Float[Tensor, " n"]:
        """A per-feature parameter, at each entry."""
        # its gradient has one order of summation; with several threads that of `parameter[cols]` has not
        return parameter.index_select(0, self.cols)

    def dense(self, values: Float[Tensor, " n"]) -> Float[Tensor, "B F"]:
        """The whole matrix of `values`."""
        return values.new_zeros(self.shape).index_put((self.rows, self.cols), values)


def _offsets(sorted_index: Tensor, n: int) -> Tensor:
    if sorted_index.is_cuda:  # bincount would wait for the device
        return torch.searchsorted(sorted_index, torch.arange(n + 1, device=sorted_index.device))
    return F.pad(torch.bincount(sorted_index, minlength=n).cumsum(0), (1, 0))


def _bag(index: Tensor, offsets: Tensor, weights: Tensor, matrix: Tensor) -> Tensor:
    if len(index) == 0:
        return matrix.new_zeros(len(offsets) - 1, matrix.shape[1])
    return F.embedding_bag(index, matrix, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True)


Select = Callable[[Float[Tensor, "rows F"]], Sequence[Int[Tensor, " n"]]]
"""From a chunk of pre-activations to the flat indices of the entries to keep, one tensor per purpose (features, AuxK, …)."""


def encode_active(
    x: Float[Tensor, "B d"],
    W_enc: Float[Tensor, "d F"],
    b_enc: Float[Tensor, " F"],
    b_dec: Float[Tensor, " d"] | None,
    select: Select,
    chunk_rows: int,
) -> list[tuple[Active, Float[Tensor, " n"]]]:
    """Pre-activations `(x − b_dec) W_enc + b_enc` at the selected entries, without the others ever being stored.

    Differentiable in the weights, not in `x`.

    Args:
        chunk_rows: rows of pre-activations that exist at once.
    """
    actives: list[Active] = []
    values = EncodeActive.apply(x, W_enc, b_enc, b_dec, select, chunk_rows, actives)
    return list(zip(actives, values, strict=True))


class EncodeActive(torch.autograd.Function):
    """The encoder's product; its gradients come from the selected entries, however they were found."""

    @staticmethod
    def forward(ctx, x, W_enc, b_enc, b_dec, select, chunk_rows, actives):
        x = x if b_dec is None else x - b_dec
        shape = (len(x), W_enc.shape[1])
        buffer = x.new_empty(min(chunk_rows, len(x)), shape[1])
        parts: list[list[tuple[Tensor, Tensor]]] = []
        for start in range(0, len(x), chunk_rows):
            rows = x[start : start + chunk_rows]
            pre = torch.addmm(b_enc, rows, W_enc, out=buffer[: len(rows)])
            parts.append([(flat + start * shape[1], pre.view(-1)[flat]) for flat in select(pre)])
        values = []
        for purpose in zip(*parts, strict=True):
            actives.append(Active(torch.cat([flat for flat, _ in purpose]), shape))
            values.append(torch.cat([kept for _, kept in purpose]))
        ctx.save_for_backward(x, W_enc)
        ctx.actives, ctx.has_b_dec = actives, b_dec is not None
        return tuple(values)

    @staticmethod
    def backward(ctx, *gradients):
        x, W_enc = ctx.saved_tensors
        grad_W = sum(active.transposed_times(g, x) for active, g in zip(ctx.actives, gradients, strict=True)).T
        grad_b = sum(active.feature_sums(g) for active, g in zip(ctx.actives, gradients, strict=True))
        grad_b_dec = -(W_enc @ grad_b) if ctx.has_b_dec else None
        return None, grad_W, grad_b, grad_b_dec, None, None, None


def decode_active(active: Active, values: Float[Tensor, " n"], dictionary: Float[Tensor, "F d"]) -> Float[Tensor, "B d"]:
    """The codes `values` times `dictionary`; differentiable in both."""
    return _DecodeActive.apply(values, dictionary, active)


class _DecodeActive(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, dictionary, active):
        ctx.save_for_backward(values, dictionary)
        ctx.active = active
        return active.times(values, dictionary)

    @staticmethod
    def backward(ctx, gradient):
        values, dictionary = ctx.saved_tensors
        needs_values, needs_dictionary, _ = ctx.needs_input_grad
        return (
            ctx.active.product_at(gradient, dictionary) if needs_values else None,
            ctx.active.transposed_times(values, gradient) if needs_dictionary else None,
            None,
        )
