"""The stream: activations computed while they are read, in the order of the cache, without the disk."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..config.activations import ActivationsConfig
from ..lm.corpus import load_rows
from ..lm.prepare import load_model
from ..lm.sites import Site
from .cache import ActivationCache, check_finite, identity
from .order import sequence_order, take, token_order


class ActivationStream:
    """The interface of `ActivationCache`, computed on the fly.

    Holds one block (`block_rows` sequences, the whole corpus when null) of activations in memory.
    """

    def __init__(
        self, config: ActivationsConfig, hook_point: str, model_folder: Path, corpus_folder: Path, device: str = "cpu"
    ) -> None:
        self.model = load_model(model_folder, device)
        self.hook_point = hook_point
        self.rows = load_rows(corpus_folder, "train")
        self.manifest = identity(config, model_folder, corpus_folder)
        self.n_rows, self.context = self.rows.shape
        self.d_in = Site.parse(hook_point, self.model.arch).d_in
        self.device = device
        self._config = config
        self._batch = config.batch_rows
        self._block_rows = config.block_rows or self.n_rows
        self._round = torch.bfloat16 if config.dtype == "bfloat16" else getattr(torch, config.dtype)
        self.sequence_order = sequence_order(self.n_rows, config.seed)
        self._shuffle = (config.block_rows, config.seed)
        self._place = torch.empty(self.n_rows, dtype=torch.long)
        self._place[self.sequence_order] = torch.arange(self.n_rows)
        self._held: tuple[int, Tensor] | None = None

    @cached_property
    def token_order(self) -> Tensor:
        """The order of single tokens; whole rows do without it."""
        return token_order(self.sequence_order, self.context, *self._shuffle)

    def tokens(self, start: int, count: int) -> Float[Tensor, "count d_in"]:
        """As `ActivationCache.tokens`."""
        index = take(self.token_order, start, count)
        row, position = index.div(self.context, rounding_mode="floor"), index % self.context
        place = self._place[row]
        block = place.div(self._block_rows, rounding_mode="floor")
        out = torch.empty(count, self.d_in, device=self.device)
        for number in block.unique_consecutive().tolist():
            here = block == number
            values = self._block(number)
            out[here] = values[(place[here] - number * self._block_rows).to(self.device), position[here].to(self.device)]
        return out

    def sequences(self, start: int, count: int) -> Float[Tensor, "count context d_in"]:
        """As `ActivationCache.sequences`."""
        return self._activations(take(self.sequence_order, start, count))

    def sequences_at(self, start: int, count: int, names: Iterable[str]) -> dict[str, Float[Tensor, "count context d_in"]]:
        """As `ActivationCache.sequences_at`; the model runs once for all `names`."""
        return self._values(take(self.sequence_order, start, count), list(names))

    def _block(self, number: int) -> Tensor:
        if self._held is None or self._held[0] != number:
            self._held = None  # free the old block first
            members = self.sequence_order[number * self._block_rows : (number + 1) * self._block_rows]
            self._held = (number, self._activations(members))
        return self._held[1]

    def _activations(self, rows: Tensor) -> Tensor:
        return self._values(rows, [self.hook_point])[self.hook_point]

    @torch.no_grad()
    def _values(self, rows: Tensor, names: list[str]) -> dict[str, Tensor]:
        parts: dict[str, list[Tensor]] = {name: [] for name in names}
        for batch in rows.split(self._batch):
            tokens = torch.from_numpy(self.rows[batch.numpy()].astype(np.int64)).to(self.device)
            for name, value in self.model.hook_values(tokens, names).items():
                kept = value.to(self._round)
                check_finite(kept, value, name, self._config)
                parts[name].append(kept.float())
        return {name: torch.cat(values) for name, values in parts.items()}


def open_activations(
    config: ActivationsConfig, hook_point: str, folder: Path, model_folder: Path, corpus_folder: Path, device: str = "cpu"
) -> ActivationCache | ActivationStream:
    """The configured source of activations at `hook_point`; a cache is checked against the model and corpus on disk."""
    if config.source == "stream":
        return ActivationStream(config, hook_point, model_folder, corpus_folder, device)
    return ActivationCache(folder, hook_point, identity(config, model_folder, corpus_folder), device)
