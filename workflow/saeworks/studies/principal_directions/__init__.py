"""What the principal directions of the activations are, how SAEs pass them on, and what they matter."""

from __future__ import annotations

from ..study import Column, Study, Table
from .settings import PcaAblationFigure, PcaComponentsFigure, PcaCorrelationFigure, PrincipalDirectionsConfig

_HOOK_POINT = Column("where the activations are")
_DIRECTION = Column("index of the direction, by falling variance")

STUDY = Study(
    title="Principal directions",
    description="Principal directions of the activations at each hook point.",
    scope="hook_point",
    order=60,
    settings=PrincipalDirectionsConfig,
    needs=frozenset({"model", "corpus", "saes"}),
    reads=("selection",),
    tables={
        "pca_components": Table(
            "One row per direction.",
            {
                "hook_point": _HOOK_POINT,
                "direction": _DIRECTION,
                "variance": Column("variance of the activations along it", "activation²"),
                "variance_share": Column("its share of the total variance"),
                "cosine_first": Column("cosine with the mean activation at position 0"),
            },
        ),
        "pca_histogram": Table(
            "Histogram of the component along direction 0, with the same bins for each kind of token.",
            {
                "hook_point": _HOOK_POINT,
                "tokens": Column("kind of token: `position 0`, `end of text` elsewhere, or `other`"),
                "low": Column("lower edge of the bin", "activation"),
                "high": Column("upper edge of the bin", "activation"),
                "count": Column("tokens in the bin", "tokens"),
            },
        ),
        "pca_correlation": Table(
            "How the runs chosen for similar CE increase pass the directions on.",
            {
                "hook_point": _HOOK_POINT,
                "run": Column("name of the run"),
                "direction": _DIRECTION,
                "positions": Column("tokens that count: `first` (position 0) or `rest`"),
                "r": Column("correlation of the components of the SAE's input and output; missing where one does not vary"),
            },
        ),
        "pca_ablation": Table(
            "What each direction alone matters for the output.",
            {
                "hook_point": _HOOK_POINT,
                "direction": _DIRECTION,
                "kl": Column("KL(clean ‖ ablated), mean over tokens", "nats/token"),
                "kl_reverse": Column("KL(ablated ‖ clean), which is the paper's", "nats/token"),
                "n_rows": Column("rows in which it was ablated", "rows"),
            },
        ),
    },
    figures={
        "pca_components": PcaComponentsFigure,
        "pca_correlation": PcaCorrelationFigure,
        "pca_ablation": PcaAblationFigure,
    },
)
