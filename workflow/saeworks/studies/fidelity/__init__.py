"""How faithfully an SAE stands in for the activations that it rebuilds."""

from __future__ import annotations

from ..study import Column, Study, Table
from .settings import (
    CosinesFigure,
    ExplainedVarianceFigure,
    FidelityConfig,
    NormsFigure,
    NormTable,
    ParetoFigure,
    ResidualMseFigure,
)

STUDY = Study(
    title="Fidelity",
    description="Evaluation of each run on held-out rows: loss, divergence, reconstruction and sparsity.",
    scope="run",
    always=True,
    order=20,
    settings=FidelityConfig,
    needs=frozenset({"model", "corpus", "saes"}),
    tables={
        "fidelity": Table(
            "One row per run, metric, layer and positions.",
            {
                "run": Column("name of the run"),
                "metric": Column("name of what is measured"),
                "layer": Column("layer of `mse` and the explained variances; −1 elsewhere"),
                "positions": Column("tokens that count: `all`, `first` (position 0) or `rest`"),
                "value": Column("the value", "that in `unit`"),
                "unit": Column("unit of the value"),
                "n_tokens": Column("tokens behind the value", "tokens"),
            },
        ),
        "features": Table(
            "One row per run and feature.",
            {
                "run": Column("name of the run"),
                "feature": Column("index of the feature"),
                "firing_rate": Column("share of held-out tokens on which the feature is active"),
                "mean_activation": Column("mean activation on these tokens", "activation"),
                "alive": Column("whether the feature is active on any held-out token"),
            },
            long=True,
        ),
        "tokens": Table(
            "One row per run and sampled token, the same tokens for every run.",
            {
                "run": Column("name of the run"),
                "position": Column("position of the token in its row"),
                "input_norm": Column("norm of the SAE's input", "activation"),
                "output_norm": Column("norm of its output", "activation"),
                "cosine": Column("cosine of input and output"),
            },
            long=True,
        ),
    },
    figures={
        "pareto": ParetoFigure,
        "residual_mse": ResidualMseFigure,
        "norm_table": NormTable,
        "norms": NormsFigure,
        "cosines": CosinesFigure,
        "explained_variance": ExplainedVarianceFigure,
    },
)
