"""Settings of the study and of its figures."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from ...config.base import Frozen, Seed
from ...config.figures import FigureStyle, TableStyle
from ...config.names import FilePath


class AgreementConfig(Frozen):
    """Subject-verb agreement: how much of it SAEs keep, and by how many features (Table 7 and Fig. 24)."""

    files: dict[Literal["simple", "nounpp", "rc", "within_rc"], FilePath] | None = Field(
        None,
        description="JSON lines per template, with the fields of Marks et al. (`clean_prefix`, `clean_answer`, `patch_answer`) or of BLiMP; null: no "
        "such study. Files under `data/agreement` that are missing are downloaded: `simple_train.json`, `nounpp_train.json`, "
        "`within_rc_train.json`, and for `rc` BLiMP's `distractor_agreement_relative_clause.jsonl`.",
    )
    n_items: PositiveInt = Field(1000, le=10**9, description="Items per template, drawn at random where a file has more.")
    seed: Seed = Field(0, description="Seed of the draw.")


class AgreementTable(TableStyle):
    """Faithfulness on subject-verb agreement, beside the paper's (Table 7)."""

    label = "Table 7: subject-verb agreement"
    reads = ("runs", "selection", "agreement")

    decimals: NonNegativeInt = Field(1, le=10, description="Decimals of the percentages.")


class AgreementFeaturesFigure(FigureStyle):
    """Faithfulness on subject-verb agreement by the number of features kept (Fig. 24)."""

    label = "Fig. 24: features that agreement needs"
    reads = ("runs", "selection", "agreement_features")
