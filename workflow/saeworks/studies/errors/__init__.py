"""Whether an SAE's errors change the model's output more than perturbations of the same size."""

from __future__ import annotations

from ..study import Column, Study, Table
from .settings import (
    INTERVENTIONS,
    ErrorsBaselinesFigure,
    ErrorsCeFigure,
    ErrorsCeHistogramFigure,
    ErrorsConfig,
    ErrorsCorrelatesFigure,
    ErrorsCosinesFigure,
    ErrorsDecayFigure,
    ErrorsDrawsFigure,
    ErrorsExamplesFigure,
    ErrorsFollowingFigure,
    ErrorsHistogramFigure,
    ErrorsKlFigure,
    ErrorsLengthsFigure,
    ErrorsPositionFigure,
    ErrorsRatioFigure,
    ErrorsSplitFigure,
    ErrorsTable,
    ErrorsTokensFigure,
)

_HOOK_POINT = Column("where the SAE sits")
_RUN = Column("name of the run")
_ROW = Column("index of the row among the held-out ones")
_POSITION = Column("position in the row")
_MEASURED = {
    f"{quantity}_{name}": Column(f"{what} with {about.meaning} in the place of x", "nats")
    for quantity, what in (("kl", "KL(clean ‖ perturbed)"), ("ce", "increase of the cross-entropy"))
    for name, about in INTERVENTIONS.items()
}

STUDY = Study(
    title="Errors",
    description="What the SAEs' errors do to the model's output, against perturbations of the same size.",
    scope="hook_point",
    order=65,
    settings=ErrorsConfig,
    needs=frozenset({"model", "corpus", "saes"}),
    reads=("runs", "selection"),
    given=lambda settings: settings.n_tokens is not None,
    notebook="gurnee2024",
    tables={
        "errors": Table(
            "One row per run and token, with every position of the row replaced. x is the activation, x̂ the SAE's output, ε = ‖x̂ − x‖. "
            "Values have 8 binary digits after the leading one. What was not measured on a run is missing.",
            {
                "hook_point": _HOOK_POINT,
                "run": _RUN,
                "layer": Column("index of the block whose input the SAE stands in for, or that it sits in"),
                "row": _ROW,
                "position": _POSITION,
                "token": Column("index of the token in the vocabulary"),
                "l0": Column("active features", "features"),
                "ce_clean": Column(
                    "cross-entropy of the model itself; missing at the last position, as all that is of it", "nats"
                ),
                "input_norm": Column("‖x‖", "activation"),
                "output_norm": Column("‖x̂‖", "activation"),
                "error": Column("ε", "activation"),
                "cosine": Column("cosine of x and x̂"),
                **_MEASURED,
            },
            long=True,
            streamed=True,
        ),
        "errors_single": Table(
            "One row per run that every intervention was measured on, held-out row and position at or after the one that alone is replaced.",
            {
                "hook_point": _HOOK_POINT,
                "run": _RUN,
                "row": _ROW,
                "position": _POSITION,
                "offset": Column("positions after the one that is replaced", "positions"),
                **{name: column for name, column in _MEASURED.items() if not name.endswith("after_first")},
            },
            long=True,
            streamed=True,
        ),
        "errors_draws": Table(
            "One row per run that every intervention was measured on, token and random direction at distance ε, the token alone replaced.",
            {
                "hook_point": _HOOK_POINT,
                "run": _RUN,
                "row": _ROW,
                "position": _POSITION,
                "draw": Column("number of the direction; −1: the SAE's output"),
                "kl": Column("KL(clean ‖ perturbed) at that token", "nats"),
            },
            long=True,
            streamed=True,
        ),
        "errors_examples": Table(
            "The most probable next tokens of the model, at examples among these tokens: those of middle to largest KL of the SAE.",
            {
                "hook_point": _HOOK_POINT,
                "run": _RUN,
                "row": _ROW,
                "position": _POSITION,
                "context": Column("the text before"),
                "rank": Column("rank of the next token in the model's prediction"),
                "token": Column("its index in the vocabulary"),
                "text": Column("its text"),
                "log_p": Column("log-probability by the model", "nats"),
                "log_sae": Column("with the SAE's output", "nats"),
                "log_random": Column("with the first of the random directions", "nats"),
                "kl_sae": Column("KL(clean ‖ perturbed) of the SAE's output", "nats"),
                "kl_random": Column("of that random direction", "nats"),
            },
            long=True,
        ),
        "errors_vocabulary": Table(
            "The tokens of the held-out rows.",
            {
                "hook_point": _HOOK_POINT,
                "token": Column("index in the vocabulary"),
                "text": Column("its text"),
                "count": Column("how often it occurs", "tokens"),
            },
            long=True,
        ),
        "errors_sweep": Table(
            "Means over each row after position 0: errors and random vectors rescaled to fixed lengths, and noise at fixed cosines.",
            {
                "hook_point": _HOOK_POINT,
                "run": Column("name of the run; empty where none has a part in it"),
                "sweep": Column("`length` or `cosine`"),
                "direction": Column(
                    "`error` of the SAE, `random`, or `real_mixture`: the difference of two other tokens' activations"
                ),
                "level": Column("length over the mean norm of the activations after position 0, or cosine with the activation"),
                "length": Column("the length; missing for a cosine", "activation"),
                "row": _ROW,
                "kl": Column("KL(clean ‖ perturbed)", "nats/token"),
                "ce": Column("increase of the cross-entropy", "nats/token"),
            },
            long=True,
        ),
    },
    figures={
        "errors_table": ErrorsTable,
        "errors_kl": ErrorsKlFigure,
        "errors_ce": ErrorsCeFigure,
        "errors_histogram": ErrorsHistogramFigure,
        "errors_ce_histogram": ErrorsCeHistogramFigure,
        "errors_position": ErrorsPositionFigure,
        "errors_decay": ErrorsDecayFigure,
        "errors_following": ErrorsFollowingFigure,
        "errors_draws": ErrorsDrawsFigure,
        "errors_examples": ErrorsExamplesFigure,
        "errors_correlates": ErrorsCorrelatesFigure,
        "errors_tokens": ErrorsTokensFigure,
        "errors_ratio": ErrorsRatioFigure,
        "errors_baselines": ErrorsBaselinesFigure,
        "errors_split": ErrorsSplitFigure,
        "errors_lengths": ErrorsLengthsFigure,
        "errors_cosines": ErrorsCosinesFigure,
    },
)
