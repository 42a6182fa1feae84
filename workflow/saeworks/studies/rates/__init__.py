"""Which learning rate each objective should have: the one whose runs cost the model least at equal L0."""

from __future__ import annotations

from ..study import Column, Study, Table
from .settings import RatesConfig, RatesTable

STUDY = Study(
    title="Learning rates",
    description="Choice of a learning rate for each objective, from runs that differ in it.",
    scope="experiment",
    order=15,
    settings=RatesConfig,
    needs=frozenset(),
    reads=("runs", "fidelity"),
    given=lambda settings: settings.choose,
    tables={
        "rates": Table(
            "One row per hook point, objective, architecture and learning rate, of runs that differ in nothing else but sparsity and seed.",
            {
                "hook_point": Column("where the SAEs sit"),
                "objective": Column("training objective"),
                "architecture": Column("architecture of the SAE"),
                "lr": Column("learning rate"),
                "n_runs": Column("runs with this rate", "runs"),
                "l0": Column("L0 at which the rates are compared, the same for all of an objective", "features/token"),
                "ce_increase": Column("increase of the cross-entropy at this L0", "nats/token"),
                "excess": Column("this over the lowest of the objective's rates"),
                "chosen": Column("whether it is the rate with the lowest increase"),
                "at_edge": Column(
                    "whether it is chosen and the lowest or highest of the rates, so that one beyond might be better"
                ),
            },
        )
    },
    figures={"rates_table": RatesTable},
)
