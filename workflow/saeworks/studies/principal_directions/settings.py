"""Settings of the study and of its figures."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from ...config.base import Frozen, Seed
from ...config.figures import FigureStyle, Scale
from ...config.names import Color


class PrincipalDirectionsConfig(Frozen):
    """Principal directions of the activations at each hook point (Fig. 22 and 23 of Braun et al. 2024)."""

    n_tokens: PositiveInt | None = Field(
        None,
        le=10**10,
        description="Held-out tokens behind the directions, the histogram and the correlations, rounded down to whole rows; null: all.",
    )
    n_directions: PositiveInt = Field(
        25, le=10_000, description="Directions that are looked at, from the one with most variance on."
    )
    bins: PositiveInt = Field(200, le=10_000, description="Histogram bins over the whole range of the first component.")
    ablation_rows: PositiveInt = Field(
        30, le=10**6, description="Rows in which directions are ablated, or all that there are if fewer."
    )
    seed: Seed = Field(100, description="Seed of the permutation that the ablation takes other components from.")
    batch_rows: PositiveInt = Field(32, le=2**16, description="Rows per forward pass.")


class PcaComponentsFigure(FigureStyle):
    """Component of the activations along their first principal direction, by kind of token (Fig. 22)."""

    label = "Fig. 22: first principal direction"
    reads = ("pca_components", "pca_histogram")

    colors: dict[Literal["position 0", "end of text", "other"], Color] = Field(
        default={"position 0": "#D55E00", "end of text": "#009E73", "other": "#0072B2"}, description="Colour per kind of token."
    )
    y_scale: Scale = Field("log", description="Scale of the axis of token shares.")


class PcaCorrelationFigure(FigureStyle):
    """Correlation of SAE input and output along each principal direction (Fig. 23a)."""

    label = "Fig. 23a: principal directions through SAEs"
    reads = ("runs", "selection", "pca_correlation")


class PcaAblationFigure(FigureStyle):
    """KL of the output when one principal direction is resampled (Fig. 23b)."""

    label = "Fig. 23b: principal directions resampled"
    reads = ("pca_ablation",)

    colors: dict[Literal["kl", "kl_reverse"], Color] = Field(
        default={"kl": "#0072B2", "kl_reverse": "#D55E00"},
        description="Colour of KL(clean ‖ ablated) and of its reverse, KL(ablated ‖ clean).",
    )
    y_scale: Scale = Field("linear", description="Scale of the KL axis.")
