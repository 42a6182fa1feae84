"""Whether the features of two seeds fire on the same tokens."""

from __future__ import annotations

from ..study import Column, Study, Table
from .settings import FiringAgreementFigure, FiringConfig, FiringControlsFigure

_METRICS = {
    "pearson": "correlation of the activations",
    "jaccard": "tokens on which both fire over those on which one does",
    "p_b_given_a": "share of the first's tokens on which the second fires",
    "p_a_given_b": "share of the second's tokens on which the first fires",
}

STUDY = Study(
    title="Firing",
    description="Tokens that the features of two seeds fire on, whatever their directions.",
    scope="hook_point",
    order=40,
    settings=FiringConfig,
    needs=frozenset({"model", "corpus", "saes", "seeds"}),
    reads=("runs",),
    tables={
        "firing": Table(
            "Means over features, one row per pair of runs, kind of partner and metric.",
            {
                "hook_point": Column("where the SAEs sit"),
                "run_a": Column("run of the lower seed; of a mean over pairs the lowest"),
                "run_b": Column("run of the higher seed; of a mean over pairs the highest"),
                "partner": Column(
                    "`decoder`: one to one by decoder directions; `null`: a feature of like firing rate in the partner's place; `best_in_b`, "
                    "`best_in_a`: the feature that correlates most; `best_in_shuffled`, `best_in_untrained`, `best_in_activations`: that in the "
                    "second run on shuffled tokens, in an untrained code of equal L0, among the dimensions of the activations; `codes`, "
                    "`reconstructions`: none, the whole; `codes_shuffled`, `codes_untrained`, `codes_activations`: against these"
                ),
                "metric": Column("what is compared; `cka`: linear centred kernel alignment"),
                "value": Column("mean over features"),
                "ci_low": Column("lower end of the interval"),
                "ci_high": Column("upper end of the interval"),
                "n_features": Column("features behind the mean, or their mean over pairs", "features"),
                "n_pairs": Column("pairs of runs behind the value"),
                "n_tokens": Column("held-out tokens", "tokens"),
                "n_resamples": Column("bootstrap resamples; 0: by the jackknife or none"),
                "resampled": Column("what the interval resamples: `features`, `seed pairs` or `none`"),
            },
        ),
        "firing_features": Table(
            "Single features of the two lowest seeds, one to one by decoder directions.",
            {
                "hook_point": Column("where the SAEs sit"),
                "run_a": Column("run of the lowest seed"),
                "run_b": Column("run of the second lowest seed"),
                "feature_a": Column("index of the feature in run_a"),
                "feature_b": Column("index of its partner in run_b"),
                "decoder_cosine": Column("cosine of their decoder directions"),
                "encoder_cosine": Column("cosine of their encoder directions"),
                "firing_rate_a": Column("share of tokens on which the first fires"),
                "firing_rate_b": Column("share of tokens on which the second fires"),
                **{metric: Column(meaning) for metric, meaning in _METRICS.items()},
                **{f"null_{metric}": Column(f"{meaning}, for the null") for metric, meaning in _METRICS.items()},
                "best_feature": Column("index of the feature of run_b that correlates most with the first"),
                **{f"best_{metric}": Column(f"{meaning}, for that feature") for metric, meaning in _METRICS.items()},
                **{
                    f"chance_{metric}": Column(f"{meaning}, for such a feature on shuffled tokens")
                    for metric, meaning in _METRICS.items()
                },
                "best_decoder_cosine": Column("cosine of the decoder directions of the first and that feature"),
            },
            long=True,
        ),
    },
    figures={"firing_agreement": FiringAgreementFigure, "firing_controls": FiringControlsFigure},
)
