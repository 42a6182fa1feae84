"""The interventions by name, and the settings of the study and of its figures."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from ...config.base import Frozen
from ...config.figures import Exhibit, FigureStyle, Positions, Scale, TableStyle


class Intervention(NamedTuple):
    """What takes the place of the activation x; x̂ is the SAE's output, ε the norm of its error x̂ − x."""

    label: str
    meaning: str
    color: str


INTERVENTIONS = {
    "sae": Intervention("SAE", "x̂", "#D55E00"),
    "norm_corrected": Intervention("SAE, true norm", "x̂ rescaled to the norm of x", "#E69F00"),
    "norm_only": Intervention("x, SAE's norm", "x rescaled to the norm of x̂", "#999999"),
    "random": Intervention("ε-random", "x plus ε in a random direction", "#0072B2"),
    "cosine_sae_norm": Intervention("random at cosine, SAE's norm", "a random vector with the norm of x̂ and its cosine with x", "#56B4E9"),
    "cosine_true_norm": Intervention("random at cosine, true norm", "the same, rescaled to the norm of x", "#009E73"),
    "zero": Intervention("zero", "0", "#000000"),
    "mean": Intervention("mean", "the mean activation after position 0", "#666666"),
    "gaussian": Intervention("to a Gaussian draw", "x plus ε towards a draw with the activations' mean and covariance", "#CC79A7"),
    "real": Intervention("to a real activation", "x plus ε towards the activation of another token", "#882255"),
    "gaussian_mixture": Intervention(
        "Gaussian difference", "x plus ε along the difference of two draws with the activations' covariance", "#44AA99"
    ),
    "real_mixture": Intervention("real difference", "x plus ε along the difference of two other tokens' activations", "#117733"),
    "other_token": Intervention("another token's error", "x plus ε along the SAE's error at another token", "#DDCC77"),
    "other_seed": Intervention("another seed's error", "x plus ε along the error of an SAE that differs in its seed alone", "#AA4499"),
    "on_directions": Intervention("error on top directions", "x plus the error's part in the first principal directions", "#332288"),
    "off_directions": Intervention("error off top directions", "x plus the rest of the error", "#88CCEE"),
    "on_unread": Intervention("error where little is read", "x plus the error's part in the directions that later layers read least", "#AA3377"),
    "off_unread": Intervention("error where more is read", "x plus the rest of the error", "#EE99AA"),
    "layer_norm": Intervention("SAE, LayerNorm-aware", "x̂ with the mean over components of x, and its norm about that mean", "#999933"),
    "after_first": Intervention("SAE after position 0", "x̂, but x at position 0", "#661100"),
}  # fmt: skip
OF_POST = ("sae", "norm_corrected", "norm_only", "random", "cosine_sae_norm", "cosine_true_norm", "zero", "mean")
OF_EVERY_RUN = OF_POST[:6]
BASELINES = ("random", "gaussian", "real", "gaussian_mixture", "real_mixture", "other_token", "other_seed")  # at distance ε
InterventionName = Literal[tuple(INTERVENTIONS)]


