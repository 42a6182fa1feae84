"""What SAEs cost on other text than they were trained on: text that nobody sampled from the studied model."""

from __future__ import annotations

from ..study import Column, Study, Table
from .settings import TextsConfig, TextsTable

STUDY = Study(
    title="Other texts",
    description="Evaluation of each run on text files, beside the held-out rows of the corpus.",
    scope="run",
    order=25,
    settings=TextsConfig,
    needs=frozenset({"model", "corpus", "saes"}),
    files=lambda settings: sorted((settings.files or {}).values()),
    given=lambda settings: settings.files is not None,
    tables={
        "texts": Table(
            "One row per run, text, metric, layer and positions: the metrics of the table `fidelity` on each text.",
            {
                "run": Column("name of the run"),
                "text": Column("name of the text"),
                "metric": Column("name of what is measured"),
                "layer": Column("layer of `mse` and the explained variances; −1 elsewhere"),
                "positions": Column("tokens that count: `all`, `first` (position 0) or `rest`"),
                "value": Column("the value", "that in `unit`"),
                "unit": Column("unit of the value"),
                "n_tokens": Column("tokens behind the value", "tokens"),
            },
        )
    },
    figures={"texts_table": TextsTable},
)
