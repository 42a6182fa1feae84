"""Appearance of the figures: changing one of these redraws that figure only."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from ..store.files import canonical_json
from .base import Frozen
from .training import RunSpec


class FigureStyle(Frozen):
    """Settings that every figure has."""

    study: ClassVar[str | None] = None  # the block of the study that the figure shows, which an experiment may lack

    width: PositiveFloat = Field(
        5.5, description="Width in inches; 5.5 is the text width of a one-column paper, 3.25 a column of a two-column one."
    )
    height: PositiveFloat = Field(2.6, description="Height in inches of one row of panels (one row per hook point).")
    dpi: PositiveInt = Field(200, description="Resolution of the PNG.")
    colors: dict[Literal["local", "e2e", "e2e_ds", "finetune"], str] = Field(
        default={"local": "#0072B2", "e2e": "#D55E00", "e2e_ds": "#009E73", "finetune": "#CC79A7"},
        description="Colour per objective; one that is not given keeps its default (Okabe and Ito's colour-blind-safe palette).",
    )

    @classmethod
    def applies(cls, runs: Sequence[RunSpec]) -> bool:
        """Whether an experiment of these runs has what the figure shows; if not, it is not drawn."""
        return True

    @field_validator("colors", mode="before")
    @classmethod
    def _others_keep_theirs(cls, colors: Any) -> Any:
        return cls.model_fields["colors"].default | colors if isinstance(colors, dict) else colors


class ParetoFigure(FigureStyle):
    """L0 and alive features against CE increase (Fig. 1 and 4 of Braun et al. 2024)."""

    x_scale: Literal["linear", "log"] = Field("linear", description="Scale of the L0 and alive axes.")


class ResidualMseFigure(FigureStyle):
    """Reconstruction error at every later layer (Fig. 2)."""

    y_scale: Literal["linear", "log"] = Field("log", description="Scale of the error axis.")


class WithinDictionaryFigure(FigureStyle):
    """Cosine of each feature with its nearest neighbour in the same dictionary (Fig. 3a)."""

    bins: PositiveInt = Field(50, description="Histogram bins between 0 and 1.")


class CrossSeedFigure(FigureStyle):
    """Cosine of each feature with the nearest feature of another seed (Fig. 3b)."""

    bins: PositiveInt = Field(50, description="Histogram bins between 0 and 1.")


class PcaComponentsFigure(FigureStyle):
    """Component of the activations along their first principal direction, by kind of token (Fig. 22)."""

    study = "pca"
    colors: dict[Literal["position 0", "end of text", "other"], str] = Field(
        default={"position 0": "#D55E00", "end of text": "#009E73", "other": "#0072B2"}, description="Colour per kind of token."
    )
    y_scale: Literal["linear", "log"] = Field("log", description="Scale of the axis of token shares.")


class PcaCorrelationFigure(FigureStyle):
    """Correlation of SAE input and output along each principal direction (Fig. 23a)."""

    study = "pca"


class PcaAblationFigure(FigureStyle):
    """KL of the output when one principal direction is resampled (Fig. 23b)."""

    study = "pca"
    colors: dict[Literal["kl", "kl_reverse"], str] = Field(
        default={"kl": "#0072B2", "kl_reverse": "#D55E00"},
        description="Colour of KL(clean ‖ ablated) and of its reverse, KL(ablated ‖ clean).",
    )
    y_scale: Literal["linear", "log"] = Field("linear", description="Scale of the KL axis.")


class CrossObjectiveFigure(FigureStyle):
    """Cosine of each end-to-end feature with the nearest local one (Fig. 3c, 8)."""

    bins: PositiveInt = Field(50, description="Histogram bins between 0 and 1.")

    @classmethod
    def applies(cls, runs: Sequence[RunSpec]) -> bool:
        kinds = {(run.hook_point, run.training.architecture, run.objective == "local") for run in runs}
        return any((hook_point, architecture, not local) in kinds for hook_point, architecture, local in kinds)


class WithinByRunFigure(FigureStyle):
    """Mean nearest cosine within the dictionary of every run against L0, CE increase and alive features (Fig. 7)."""


class SeedPairsFigure(FigureStyle):
    """L0 and CE increase of runs that exist in several seeds (Fig. 18)."""

    confidence: float = Field(0.95, gt=0, lt=1, description="Level of the interval over seeds, where there are three or more.")

    @classmethod
    def applies(cls, runs: Sequence[RunSpec]) -> bool:
        return _vary(runs, "seed")


class EncoderDecoderFigure(FigureStyle):
    """Encoder against decoder cosine of one-to-one partners across seeds."""

    size: PositiveFloat = Field(4, description="Area of a feature's marker in square points.")

    @classmethod
    def applies(cls, runs: Sequence[RunSpec]) -> bool:
        return _vary(runs, "seed")


class FiringAgreementFigure(FigureStyle):
    """Agreement of the tokens that features of two seeds fire on, against their decoder cosine."""

    study = "firing"
    metric: Literal["pearson", "jaccard", "p_b_given_a", "p_a_given_b"] = Field(
        "pearson",
        description="Correlation of the activations, Jaccard index of the tokens fired on, or the share of one's tokens that the other "
        "fires on.",
    )
    bins: PositiveInt = Field(20, description="Bins of the cosine, from 0 to 1, that the lines are means over.")

    @classmethod
    def applies(cls, runs: Sequence[RunSpec]) -> bool:
        return _vary(runs, "seed")


class DirectionOfMaximumFigure(FigureStyle):
    """Mean nearest cosine either way, their mean, and one to one."""

    @classmethod
    def applies(cls, runs: Sequence[RunSpec]) -> bool:
        return _vary(runs, "seed")


class LrSweepFigure(FigureStyle):
    """Pareto curves for several learning rates (Fig. 13 to 15)."""

    @classmethod
    def applies(cls, runs: Sequence[RunSpec]) -> bool:
        return _vary(runs, "training.lr")


class DictionarySweepFigure(FigureStyle):
    """Pareto curves for several dictionary sizes (Fig. 16)."""

    @classmethod
    def applies(cls, runs: Sequence[RunSpec]) -> bool:
        return _vary(runs, "training.d_sae")


class SamplesSweepFigure(FigureStyle):
    """Pareto curves for several numbers of training tokens (Fig. 17)."""

    @classmethod
    def applies(cls, runs: Sequence[RunSpec]) -> bool:
        return _vary([run for run in runs if run.objective != "finetune"], "training.n_tokens")


class DownstreamAblationFigure(FigureStyle):
    """Loss and error by layer of SAEs that reconstruct the next layer, some, or all later ones."""

    y_scale: Literal["linear", "log"] = Field("log", description="Scale of the error axis.")

    @classmethod
    def applies(cls, runs: Sequence[RunSpec]) -> bool:
        return _vary(runs, "training.downstream_next", "training.downstream_hook_points")


class FinetuneBudgetFigure(FigureStyle):
    """Loss, divergence, error and sparsity of fine-tuned SAEs against the tokens of their fine-tuning."""

    @classmethod
    def applies(cls, runs: Sequence[RunSpec]) -> bool:
        return any(run.objective == "finetune" for run in runs)


class MixturesFigure(FigureStyle):
    """Loss and explained variance of mixtures of the end-to-end and the local objective."""

    @classmethod
    def applies(cls, runs: Sequence[RunSpec]) -> bool:
        return _vary(runs, "training.reconstruction_coeff")


class WallClockFigure(FigureStyle):
    """Training time by objective, beside the paper's (Table 6)."""