class ErrorsConfig(Frozen):
    """What an SAE's errors do to the model's output, against perturbations of the same size (Gurnee 2024)."""

    n_tokens: PositiveInt | None = Field(
        None,
        le=10**10,
        description="Held-out tokens used, rounded down to whole rows; null: no such study. 65,536 take a minute per run of a small model.",
    )
    batch_rows: PositiveInt = Field(8, le=2**16, description="Rows whose activations are held at once.")
    logits_mb: PositiveInt = Field(
        1024,
        le=2**20,
        description="Memory for the predictions of some tokens over the whole vocabulary, in MiB; fewer are held at once where they do not fit.",
    )
    interventions: Annotated[list[InterventionName], Field(min_length=1)] | None = Field(
        None,
        description="What is measured on the runs chosen for similar CE increase and their other seeds; `sae` and `random` must be "
        "among it; null: all. On other runs "
        "those of it among " + ", ".join(f"`{name}`" for name in OF_EVERY_RUN) + ".",
    )
    single_position: NonNegativeInt = Field(
        32, le=2**20, description="Position that alone is replaced, in a pass of its own; at most the middle of a row."
    )
    following: NonNegativeInt = Field(
        16, le=2**20, description="Positions after it whose output is compared too, as far as a row has them."
    )
    draw_position: NonNegativeInt = Field(
        48, le=2**20, description="Position at which many random directions are tried; at most the middle of a row."
    )
    draw_tokens: NonNegativeInt = Field(
        60, le=10**6, description="Held-out rows in which they are tried, whatever `n_tokens`, as far as there are."
    )
    n_draws: Annotated[int, Field(ge=2)] = Field(500, le=10**6, description="Random directions for each of these tokens.")
    sweep_rows: PositiveInt = Field(16, le=2**16, description="Rows of the sweeps over length and cosine, as far as there are.")
    lengths: Annotated[list[PositiveFloat], Field(min_length=1)] = Field(
        [0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0],
        description="Lengths to which errors and random vectors are rescaled, over the mean norm of the activations after position 0.",
    )
    cosines: Annotated[list[Annotated[float, Field(ge=-1, le=1)]], Field(min_length=1)] = Field(
        [0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99], description="Cosines with the activation at which noise is tried."
    )
    noise_norm: PositiveFloat = Field(0.9, description="Norm of the activation with that noise, over its own.")
    n_directions: PositiveInt = Field(
        10, le=10**6, description="First principal directions of the activations that errors are projected on and off."
    )
    unread_share: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.05,
        description="Share of the squared norm of what reads the residual later (W_Q, W_K, W_V, W_in, W_U, each counting alike) that the "
        "directions which errors are projected on and off as little read hold at most.",
    )
    n_examples: NonNegativeInt = Field(3, le=10_000, description="Tokens per run whose most probable next tokens are kept.")
    n_next: PositiveInt = Field(25, le=2**16, description="Next tokens kept of each.")

    @field_validator("interventions")
    @classmethod
    def _with_the_ratio(cls, interventions: list[str] | None) -> list[str] | None:
        if interventions is not None and (missing := {"sae", "random"} - set(interventions)):
            raise ValueError(f"`interventions` lacks `{min(missing)}`, which everything is compared with; add it")
        return interventions


_FRAME = ("runs", "selection", "errors")


class _OfTokens(Exhibit):
    """Settings of what is a mean, or a histogram, over tokens."""

    reads = _FRAME

    positions: Positions = Field(
        "rest", description="Tokens that count: `rest`, those after position 0, or `all`, as in the post."
    )


class ErrorsTable(_OfTokens, TableStyle):
    """Divergence by the SAE over that by random perturbations of the same size, beside published values."""

    label = "Errors: the SAE over random perturbations"

    decimals: NonNegativeInt = Field(2, le=10, description="Decimals of the ratios; divergences have one more.")


class ErrorsKlFigure(_OfTokens, FigureStyle):
    """KL divergence by layer and intervention (Gurnee 2024, all tokens)."""

    label = "Errors: KL by layer and intervention"

    y_scale: Scale = Field("log", description="Scale of the axis.")


class ErrorsCeFigure(_OfTokens, FigureStyle):
    """Increase of the cross-entropy by layer and intervention."""

    label = "Errors: loss by layer and intervention"

    y_scale: Literal["linear", "symlog"] = Field("symlog", description="Scale of the axis; symlog: linear below 0.01 nats.")


class ErrorsHistogramFigure(_OfTokens, FigureStyle):
    """Histograms of the KL divergence of single tokens, SAE and ε-random."""

    label = "Errors: KL token by token"

    bins: PositiveInt = Field(50, le=10_000, description="Histogram bins.")
    highest: PositiveFloat = Field(1.0, description="Upper end of the axis, in nats; larger values count in the last bin.")


