"""Sparse training steps on a CUDA device for architectures whose number of active entries only the device knows.

The entries above the floor are packed into buffers of a fixed `capacity`, sorted by row, and Triton kernels multiply them
(`kernels`). The host makes no decision in between: it chooses the capacity, or dense products, from the number of entries of
the step before, and reads this step's number while the device is at work on the gradients. Where there were more entries than
places, the gradients are thrown away and the step is made again with dense products, so that no entry is ever left out.
"""

from __future__ import annotations

from functools import cache, cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .sparse import Active, EncodeActive

CHUNK_ROWS = 4096  # rows of pre-activations that exist at once
_SPARE = 1.5  # times the entries of the last step
_SMALLEST = 1024  # places
_TRIAL = (37, 1131, 133)  # rows, features and columns of the case that the kernels are tried on; more than their blocks
_TOLERANCE = 1e-5  # of the largest number, for float32 sums in another order


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
        from . import kernels

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


# the choice between dense and sparse


def capacity_for(entries: int | None, shape: tuple[int, int], dense_above: float) -> int | None:
    """Places for the next step's entries; None where dense products are faster, or nothing is known yet.

    Args:
        entries: of the last step.
        shape: of the code matrix.
        dense_above: share of its entries above which dense products are faster.
    """
    if entries is None or entries > dense_above * shape[0] * shape[1]:
        return None
    wanted = max(_SMALLEST, int(_SPARE * entries))
    unit = 2 ** (wanted.bit_length() - 4)  # few different sizes, so that freed buffers fit again
    return -(-wanted // unit) * unit


class LateNumber:
    """A whole number on a device, sent to the host without waiting for it."""

    def __init__(self, number: Int[Tensor, ""]) -> None:
        self._value = torch.empty((), dtype=torch.long, pin_memory=number.is_cuda).copy_(number, non_blocking=True)
        self._sent = torch.cuda.current_stream(number.device).record_event() if number.is_cuda else None

    def read(self) -> int:
        """The number; waits for what the device had to do until it was sent, not for what it was given since."""
        if self._sent is not None:
            self._sent.synchronize()
        return int(self._value)


# whether the kernels can be trusted


@cache
def usable(device: torch.device) -> bool:
    """Whether the kernels work on this device, tried out once; if not, a sentence says why."""
    if device.type != "cuda":
        return False
    fault = kernel_fault(device)
    if fault:
        print(f"ReLU, Gated and JumpReLU SAEs train with dense products on {device}: {fault}.", flush=True)
    return fault is None


def kernel_fault(device: torch.device) -> str | None:
    """Why the kernels cannot be used on a device, or None if they agree with dense products on a small random case."""
    try:
        from . import kernels  # noqa: F401
    except ImportError:
        return "Triton, which the sparse kernels need, is not installed"
    try:
        wrong = _disagreement(device)
    except Exception as error:  # whatever the compiler or the driver raises
        return f"the sparse kernels fail there ({' '.join([type(error).__name__, *str(error).split()])[:200]})"
    return wrong and f"the sparse kernels are wrong there ({wrong})"


def _disagreement(device: torch.device) -> str | None:
    """Which product differs from the dense one, on odd sizes, with an empty and a full row and more places than entries."""
    n_rows, n_features, d = _TRIAL

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))

    matrix, floor = draw(n_rows, n_features), 1 + draw(n_features).abs()
    matrix[3], matrix[5] = -10.0, 10.0
    left, right = draw(n_rows, d), draw(n_features, d)
    kept = matrix > floor
    values, dense = matrix[kept], (matrix * kept).double()
    n = len(values)
    active, found = compact(matrix.to(device), floor.to(device), n + 100)
    there = found.to(device), left.to(device), right.to(device)
    pairs = {
        "places": (active.rows[:n].cpu() * n_features + active.cols[:n].cpu(), kept.flatten().nonzero().squeeze(1)),
        "values": (found[:n], values),
        "number of entries": (active.count, torch.tensor(n)),
        "codes times dictionary": (active.times(there[0], there[2]), dense @ right.double()),
        "transposed codes times inputs": (active.transposed_times(there[0], there[1]), dense.T @ left.double()),
        "products at entries": (active.product_at(there[1], there[2])[:n], (left.double() @ right.double().T)[kept]),
        "sums of features": (active.feature_sums(there[0]), dense.sum(dim=0)),
    }
    for name, (ours, theirs) in pairs.items():
        ours = ours.double().cpu()
        if not ((ours - theirs).abs() <= _TOLERANCE * theirs.abs().max()).all():
            return name
    return None
