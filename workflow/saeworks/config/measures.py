"""Settings of evaluation and geometry."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from .base import Frozen

# a row for each feature or token: for programs, so without a CSV beside the Parquet file
LONG_TABLES = ("features", "nearest", "matches", "tokens", "firing_features", "umap")


def table_files(name: str) -> list[str]:
    """Files of a table of the whole experiment."""
    return [f"{name}.parquet"] if name in LONG_TABLES else [f"{name}.parquet", f"{name}.csv"]


class EvaluationConfig(Frozen):
    """Evaluation on held-out rows."""

    n_tokens: PositiveInt | None = Field(
        None, description="Held-out tokens used, rounded down to whole rows; null: all of the corpus's eval rows."
    )
    batch_rows: PositiveInt = Field(32, description="Rows per forward pass.")
    sample_tokens: PositiveInt = Field(
        2000,
        description="Tokens whose input and output norm and cosine are kept one by one, drawn at random after position 0, and a tenth as "
        "many at position 0; the same for every run.",
    )


class ResamplingConfig(Frozen):
    """Bootstrap intervals."""

    n_resamples: Annotated[int, Field(ge=100)] = Field(
        1000, description="Bootstrap resamples behind each interval; those over seeds by the jackknife need none."
    )
    over_seeds: Literal["jackknife", "bca"] = Field(
        "jackknife",
        description="Interval of a mean over the pairs of three seeds or more: Student's over the seeds, each left out with its pairs, or the BCa "
        "bootstrap over pairs as if they were independent, which covers less than `confidence`.",
    )
    confidence: float = Field(0.95, gt=0, lt=1, description="Level of the intervals.")
    seed: NonNegativeInt = Field(0, description="Seed of the bootstrap and of what is compared at random.")


class GeometryConfig(ResamplingConfig):
    """Comparison of dictionaries."""


class StudyConfig(Frozen):
    """A study at each hook point."""

    tables: ClassVar[tuple[str, ...]]  # what it writes
    needs_seeds: ClassVar[bool] = False  # it compares runs that differ in their seed alone

    @property
    def given(self) -> bool:
        """Whether the experiment has the study."""
        return True


class PcaConfig(StudyConfig):
    """Principal directions of the activations at each hook point (Fig. 22 and 23 of Braun et al. 2024)."""

    tables = ("pca_components", "pca_histogram", "pca_correlation", "pca_ablation")

    n_tokens: PositiveInt | None = Field(
        None,
        description="Held-out tokens behind the directions, the histogram and the correlations, rounded down to whole rows; null: all.",
    )
    n_directions: PositiveInt = Field(25, description="Directions that are looked at, from the one with most variance on.")
    bins: PositiveInt = Field(200, description="Histogram bins over the whole range of the first component.")
    ablation_rows: PositiveInt = Field(30, description="Rows in which directions are ablated, or all that there are if fewer.")
    seed: NonNegativeInt = Field(100, description="Seed of the permutation that the ablation takes other components from.")
    batch_rows: PositiveInt = Field(32, description="Rows per forward pass.")


class FiringConfig(StudyConfig, ResamplingConfig):
    """On which tokens the features of two seeds fire."""

    tables = ("firing", "firing_features")
    needs_seeds = True

    n_tokens: PositiveInt | None = Field(None, description="Held-out tokens used, rounded down to whole rows; null: all.")
    batch_rows: PositiveInt = Field(32, description="Rows per forward pass.")


class AgreementConfig(StudyConfig):
    """Subject-verb agreement: how much of it SAEs keep, and by how many features (Table 7 and Fig. 24)."""

    tables = ("agreement", "agreement_features")

    files: dict[Literal["simple", "nounpp", "rc", "within_rc"], str] | None = Field(
        None,
        description="JSON lines per template, with the fields of Marks et al. (`clean_prefix`, `clean_answer`, `patch_answer`) or of BLiMP; null: no "
        "such study. Files under `data/agreement` that are missing are downloaded: `simple_train.json`, `nounpp_train.json`, "
        "`within_rc_train.json`, and for `rc` BLiMP's `distractor_agreement_relative_clause.jsonl`.",
    )
    n_items: PositiveInt = Field(1000, description="Items per template, drawn at random where a file has more.")
    seed: NonNegativeInt = Field(0, description="Seed of the draw.")

    @property
    def given(self) -> bool:
        return self.files is not None


class EmbeddingConfig(StudyConfig):
    """UMAP of pairs of dictionaries, and the regions that belong to one of them (Fig. 19 to 21)."""

    tables = ("umap", "umap_regions")
    seed: NonNegativeInt = Field(1, description="Random state of UMAP and seed of the shuffles.")
    n_neighbors: Annotated[int, Field(ge=2)] = Field(15, description="UMAP's neighbours.")
    min_dist: float = Field(0.1, ge=0, le=1, description="UMAP's smallest distance between points.")
    region_neighbors: PositiveInt = Field(
        30, description="Nearest points in the plane that the density ratio around a point is taken of."
    )
    density_ratio: float = Field(
        2.0,
        gt=1,
        description="How many times as dense as the other a dictionary is, each as a share of itself, throughout a region of it.",
    )
    min_features: PositiveInt = Field(10, description="Features of the smallest region.")
    n_regions: PositiveInt = Field(8, description="Regions kept, the largest first.")
    n_shuffles: PositiveInt = Field(200, description="Random assignments to the two dictionaries behind a region's p-value.")
    top_tokens: PositiveInt = Field(5, description="Tokens that a region is described by.")
    n_tokens: PositiveInt | None = Field(
        None, description="Held-out tokens that the top tokens are found in, rounded down to whole rows; null: all."
    )
    batch_rows: PositiveInt = Field(32, description="Rows per forward pass.")
