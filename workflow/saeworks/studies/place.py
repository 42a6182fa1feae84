"""Where a study measures: what is there to be read, each thing loaded when it is first asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from .tables import read_table

if TYPE_CHECKING:
    from ..lm.bridge import BridgeModel
    from ..lm.decoder import Decoder
    from ..lm.sites import Site
    from ..sae.base import SAE


@dataclass(frozen=True)
class Place:
    """One place of an experiment: a run, a hook point, or the whole.

    Its imports are inside, so that a study of tables loads neither torch nor a language model.
    """

    results: Path  # results/<experiment>
    at: str = ""  # <hook point>/<run>, <hook point>, or nothing for the whole experiment
    model_folder: Path = Path()
    corpus_folder: Path = Path()
    device: str = "cpu"
    run_names: tuple[str, ...] = ()  # all runs, in the order of the experiment file
    reads: tuple[str, ...] | None = None  # tables of other studies that may be read; None: any

    @property
    def hook_point(self) -> str:
        """The hook point of this place."""
        return self.at.partition("/")[0]

    def table(self, name: str) -> pd.DataFrame:
        """A table of the whole experiment, of another study.

        Raises:
            ValueError: the study does not declare that it reads it, so that its result would not depend on it.
        """
        if self.reads is not None and name not in self.reads:
            raise ValueError(f"a study reads table {name!r}, which is not among the `reads` of its declaration")
        return read_table(self.results / "tables", name)

    @cached_property
    def runs(self) -> pd.DataFrame:
        """The rows of table `runs` at this hook point."""
        runs = self.table("runs")
        return runs[runs["hook_point"] == self.hook_point]

    def selected(self, *criteria: str) -> list[str]:
        """The runs of table `selection` at this hook point by any of `criteria`, each once."""
        selection = self.table("selection")
        chosen = selection[(selection["hook_point"] == self.hook_point) & selection["criterion"].isin(criteria)]
        return list(dict.fromkeys(chosen["run"]))

    def folder(self, run: str) -> Path:
        """The folder of a run."""
        return self.results / "saes" / run

    def sae(self, run: str) -> SAE:
        """The SAE of a run, on the device."""
        from ..sae.formats import load_sae

        return load_sae(self.folder(run), self.device)

    @cached_property
    def model(self) -> Decoder | BridgeModel:
        """The language model, on the device."""
        from ..lm.prepare import load_model

        return load_model(self.model_folder, self.device)

    @cached_property
    def model_record(self) -> dict[str, Any]:
        """What the prepared model says of itself."""
        from ..lm.prepare import read_record

        return read_record(self.model_folder)

    @cached_property
    def tokenizer(self) -> Any:
        """The language model's tokenizer."""
        from ..lm.prepare import load_tokenizer

        return load_tokenizer(self.model_folder)

    @cached_property
    def site(self) -> Site:
        """This hook point in the language model."""
        from ..lm.sites import Site

        return Site.parse(self.hook_point, self.model.arch)

    def held_out(self, n_tokens: int | None, key: str) -> Int[np.ndarray, "rows pos"]:
        """Held-out rows as `held_out_rows`; `key` is the setting that asks for `n_tokens`."""
        from .held_out import held_out_rows

        return held_out_rows(self.corpus_folder, n_tokens, key)
