"""Settings of the study and of its figures."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from ...config.base import Frozen
from ...config.figures import FigureStyle, Positions, Scale, TableStyle


class FidelityConfig(Frozen):
    """Evaluation on held-out rows."""

    n_tokens: PositiveInt | None = Field(
        None, le=10**10, description="Held-out tokens used, rounded down to whole rows; null: all of the corpus's eval rows."
    )
    batch_rows: PositiveInt = Field(32, le=2**16, description="Rows per forward pass.")
    sample_tokens: PositiveInt = Field(
        2000,
        le=10**9,
        description="Tokens whose input and output norm and cosine are kept one by one, drawn at random after position 0, and a tenth as "
        "many at position 0; the same for every run.",
    )


class ParetoFigure(FigureStyle):
    """L0 and alive features against CE increase (Fig. 1 and 4 of Braun et al. 2024)."""

    label = "Fig. 1, 4: Pareto curves"
    reads = ("runs", "fidelity")

    x_scale: Scale = Field("linear", description="Scale of the L0 and alive axes.")


class ResidualMseFigure(FigureStyle):
    """Reconstruction error at every later layer (Fig. 2)."""

    label = "Fig. 2: reconstruction error by layer"
    reads = ("runs", "fidelity", "selection")

    y_scale: Scale = Field("log", description="Scale of the error axis.")


class NormTable(TableStyle):
    """Norm of the output over that of the input, beside the paper's (Table 5)."""

    label = "Table 5: norm of output over input"
    reads = ("runs", "fidelity", "selection")

    decimals: NonNegativeInt = Field(2, le=10, description="Decimals of this experiment's ratios.")


class NormsFigure(FigureStyle):
    """Norm of the output against that of the input, token by token (Fig. 10)."""

    label = "Fig. 10: norm of output against input"
    reads = ("runs", "fidelity", "selection", "tokens")

    scale: Literal["auto", "linear", "log"] = Field(
        "auto", description="Scale of both axes; auto: log where the largest norm is more than ten times the median, else linear."
    )


class CosinesFigure(FigureStyle):
    """Cosine of output and input, token by token (Fig. 11)."""

    label = "Fig. 11: cosine of output and input"
    reads = ("runs", "fidelity", "selection", "tokens")

    bins: PositiveInt = Field(50, le=10_000, description="Histogram bins over the whole axis.")


class ExplainedVarianceFigure(FigureStyle):
    """Explained variance at the SAE and every later layer, by two definitions (Fig. 12)."""

    label = "Fig. 12: explained variance by layer"
    reads = ("runs", "fidelity", "selection")

    positions: Positions = Field(
        "rest", description="Tokens that count: `rest`, those after position 0, or `all`, as in the paper."
    )
    lowest: float = Field(-1.0, lt=1, description="Lower end of the axes; a value below it is written at the edge.")
