"""BatchTopK (Bussmann et al. 2024, arXiv 2412.06410) and its nested form, Matryoshka (Bussmann et al. 2025, arXiv 2503.17547)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from .base import SAE, Forward
from .codes import Codes
from .sparse import flat_nonzero, largest_overall

_THRESHOLD_DECAY = 0.999


class BatchTopKSAE(SAE):
    """In training the k·B largest activations of a batch of B tokens are kept; otherwise those above one threshold.

    The threshold is a running mean (decay 0.999, unbiased) of the smallest positive activation kept in training, so that the
    codes of a token do not depend on the other tokens of its batch.
    """

    architecture = "jumprelu"  # which it is once trained: see `formats`
    elementwise = False

    def __init__(self, d_in: int, d_sae: int, k: int, **options: Any) -> None:
        super().__init__(d_in, d_sae, **options)
        self.k = k
        self.register_buffer("threshold_sum", torch.zeros((), dtype=torch.float64))
        self.register_buffer("threshold_weight", torch.zeros((), dtype=torch.float64))

    @property
    def threshold(self) -> Float[Tensor, ""]:
        """Activations above it count at inference; 0 before the first training step."""
        return (self.threshold_sum / self.threshold_weight.clamp(min=torch.finfo(torch.float64).tiny)).to(self.W_enc.dtype)

    @property
    def chunk_rows(self) -> int:
        """The selection needs the whole batch."""
        return 2**62

    def select(self, pre: Float[Tensor, "B d_sae"]) -> Int[Tensor, " n"]:
        """The k·B largest of the batch while training, those above the threshold otherwise."""
        return largest_overall(pre, self.k * len(pre)) if self.training else flat_nonzero(pre > self.threshold)

    @property
    def density(self) -> float:
        """k of d_sae."""
        return self.k / self.d_sae

    def activate(self, pre: Codes) -> Codes:
        """ReLU of the selected pre-activations."""
        return pre.replaced(F.relu(pre.values))

    def finish(self, x: Tensor, pre: Codes, aux: Codes | None, others: list[Codes]) -> Forward:
        """As the base class; follows the threshold."""
        step = super().finish(x, pre, aux, others)
        if self.training:
            kept = step.codes.values.detach()
            smallest = torch.where(kept > 0, kept, torch.inf).amin().double()
            # a batch without a positive activation says nothing about the threshold, which it would make infinite
            weight = (1 - _THRESHOLD_DECAY) * smallest.isfinite().double()
            self.threshold_sum.mul_(1 - weight).add_(weight * smallest.nan_to_num(posinf=0.0))
            self.threshold_weight.mul_(1 - weight).add_(weight)
        return step


class MatryoshkaBatchTopKSAE(BatchTopKSAE):
    """BatchTopK whose nested prefixes each reconstruct the input; the loss sums their squared errors.

    Args:
        fractions: shares of the dictionary in each group; prefix i holds groups 0 … i.
    """

    def __init__(self, d_in: int, d_sae: int, k: int, fractions: Sequence[float], **options: Any) -> None:
        super().__init__(d_in, d_sae, k, **options)
        bounds = [round(share * d_sae) for share in accumulate(fractions)]
        self.prefixes = [*bounds[:-1], d_sae]

    def reconstructions(self, codes: Codes, dictionary: Float[Tensor, "d_sae d_in"]) -> list[Float[Tensor, "B d_in"]]:
        """One output per prefix: that of the prefix before, and what its last group adds."""
        outputs, start, total = [], 0, self.b_dec
        if codes.active is None:
            for stop in self.prefixes:
                total = total + F.linear(codes.values[:, start:stop], dictionary[start:stop].T)
                outputs.append(total)
                start = stop
            return outputs
        # finding each group's entries would cost more than passing over the others
        features = torch.arange(self.d_sae, device=dictionary.device)
        for stop in self.prefixes[:-1]:
            group = codes.at((features >= start) & (features < stop))
            total = total + codes.replaced(codes.values * group).decode(dictionary)
            outputs.append(total)
            start = stop
        return [*outputs, *super().reconstructions(codes, dictionary)]
