"""What several SAEs cost together: spliced in at once at several hook points, against each alone."""

from __future__ import annotations

from ..study import Column, Study, Table
from .settings import SplicedConfig, SplicedTable

_JOINED = "those of the set, joined by ` + `, in the order of the forward pass"

STUDY = Study(
    title="SAEs spliced in together",
    description="Increase of the cross-entropy with SAEs at several hook points at once, against the sum of each alone.",
    scope="experiment",
    order=28,
    settings=SplicedConfig,
    needs=frozenset({"model", "corpus", "saes"}),
    reads=("runs",),
    given=lambda settings: settings.sets is not None,
    tables={
        "spliced": Table(
            "One row per set of hook points and name of runs that there are at all of them.",
            {
                "hook_points": Column(f"hook points: {_JOINED}"),
                "n_saes": Column("SAEs in the model at once"),
                "name": Column("name of the runs, the same at each hook point"),
                "trained": Column("how they were trained: each `alone`, `together`, or in `another set` of which these are some"),
                "objective": Column("training objective"),
                "architecture": Column("architecture of the SAEs"),
                "sparsity_coeff": Column("sparsity coefficient λ of the first; missing where k is given"),
                "k": Column("active features that the architecture aims at; missing where λ is given", "features/token"),
                "seed": Column("training seed"),
                "ce_increase": Column("increase of the cross-entropy with all of them", "nats/token"),
                "kl": Column("KL divergence of the model's output with all of them", "nats/token"),
                "sum_of_single": Column("sum of the increases with each alone, on the same rows", "nats/token"),
                "ratio": Column("the first over the second: 1 where they add up"),
                "n_tokens": Column("tokens behind the values", "tokens"),
            },
        ),
        "spliced_saes": Table(
            "One row per SAE of each row of `spliced`.",
            {
                "hook_points": Column(f"hook points: {_JOINED}"),
                "name": Column("name of the runs, the same at each hook point"),
                "hook_point": Column("where this SAE sits"),
                "l0_set": Column("features active on what it reads behind the others of the set", "features/token"),
                "l0_alone": Column("features active on what it reads alone", "features/token"),
                "ce_increase_alone": Column("increase of the cross-entropy with it alone", "nats/token"),
            },
        ),
    },
    figures={"spliced_table": SplicedTable},
)
