"""What all architectures share: parameters, input normalisation, decoder constraint, sparse or dense execution."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .codes import Codes
from .compact import encode_compact
from .sparse import CHUNK_ROWS, encode_active, flat_nonzero, largest_per_row, largest_per_row_without_sync

DecoderConstraint = Literal["normalised", "renormalised", "free"]
_LAYER_NORM_EPS = 1e-5  # added to the unbiased standard deviation on the way in only, as in SAELens and Gao et al.'s code
# share of entries above which dense products are faster on a CPU, as measured on an AMD EPYC
DENSE_ABOVE = 0.12
_COUNTED_ROWS = 1024  # of a dense step


Error = Callable[[Float[Tensor, "B d_in"], Float[Tensor, "B d_in"]], Float[Tensor, ""]]


@dataclass
class Forward:
    """A training forward pass, in the normalised space of the input.

    `pre` holds the pre-activations of the entries of `codes`; `aux` those of the dead features that AuxK takes.
    `outputs` are the reconstructions that count: one, or one per nested prefix (the whole dictionary last).
    """

    x: Float[Tensor, "B d_in"]
    codes: Codes
    pre: Codes
    outputs: list[Float[Tensor, "B d_in"]]
    dictionary: Float[Tensor, "d_sae d_in"]
    aux: Codes | None = None
    extra: dict[str, Codes] = field(default_factory=dict)

    @property
    def output(self) -> Float[Tensor, "B d_in"]:
        """The reconstruction."""
        return self.outputs[-1]


class SAE(nn.Module, ABC):
    """A sparse autoencoder: x̂ = c D + b_dec with c = σ((x [− b_dec]) W_enc + b_enc).

    Shapes as in SAELens: `W_enc` (d_in, d_sae), `W_dec` (d_sae, d_in).

    Args:
        decoder: `normalised`: D = W_dec with rows normalised in the forward pass, differentiably (Braun et al. 2024);
            `renormalised`: D = W_dec, whose rows the trainer returns to unit norm after each step (Bloom 2024);
            `free`: D = W_dec (Anthropic, April 2024).
        pre_bias: b_dec is subtracted from the input.
        layer_norm: each input is centred and divided by its standard deviation, and the output rescaled alike.
    """

    architecture: str  # SAELens' name
    elementwise = True  # each entry depends on its own pre-activation only

    def __init__(
        self, d_in: int, d_sae: int, decoder: DecoderConstraint = "free", pre_bias: bool = False, layer_norm: bool = False
    ) -> None:
        super().__init__()
        self.d_in, self.d_sae = d_in, d_sae
        self.decoder, self.pre_bias, self.layer_norm = decoder, pre_bias, layer_norm
        self.W_enc = nn.Parameter(torch.zeros(d_in, d_sae))
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.W_dec = nn.Parameter(torch.zeros(d_sae, d_in))
        self.b_dec = nn.Parameter(torch.zeros(d_in))

    # what an architecture defines

    def floor(self) -> Float[Tensor, " d_sae"] | float:
        """Pre-activations at or below it have no activation and no gradient (elementwise architectures)."""
        return 0.0

    @abstractmethod
    def activate(self, pre: Codes) -> Codes:
        """Activations from the pre-activations of the selected entries."""

    def select(self, pre: Float[Tensor, "rows d_sae"]) -> Int[Tensor, " n"]:
        """Flat indices of the entries that may be active."""
        return flat_nonzero(pre > self.floor())

    # inference

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Feature activations."""
        x = self.normalise(x)[0]
        flat = self._dense_pre(x.reshape(-1, self.d_in))
        return self._dense_codes(flat).values.view(*x.shape[:-1], self.d_sae)

    def decode(self, codes: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_in"]:
        """Reconstruction from feature activations; under `layer_norm` that of the normalised input."""
        return F.linear(codes, self.dictionary().T, self.b_dec)

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> tuple[Float[Tensor, "*batch d_in"], Float[Tensor, "*batch d_sae"]]:
        """`(reconstruction, codes)`."""
        codes = self.encode(x)
        return self.denormalise(self.decode(codes), self.normalise(x)[1]), codes

    def dictionary(self) -> Float[Tensor, "d_sae d_in"]:
        """Decoder directions, a row each."""
        return F.normalize(self.W_dec, dim=1) if self.decoder == "normalised" else self.W_dec

    def normalise(self, x: Float[Tensor, "*batch d_in"]) -> tuple[Float[Tensor, "*batch d_in"], tuple[Tensor, Tensor] | None]:
        """The input that the encoder sees, and what `denormalise` needs."""
        if not self.layer_norm:
            return x, None
        mean, std = x.mean(dim=-1, keepdim=True), x.std(dim=-1, keepdim=True)
        return (x - mean) / (std + _LAYER_NORM_EPS), (mean, std)

    def denormalise(
        self, output: Float[Tensor, "*batch d_in"], stats: tuple[Tensor, Tensor] | None
    ) -> Float[Tensor, "*batch d_in"]:
        """A reconstruction in the space of the input."""
        return output if stats is None else output * stats[1] + stats[0]

    # training

    def train_forward(
        self,
        x: Float[Tensor, "B d_in"],
        dead: Bool[Tensor, " d_sae"] | None = None,
        k_aux: int = 0,
        sparse: bool | None = None,
        capacity: int | None = None,
    ) -> Forward:
        """The forward pass of a training step on normalised inputs.

        Args:
            dead: features among which AuxK takes the `k_aux` largest pre-activations of each token.
            sparse: compute with active entries only; by default where they are few enough for that to be faster.
            capacity: compute with active entries only, for which there are so many places (elementwise architectures without
                AuxK; see `compact`). If there were more, the result is wrong.
        """
        if capacity is not None:
            return self.finish(x, self._compact_pre(x, capacity), None, [])
        if sparse is None:
            sparse = self._sparse_is_faster(x)
        (pre, *others) = self._sparse_pre(x, dead, k_aux) if sparse else self._full_pre(x, dead, k_aux)
        aux = others.pop() if dead is not None else None
        return self.finish(x, pre, aux, others)

    def finish(self, x: Tensor, pre: Codes, aux: Codes | None, others: list[Codes]) -> Forward:
        """Activations and reconstruction from pre-activations. `others`: those of `extra_selections`."""
        codes, dictionary = self.activate(pre), self.dictionary()
        return Forward(x, codes, pre, self.reconstructions(codes, dictionary), dictionary, aux)

    def reconstructions(self, codes: Codes, dictionary: Float[Tensor, "d_sae d_in"]) -> list[Float[Tensor, "B d_in"]]:
        """The outputs that count, the whole dictionary's last."""
        return [codes.decode(dictionary) + self.b_dec]

    def extra_selections(self, pre: Float[Tensor, "rows d_sae"]) -> list[Int[Tensor, " n"]]:
        """Flat indices of further entries that the loss needs, for architectures that have such."""
        return []

    def penalised(self, step: Forward) -> Codes:
        """The codes that a sparsity penalty acts on."""
        return step.codes

    def auxiliary_terms(self, step: Forward, error: Error) -> dict[str, Tensor]:
        """Loss terms of the architecture itself, by name, with weight 1; `error` is the reconstruction error of the run."""
        return {}

    @torch.no_grad()
    def after_step(self) -> None:
        """Restore the decoder's constraint after an optimiser step."""
        if self.decoder == "renormalised":
            self.W_dec.copy_(F.normalize(self.W_dec, dim=1))

    @torch.no_grad()
    def before_step(self) -> None:
        """Under `renormalised`, remove from the decoder's gradient what would only change the norms of its rows."""
        if self.decoder == "renormalised" and self.W_dec.grad is not None:
            grad, rows = self.W_dec.grad, F.normalize(self.W_dec, dim=1)
            grad.sub_((grad * rows).sum(dim=1, keepdim=True) * rows)

    # execution

    @property
    def density(self) -> float:
        """Share of entries that `select` takes, where the architecture fixes it."""
        return 1.0

    @property
    def chunk_rows(self) -> int:
        """Rows whose entries can be selected without the others."""
        return CHUNK_ROWS

    def _sparse_is_faster(self, x: Tensor) -> bool:
        """Whether few entries of the first rows are active. On a GPU, counting them would stall it."""
        if torch.is_autocast_enabled(x.device.type):
            return False
        if x.is_cuda:
            return not self.elementwise and self.density < DENSE_ABOVE
        with torch.no_grad():
            probe = self._dense_pre(x[:64])
            return len(self.select(probe)) < DENSE_ABOVE * probe.numel()

    def _dense_pre(self, x: Float[Tensor, "B d_in"]) -> Float[Tensor, "B d_sae"]:
        # selected and thresholded in the precision of the input, whatever that of the product
        return F.linear(x - self.b_dec if self.pre_bias else x, self.W_enc.T, self.b_enc).to(x.dtype)

    def _dense_codes(self, pre: Float[Tensor, "B d_sae"]) -> Codes:
        """Activations of whole rows from whole rows of pre-activations."""
        return self.activate(Codes(pre) if self.elementwise else _only(pre, self.select(pre.detach())))

    def _sparse_pre(self, x: Tensor, dead: Tensor | None, k_aux: int) -> list[Codes]:
        features = None if dead is None or dead.is_cuda else dead.nonzero().squeeze(1)

        def select(pre: Tensor) -> list[Tensor]:
            chosen = [self.select(pre), *self.extra_selections(pre)]
            return chosen if dead is None else [*chosen, _largest_among(pre, dead, features, k_aux)]

        b_dec = self.b_dec if self.pre_bias else None
        chunk = len(x) if x.is_cuda else min(self.chunk_rows, len(x))
        chosen = [Codes(values, active) for active, values in encode_active(x, self.W_enc, self.b_enc, b_dec, select, chunk)]
        if dead is not None and features is None:  # where fewer than k_aux features are dead, others were taken
            chosen.append(_masked(chosen.pop(), dead))
        return chosen

    def _compact_pre(self, x: Tensor, capacity: int) -> Codes:
        b_dec = self.b_dec if self.pre_bias else None
        active, values = encode_compact(x, self.W_enc, self.b_enc, b_dec, self.floor(), capacity)
        return Codes(values, active)

    @torch.no_grad()
    def count_selected(self, pre: Codes) -> Int[Tensor, ""]:
        """How many entries a compact forward pass has, from its pre-activations, or about, from some rows of dense ones."""
        if pre.active is not None:
            return pre.active.count
        rows = pre.values[:_COUNTED_ROWS]
        return (rows > self.floor()).sum() * pre.n_tokens // len(rows)

    def _full_pre(self, x: Tensor, dead: Tensor | None, k_aux: int) -> list[Codes]:
        """As `_sparse_pre`, with every entry stored; those not selected are zero."""
        pre = self._dense_pre(x)
        if self.elementwise:
            chosen = [Codes(pre)]
        else:
            chosen = [_only(pre, flat) for flat in (self.select(pre.detach()), *self.extra_selections(pre.detach()))]
        if dead is not None:
            features = None if dead.is_cuda else dead.nonzero().squeeze(1)
            aux = _only(pre, _largest_among(pre.detach(), dead, features, k_aux))
            chosen.append(aux if features is not None else _masked(aux, dead))
        return chosen


def _only(pre: Tensor, flat: Tensor) -> Codes:
    mask = torch.zeros_like(pre).view(-1).index_fill_(0, flat, 1.0)
    return Codes(pre * mask.view_as(pre))


def _masked(codes: Codes, features: Tensor) -> Codes:
    return codes.replaced(codes.values * codes.at(features))


def _largest_among(pre: Tensor, dead: Tensor, features: Tensor | None, k: int) -> Tensor:
    """Flat indices of the `k` largest entries of each row among the dead features.

    `features` are their numbers. Without them, on a device that computes ahead, any features fill up where too few are dead.
    """
    n = pre.shape[1]
    if features is None:
        return largest_per_row_without_sync(pre.masked_fill(~dead, -torch.inf), min(k, n))
    if len(features) > max(k, n // 4):  # where many are dead, passing over the living is cheaper than a copy of the dead
        return largest_per_row(pre + torch.where(dead, 0.0, -torch.inf), k)
    flat = largest_per_row(pre[:, features], min(k, len(features)))
    return flat // len(features) * n + features[flat % len(features)] if len(features) else flat