def _vary(runs: Sequence[RunSpec], *keys: str) -> bool:
    """Whether two runs differ in the settings `keys` and at most in their sparsity and seed besides."""
    groups: dict[str, set[str]] = {}
    for run in runs:
        values = run.model_dump()
        values |= {f"training.{key}": value for key, value in values.pop("training").items()}
        own = canonical_json([values.pop(key) for key in keys])
        free = {"name", "group", "seed"} | ({"start_from"} if keys == ("seed",) else {"sparsity_coeff", "k"})
        groups.setdefault(canonical_json({key: value for key, value in values.items() if key not in free}), set()).add(own)
    return any(len(found) > 1 for found in groups.values())


class AgreementTableFigure(FigureStyle):
    """Faithfulness on subject-verb agreement, beside the paper's (Table 7)."""

    study = "agreement"
    height: PositiveFloat = Field(0.15, description="Height in inches of one line of the table.")
    decimals: NonNegativeInt = Field(1, description="Decimals of the percentages.")


class AgreementFeaturesFigure(FigureStyle):
    """Faithfulness on subject-verb agreement by the number of features kept (Fig. 24)."""

    study = "agreement"


class SelectionTableFigure(FigureStyle):
    """The runs of similar CE increase, L0 and number of alive features, beside the paper's (Tables 1 to 3)."""

    height: PositiveFloat = Field(0.15, description="Height in inches of one line of the table.")

    @classmethod
    def applies(cls, runs: Sequence[RunSpec]) -> bool:
        kinds = {(run.hook_point, run.objective, run.training.architecture) for run in runs}
        return len(kinds) > len({hook_point for hook_point, *_ in kinds})