class ErrorsCeHistogramFigure(_OfTokens, FigureStyle):
    """Histograms of the loss difference of single tokens, SAE and ε-random."""

    label = "Errors: loss difference token by token"

    bins: PositiveInt = Field(50, le=10_000, description="Histogram bins.")
    highest: PositiveFloat = Field(2.0, description="Ends of the axis, ± nats; values beyond count in the outer bins.")


class ErrorsPositionFigure(FigureStyle):
    """Mean KL divergence by position in the row."""

    label = "Errors: KL by position"
    reads = _FRAME

    bins: PositiveInt = Field(16, le=10_000, description="Groups of positions after the first that means are over.")


class ErrorsDecayFigure(FigureStyle):
    """KL divergence at and after a position that alone is replaced."""

    label = "Errors: one position replaced"
    reads = ("runs", "selection", "errors_single")


class ErrorsFollowingFigure(FigureStyle):
    """KL divergence at the position that alone is replaced, and at the next."""

    label = "Errors: one position replaced, and the next"
    reads = ("runs", "selection", "errors_single")

    y_scale: Scale = Field("log", description="Scale of the axis.")


class ErrorsDrawsFigure(FigureStyle):
    """KL divergence of many random directions for one token each, and that of the SAE."""

    label = "Errors: many random directions for one token"
    reads = ("runs", "selection", "errors_draws")

    tokens: PositiveInt = Field(12, le=1000, description="Tokens shown.")
    bins: PositiveInt = Field(30, le=10_000, description="Histogram bins.")


class ErrorsExamplesFigure(FigureStyle):
    """The most probable next tokens of examples, as the model and the perturbed model predict them."""

    label = "Errors: examples of next-token predictions"
    reads = ("runs", "selection", "errors_examples")


class ErrorsCorrelatesFigure(FigureStyle):
    """What the gap between SAE and ε-random goes along with, and how it correlates across hook points."""

    label = "Errors: correlates of the gap"
    reads = _FRAME

    method: Literal["spearman", "pearson"] = Field("spearman", description="Correlation of ranks or of values.")


class ErrorsTokensFigure(FigureStyle):
    """Tokens with the largest mean gap, and the gap against the token's frequency."""

    label = "Errors: which tokens"
    reads = (*_FRAME, "errors_vocabulary")

    tokens: PositiveInt = Field(20, le=1000, description="Tokens shown.")
    least: PositiveInt = Field(5, le=10**9, description="Times that a token must occur to be shown.")


class ErrorsRatioFigure(_OfTokens, FigureStyle):
    """Ratio of the divergences of SAE and ε-random against L0, for every objective and architecture."""

    label = "Errors: ratio against L0"

    quantity: Literal["kl", "ce"] = Field("kl", description="KL divergence, or increase of the cross-entropy.")


class ErrorsBaselinesFigure(_OfTokens, FigureStyle):
    """Ratio of the SAE's divergence to that of each perturbation of the same length."""

    label = "Errors: stronger baselines"


class ErrorsSplitFigure(FigureStyle):
    """The divergence of parts and corrections of the error, over that of the whole."""

    label = "Errors: where the divergence lies"
    reads = _FRAME

    positions: Positions = Field("all", description=_OfTokens.model_fields["positions"].description)


class ErrorsLengthsFigure(FigureStyle):
    """KL divergence of errors and random vectors rescaled to the same lengths."""

    label = "Errors: at equal length"
    reads = ("runs", "selection", "errors_sweep")

    y_scale: Scale = Field("log", description="Scale of both axes.")


class ErrorsCosinesFigure(FigureStyle):
    """KL divergence of noise at given cosines with the activation, with the SAEs among it."""

    label = "Errors: noise at a cosine"
    reads = (*_FRAME, "errors_sweep")

    y_scale: Scale = Field("log", description="Scale of the axis.")
