"""How near the directions of dictionaries lie to each other."""

from __future__ import annotations

from ..study import Column, Study, Table
from .settings import (
    CrossObjectiveFigure,
    CrossSeedFigure,
    DirectionOfMaximumFigure,
    EncoderDecoderFigure,
    GeometryConfig,
    WithinByRunFigure,
    WithinDictionaryFigure,
)

_HOOK_POINT = Column("where the SAEs sit")
_COMPARISON = Column(
    "`cross_seed`: runs that differ in their seed alone; `cross_objective`: of one seed, with different objectives"
)
_DIRECTIONS = Column("which vectors: `decoder`, `encoder`, or `both` where partners must agree")
_FEATURES = Column("`alive` features or `all`")
_LOW, _HIGH = Column("lower end of the interval"), Column("upper end of the interval")
_N_RESAMPLES = Column("bootstrap resamples; 0: by the jackknife or none")
_RESAMPLED = Column(
    "what the interval resamples: `clusters` of features (neighbours within a dictionary, those with one nearest in another), `features`, "
    "`seed pairs` or `none`"
)

STUDY = Study(
    title="Geometry",
    description="Comparison of dictionaries: nearest neighbours and one-to-one partners, within one, across seeds and across objectives.",
    scope="hook_point",
    always=True,
    order=30,
    settings=GeometryConfig,
    needs=frozenset({"saes"}),
    reads=("runs", "features", "selection"),
    tables={
        "geometry": Table(
            "Mean cosine of a feature's nearest neighbour, one row per pair of runs, kind of direction, features and direction.",
            {
                "hook_point": _HOOK_POINT,
                "comparison": Column(
                    f"`within` a run; {_COMPARISON.meaning}; `within_difference`: the `within` mean of run_a minus that of run_b; "
                    "`to_local`: along the curves of one seed, to the local run"
                ),
                "run_a": Column("first run; of two seeds the lower"),
                "run_b": Column("second run"),
                "directions": Column("which vectors: `decoder` or `encoder`"),
                "features": _FEATURES,
                "direction": Column(
                    "from whose features to whose: `a_to_a`, `a_to_b`, `b_to_a`, or `both`, the mean of the last two"
                ),
                "value": Column("mean cosine"),
                "ci_low": _LOW,
                "ci_high": _HIGH,
                "random_baseline": Column("the same mean for random unit directions of the same numbers and dimension"),
                "n_a": Column("features of the first run", "features"),
                "n_b": Column("features of the second run", "features"),
                "n_resamples": _N_RESAMPLES,
                "resampled": _RESAMPLED,
            },
        ),
        "nearest": Table(
            "Cosines of single alive decoder features with their nearest neighbours.",
            {
                "hook_point": _HOOK_POINT,
                "comparison": Column(f"`within` a run; {_COMPARISON.meaning}"),
                "run_a": Column("first run"),
                "run_b": Column("second run"),
                "direction": Column("from whose features to whose: `a_to_a`, `a_to_b` or `b_to_a`"),
                "feature": Column("index of the feature"),
                "cosine": Column("cosine with its nearest neighbour"),
            },
            long=True,
        ),
        "matching": Table(
            "Means over one-to-one partners, and over pairs of seeds where there are three seeds or more.",
            {
                "hook_point": _HOOK_POINT,
                "comparison": _COMPARISON,
                "run_a": Column("first run; of a mean over pairs of seeds that of the lowest seed"),
                "run_b": Column("second run; of a mean over pairs of seeds that of the highest seed"),
                "directions": _DIRECTIONS,
                "features": _FEATURES,
                "metric": Column(
                    "`matched_cosine`: mean cosine of partners; `shared_fraction`: features with the same partner by decoder and encoder at "
                    "cosines ≥ 0.7, as a share of the smaller dictionary; `nearest_…`: means of table `geometry` over pairs of seeds"
                ),
                "value": Column("the value"),
                "ci_low": _LOW,
                "ci_high": _HIGH,
                "random_baseline": Column("the same for random dictionaries of the same numbers and dimension"),
                "n_a": Column("features of the first run, or their mean over pairs", "features"),
                "n_b": Column("features of the second run, or their mean over pairs", "features"),
                "n_pairs": Column("pairs of runs behind the value"),
                "n_resamples": _N_RESAMPLES,
                "resampled": _RESAMPLED,
            },
        ),
        "matches": Table(
            "One-to-one partners of the alive features of the lowest seed in the second lowest.",
            {
                "hook_point": _HOOK_POINT,
                "run_a": Column("run of the lowest seed"),
                "run_b": Column("run of the second lowest seed"),
                "feature": Column("index of the feature in run_a"),
                "decoder_partner": Column("its partner in run_b by decoder directions; −1: none"),
                "decoder_cosine": Column("cosine of their decoder directions"),
                "encoder_partner": Column("its partner in run_b by encoder directions; −1: none"),
                "encoder_cosine": Column("cosine of their encoder directions"),
            },
            long=True,
        ),
    },
    figures={
        "within_dictionary": WithinDictionaryFigure,
        "cross_seed": CrossSeedFigure,
        "cross_objective": CrossObjectiveFigure,
        "within_by_run": WithinByRunFigure,
        "encoder_decoder": EncoderDecoderFigure,
        "direction_of_maximum": DirectionOfMaximumFigure,
    },
)
