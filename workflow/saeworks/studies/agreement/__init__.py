"""How much of a model's preference for the right verb SAEs keep, and by how many features."""

from __future__ import annotations

from ..study import Column, Study, Table
from .settings import AgreementConfig, AgreementFeaturesFigure, AgreementTable

_COMMON = {
    "hook_point": Column("where the SAE sits"),
    "run": Column("name of the run"),
    "template": Column("template of the sentences"),
}
_N_FEATURES = Column("features that some item activates", "features")

STUDY = Study(
    title="Subject-verb agreement",
    description="Subject-verb agreement: how much of it SAEs keep, and by how many features.",
    scope="hook_point",
    order=70,
    settings=AgreementConfig,
    needs=frozenset({"model", "saes"}),
    reads=("selection",),
    files=lambda settings: list((settings.files or {}).values()),
    given=lambda settings: settings.files is not None,
    tables={
        "agreement": Table(
            "One row per run and template; m is the mean logit of the right verb minus that of the wrong one.",
            {
                **_COMMON,
                "faithfulness": Column("(m_sae − m_ablated) / (m_model − m_ablated)"),
                "m_sae": Column("m of the model with the SAE", "logits"),
                "m_model": Column("m of the model", "logits"),
                "m_ablated": Column("m with the whole activation at its mean", "logits"),
                "accuracy_model": Column("share of items on which the model prefers the right verb"),
                "accuracy_sae": Column("share of items on which it does with the SAE"),
                "n_features": _N_FEATURES,
                "n_items": Column("items that were scored", "items"),
                "n_split": Column("of these, items whose two verbs begin with the same tokens", "items"),
                "n_excluded": Column("items that cannot be scored with this tokenizer or context", "items"),
            },
        ),
        "agreement_features": Table(
            "Faithfulness by the number of features kept.",
            {
                **_COMMON,
                "n_kept": Column("features that keep their activations, those of largest indirect effect", "features"),
                "faithfulness": Column("faithfulness when all others have their means"),
                "n_features": _N_FEATURES,
            },
        ),
    },
    figures={"agreement_table": AgreementTable, "agreement_features": AgreementFeaturesFigure},
)
