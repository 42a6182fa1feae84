"""Settings of the study and of its figures."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from ...config.base import Frozen, Seed
from ...config.figures import FigureStyle


class UmapConfig(Frozen):
    """UMAP of pairs of dictionaries, and the regions that belong to one of them (Fig. 19 to 21)."""

    seed: Seed = Field(1, description="Random state of UMAP and seed of the shuffles.")
    n_neighbors: Annotated[int, Field(ge=2)] = Field(15, le=10_000, description="UMAP's neighbours.")
    min_dist: float = Field(0.1, ge=0, le=1, description="UMAP's smallest distance between points.")
    region_neighbors: PositiveInt = Field(
        30, le=10_000, description="Nearest points in the plane that the density ratio around a point is taken of."
    )
    density_ratio: float = Field(
        2.0,
        gt=1,
        description="How many times as dense as the other a dictionary is, each as a share of itself, throughout a region of it.",
    )
    min_features: PositiveInt = Field(10, le=2**24, description="Features of the smallest region.")
    n_regions: PositiveInt = Field(8, le=10_000, description="Regions kept, the largest first.")
    n_shuffles: PositiveInt = Field(
        200, le=10_000, description="Random assignments to the two dictionaries behind a region's p-value."
    )
    top_tokens: PositiveInt = Field(5, le=10_000, description="Tokens that a region is described by.")
    n_tokens: PositiveInt | None = Field(
        None, le=10**10, description="Held-out tokens that the top tokens are found in, rounded down to whole rows; null: all."
    )
    batch_rows: PositiveInt = Field(32, le=2**16, description="Rows per forward pass.")


class UmapFigure(FigureStyle):
    """Two dictionaries in one plane, with the regions of one of them (Fig. 19 and 20)."""

    label = "Fig. 19, 20: two dictionaries in one plane"
    reads = ("runs", "umap", "umap_regions")

    height: PositiveFloat = Field(
        4.2, ge=0.5, le=50, description="Height in inches of one hook point: its points and the list of regions below."
    )
    point_size: PositiveFloat = Field(3.0, le=1000, description="Area of a point in square points.")
    significance: float = Field(0.05, gt=0, le=1, description="Largest p-value of a region that is shown.")


class UmapPcaFigure(FigureStyle):
    """The same plane, coloured by the cosine with the first principal direction (Fig. 21)."""

    label = "Fig. 21: the plane by principal direction 0"
    reads = ("runs", "umap")

    height: PositiveFloat = Field(
        3.8, ge=0.5, le=50, description="Height in inches of one hook point: its points and the histogram below."
    )
    point_size: PositiveFloat = Field(3.0, le=1000, description="Area of a point in square points.")
    bins: PositiveInt = Field(40, le=10_000, description="Histogram bins between −1 and 1.")
    colormap: Literal["coolwarm", "PuOr", "viridis"] = Field("coolwarm", description="Colours from −1 to 1.")
