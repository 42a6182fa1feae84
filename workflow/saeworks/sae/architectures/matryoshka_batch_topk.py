"""Matryoshka, the nested form of BatchTopK, of Bussmann et al. 2025 (arXiv 2503.17547)."""

from __future__ import annotations

from itertools import accumulate
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, PositiveFloat, field_validator
from torch import Tensor

from ...config.base import Frozen
from ..codes import Codes
from .batch_topk import BatchTopKSAE

LABEL = "Matryoshka"
PLACE = 40
PENALTIES = ()
SAVED_AS = "jumprelu"


class Options(Frozen):
    """Options of Matryoshka."""

    matryoshka_fractions: Annotated[list[PositiveFloat], Field(min_length=2)] = Field(
        [1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32],
        description="`matryoshka_batch_topk`: share of the dictionary in each nested group; sums to 1.",
    )

    @field_validator("matryoshka_fractions")
    @classmethod
    def _sum_to_one(cls, fractions: list[float]) -> list[float]:
        if abs(sum(fractions) - 1) > 1e-6:
            raise ValueError(f"the shares add up to {sum(fractions):g}; make it 1")
        return fractions


class MatryoshkaBatchTopKSAE(BatchTopKSAE):
    """BatchTopK whose nested prefixes each reconstruct the input; the loss sums their squared errors.

    `matryoshka_fractions` are the shares of the dictionary in each group; prefix i holds groups 0 … i.
    """

    options_type = Options
    loads = ()

    def __init__(self, d_in: int, d_sae: int, k: int, **options: Any) -> None:
        super().__init__(d_in, d_sae, k, **options)
        bounds = [round(share * d_sae) for share in accumulate(self.options.matryoshka_fractions)]
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
            total = total + codes.masked((features >= start) & (features < stop)).decode(dictionary)
            outputs.append(total)
            start = stop
        return [*outputs, *super().reconstructions(codes, dictionary)]
