"""The activations that runs train on, and the model's pass on them, read and computed once for all runs."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..activations.cache import ActivationCache
from ..activations.stream import ActivationStream, open_activations
from ..config.activations import ActivationsConfig
from ..config.objectives import OBJECTIVES
from ..config.training import RunSpec
from ..lm.bridge import BridgeModel
from ..lm.corpus import read_manifest
from ..lm.decoder import Decoder
from ..lm.prepare import load_model, read_record
from ..lm.sites import Site
from ..store.errors import UserError
from ..store.seeds import derive_seed
from .clean import CleanPass, downstream_hook_points


class Data:
    """Activations at the hook point, and the clean pass on them, computed once per step and place."""

    def __init__(
        self,
        specs: list[RunSpec],
        activations: ActivationsConfig,
        cache: Path,
        model_folder: Path,
        corpus_folder: Path,
        device: str,
    ) -> None:
        hook_points = {spec.hook_point for spec in specs}
        if len(hook_points) > 1:
            raise UserError(
                f"runs that train together share a hook point, but these have {', '.join(sorted(hook_points))}; train them apart."
            )
        (hook_point,) = hook_points
        self.record, self.corpus = read_record(model_folder), read_manifest(corpus_folder)
        self.site = Site.parse(hook_point, self.record["arch"])
        # a cache is read on the CPU, a step ahead of a GPU
        reading = "cpu" if activations.source == "cache" else device
        self._open = partial(open_activations, activations, hook_point, cache, model_folder, corpus_folder, reading)
        self.source: ActivationCache | ActivationStream = self._open()
        self._streams: dict[tuple[int, int], ActivationStream] = {}
        self._device = torch.device(device)
        self._reader = ThreadPoolExecutor(1) if reading != device else None
        self._ahead: dict[tuple, Future] = {}
        end_to_end = [spec for spec in specs if OBJECTIVES[spec.objective].needs_model]
        self.model: Decoder | BridgeModel | None = load_model(model_folder, device) if end_to_end else None
        self.capture = list(dict.fromkeys(name for spec in end_to_end for name in self.downstream(spec)))
        self._held: dict[tuple, Any] = {}
        self._statistics: dict[int, Tensor] = {}

    def forget(self) -> None:
        """Drop what was computed for the last step."""
        self._held.clear()

    def downstream(self, spec: RunSpec) -> list[str]:
        """Hook points that the run reconstructs downstream."""
        return downstream_hook_points(spec, self.site, self.record["arch"])

    def offset(self, spec: RunSpec) -> int:
        """Runs of different seeds start at different places of the stored shuffle; those that continue another, at one further place."""
        purpose = ("data", spec.seed, *(["finetune"] if OBJECTIVES[spec.objective].starts_from_run else []))
        return derive_seed(*purpose) % (self.source.n_rows * self.source.context)

    def batch(self, spec: RunSpec, step: int) -> tuple[Tensor, CleanPass | None]:
        """Values at the hook point (tokens, d_in), and for objectives that need the model the clean pass on them."""
        end_to_end = OBJECTIVES[spec.objective].needs_model
        place = (spec.whole_rows, end_to_end, self.offset(spec), spec.training.batch_tokens)
        key = (*place, spec.training.tf32)  # which the clean pass depends on
        if key not in self._held:
            values = self._read(*place, step)
            x = values[self.site.name]
            clean = None
            if end_to_end:
                clean = CleanPass(self.model, self.site, x, values[self.site.stream], self.capture)
            self._held[key] = x.flatten(0, -2), clean
        return self._held[key]

    def _read(self, *place_and_step: int) -> dict[str, Tensor]:
        if self._reader is None:
            return self._values(*place_and_step)
        *place, step = place_and_step
        waiting = self._ahead.pop(place_and_step, None)
        values = waiting.result() if waiting else self._values(*place_and_step)
        self._ahead[*place, step + 1] = self._reader.submit(self._values, *place, step + 1)
        return {name: value.pin_memory().to(self._device, non_blocking=True) for name, value in values.items()}

    def _values(self, whole_rows: bool, end_to_end: bool, offset: int, size: int, step: int) -> dict[str, Tensor]:
        """Values at the hook point, tokens or whole rows, and what the model continues from where it runs."""
        if not whole_rows:
            return {self.site.name: self._reader_at(offset, size).tokens(offset + step * size, size)}
        rows = size // self.source.context
        start = offset // self.source.context + step * rows
        return self.source.sequences_at(start, rows, dict.fromkeys([self.site.name, *([self.site.stream] if end_to_end else [])]))

    def _reader_at(self, offset: int, size: int) -> ActivationCache | ActivationStream:
        """A stream holds one block of activations; runs at different places of the corpus would drive out each other's."""
        if isinstance(self.source, ActivationCache):
            return self.source
        if (offset, size) not in self._streams:
            self._streams[offset, size] = self._open() if self._streams else self.source
        return self._streams[offset, size]

    def sample(self, n_tokens: int) -> Tensor:
        """The first activations of the stored shuffle, for statistics."""
        n_tokens = min(n_tokens, self.source.n_rows * self.source.context)
        if n_tokens not in self._statistics:
            self._statistics[n_tokens] = self.source.tokens(0, n_tokens).to(self._device)
        return self._statistics[n_tokens]
