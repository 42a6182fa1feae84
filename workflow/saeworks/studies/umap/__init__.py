"""Two dictionaries in one plane, and the regions of it that belong to one of them more than to the other."""

from __future__ import annotations

from ..study import Column, Study, Table
from .settings import UmapConfig, UmapFigure, UmapPcaFigure

_PAIR = {
    "hook_point": Column("where the SAEs sit"),
    "first": Column("the end-to-end run of the pair"),
    "second": Column("the local run of the pair"),
}

STUDY = Study(
    title="UMAP",
    description="UMAP of pairs of dictionaries.",
    scope="hook_point",
    order=50,
    settings=UmapConfig,
    needs=frozenset({"model", "corpus", "saes"}),
    reads=("runs", "features", "selection"),
    tables={
        "umap": Table(
            "One row per pair of runs and alive feature of either.",
            {
                **_PAIR,
                "run": Column("the run of the feature"),
                "feature": Column("index of the feature"),
                "x": Column("horizontal place in the plane"),
                "y": Column("vertical place in the plane"),
                "region": Column("letter of the region that the feature lies in; empty: none"),
                "cosine_pca0": Column("cosine of its decoder direction with the first principal direction of the activations"),
            },
            long=True,
        ),
        "umap_regions": Table(
            "Regions in which one of the two dictionaries dominates, the largest first.",
            {
                **_PAIR,
                "region": Column("letter of the region"),
                "dominated_by": Column("the run that dominates"),
                "n_first": Column("features of the first run in it", "features"),
                "n_second": Column("features of the second run in it", "features"),
                "p_value": Column("share of random assignments to the dictionaries with a region as large"),
                "x": Column("median horizontal place of its features"),
                "y": Column("median vertical place of its features"),
                "top_tokens": Column("tokens on which its features are most active, a JSON list"),
            },
        ),
    },
    figures={"umap": UmapFigure, "umap_pca": UmapPcaFigure},
)