class NormTableFigure(FigureStyle):
    """Norm of the output over that of the input, beside the paper's (Table 5)."""

    height: PositiveFloat = Field(0.15, description="Height in inches of one line of the table.")
    decimals: NonNegativeInt = Field(2, description="Decimals of this experiment's ratios.")


class NormsFigure(FigureStyle):
    """Norm of the output against that of the input, token by token (Fig. 10)."""

    scale: Literal["auto", "linear", "log"] = Field(
        "auto", description="Scale of both axes; auto: log where the largest norm is more than ten times the median, else linear."
    )


class CosinesFigure(FigureStyle):
    """Cosine of output and input, token by token (Fig. 11)."""

    bins: PositiveInt = Field(50, description="Histogram bins over the whole axis.")


class ExplainedVarianceFigure(FigureStyle):
    """Explained variance at the SAE and every later layer, by two definitions (Fig. 12)."""

    positions: Literal["rest", "all"] = Field(
        "rest", description="Tokens that count: `rest`, those after position 0, or `all`, as in the paper."
    )
    lowest: float = Field(-1.0, lt=1, description="Lower end of the axes; a value below it is written at the edge.")


class UmapFigure(FigureStyle):
    """Two dictionaries in one plane, with the regions of one of them (Fig. 19 and 20)."""

    study = "embedding"
    height: PositiveFloat = Field(
        4.2, description="Height in inches of one hook point: its points and the list of regions below."
    )
    point_size: PositiveFloat = Field(1.5, description="Area of a point in square points.")
    significance: float = Field(0.05, gt=0, le=1, description="Largest p-value of a region that is marked with `*`.")


class UmapPcaFigure(FigureStyle):
    """The same plane, coloured by the cosine with the first principal direction (Fig. 21)."""

    study = "embedding"
    height: PositiveFloat = Field(3.8, description="Height in inches of one hook point: its points and the histogram below.")
    point_size: PositiveFloat = Field(1.5, description="Area of a point in square points.")
    bins: PositiveInt = Field(40, description="Histogram bins between −1 and 1.")
    colormap: Literal["coolwarm", "PuOr", "viridis"] = Field("coolwarm", description="Colours from −1 to 1.")


class FiguresConfig(Frozen):
    """One block per figure."""

    pareto: ParetoFigure = Field(
        default_factory=ParetoFigure, description="L0 and alive features against CE increase (Fig. 1, 4)."
    )
    residual_mse: ResidualMseFigure = Field(
        default_factory=ResidualMseFigure, description="Reconstruction error by layer (Fig. 2)."
    )
    within_dictionary: WithinDictionaryFigure = Field(
        default_factory=WithinDictionaryFigure, description="Nearest neighbour within a dictionary (Fig. 3a)."
    )
    cross_seed: CrossSeedFigure = Field(default_factory=CrossSeedFigure, description="Nearest neighbour across seeds (Fig. 3b).")

    pca_components: PcaComponentsFigure = Field(
        default_factory=PcaComponentsFigure, description="First principal component by kind of token (Fig. 22)."
    )
    pca_correlation: PcaCorrelationFigure = Field(
        default_factory=PcaCorrelationFigure, description="Input and output along principal directions (Fig. 23a)."
    )
    pca_ablation: PcaAblationFigure = Field(
        default_factory=PcaAblationFigure, description="KL when principal directions are resampled (Fig. 23b)."
    )

    cross_objective: CrossObjectiveFigure = Field(
        default_factory=CrossObjectiveFigure, description="Nearest local feature of each end-to-end one (Fig. 3c, 8)."
    )
    within_by_run: WithinByRunFigure = Field(
        default_factory=WithinByRunFigure, description="Nearest neighbour within every dictionary, by run (Fig. 7)."
    )
    seed_pairs: SeedPairsFigure = Field(default_factory=SeedPairsFigure, description="L0 and CE increase by seed (Fig. 18).")
    encoder_decoder: EncoderDecoderFigure = Field(
        default_factory=EncoderDecoderFigure, description="Encoder and decoder cosines across seeds."
    )
    firing_agreement: FiringAgreementFigure = Field(
        default_factory=FiringAgreementFigure, description="Tokens that features of two seeds fire on."
    )
    direction_of_maximum: DirectionOfMaximumFigure = Field(
        default_factory=DirectionOfMaximumFigure, description="Nearest cosines either way, and one to one."
    )
    lr_sweep: LrSweepFigure = Field(default_factory=LrSweepFigure, description="Learning rates (Fig. 13 to 15).")
    dictionary_sweep: DictionarySweepFigure = Field(
        default_factory=DictionarySweepFigure, description="Dictionary sizes (Fig. 16)."
    )
    samples_sweep: SamplesSweepFigure = Field(
        default_factory=SamplesSweepFigure, description="Numbers of training tokens (Fig. 17)."
    )
    downstream_ablation: DownstreamAblationFigure = Field(
        default_factory=DownstreamAblationFigure, description="How many later layers are reconstructed."
    )
    finetune_budget: FinetuneBudgetFigure = Field(
        default_factory=FinetuneBudgetFigure, description="Fine-tuning against its budget."
    )
    mixtures: MixturesFigure = Field(default_factory=MixturesFigure, description="Mixtures of local and end-to-end terms.")
    wall_clock: WallClockFigure = Field(default_factory=WallClockFigure, description="Training time (Table 6).")
    agreement_table: AgreementTableFigure = Field(
        default_factory=AgreementTableFigure, description="Subject-verb agreement (Table 7)."
    )
    agreement_features: AgreementFeaturesFigure = Field(
        default_factory=AgreementFeaturesFigure, description="Features that subject-verb agreement needs (Fig. 24)."
    )
    selection_table: SelectionTableFigure = Field(
        default_factory=SelectionTableFigure, description="The runs that are compared (Tables 1 to 3)."
    )
    norm_table: NormTableFigure = Field(default_factory=NormTableFigure, description="Norm of output over input (Table 5).")
    norms: NormsFigure = Field(default_factory=NormsFigure, description="Norm of output against input by token (Fig. 10).")
    cosines: CosinesFigure = Field(default_factory=CosinesFigure, description="Cosine of output and input by token (Fig. 11).")
    explained_variance: ExplainedVarianceFigure = Field(
        default_factory=ExplainedVarianceFigure, description="Explained variance by layer (Fig. 12)."
    )
    umap: UmapFigure = Field(default_factory=UmapFigure, description="UMAP of pairs of dictionaries with regions (Fig. 19, 20).")
    umap_pca: UmapPcaFigure = Field(
        default_factory=UmapPcaFigure, description="The same by the cosine with principal direction 0 (Fig. 21)."
    )

    def wanted(self, runs: Sequence[RunSpec], studies: Container[str] = ()) -> list[str]:
        """Names of the figures that an experiment of these runs and studies has."""
        blocks = {name: getattr(self, name) for name in type(self).model_fields}
        return [name for name, block in blocks.items() if block.applies(runs) and (block.study is None or block.study in studies)]
