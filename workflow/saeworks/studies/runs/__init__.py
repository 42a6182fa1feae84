"""Which runs there are, and which of them are compared."""

from __future__ import annotations

from ..study import Column, Study, Table
from .settings import SeedPairsFigure, SelectionTable

STUDY = Study(
    title="Runs",
    description="The runs of the experiment, and those that are compared because they are similar.",
    scope="experiment",
    always=True,
    order=10,
    needs=frozenset({"saes"}),
    reads=("fidelity",),
    tables={
        "runs": Table(
            "One row per run, in the order of the experiment file.",
            {
                "run": Column("name of the run: hook point and name of its folder"),
                "model": Column("name of the language model"),
                "group": Column("run group of the experiment file"),
                "hook_point": Column("where the SAE sits"),
                "layer": Column("index of the block whose input the SAE stands in for, or that it sits in"),
                "objective": Column("training objective"),
                "architecture": Column("architecture of the SAE"),
                "sparsity_coeff": Column("sparsity coefficient λ; missing where k is given"),
                "k": Column("active features that the architecture aims at; missing where λ is given", "features/token"),
                "seed": Column("training seed"),
                "settings": Column("equal for runs that differ in nothing but their seed"),
                "family": Column("equal for runs that differ in nothing but seed, sparsity and hook point"),
                "d_in": Column("width of the activations", "dimensions"),
                "d_sae": Column("size of the dictionary", "features"),
                "n_tokens": Column("training tokens", "tokens"),
                "lr": Column("learning rate"),
                "reconstruction_coeff": Column("weight of the reconstruction error at the SAE"),
                "downstream": Column("what is reconstructed downstream: `all`, `next N` or hook points; empty: nothing"),
                "start_from": Column("run that this one continues; missing where it starts anew"),
                "grad_norm": Column("mean norm of the gradient before clipping, over logged steps after the warm-up"),
                "family_but_lr": Column("equal for runs that differ in nothing but learning rate, seed, sparsity and hook point"),
                "family_but_d_sae": Column("likewise, but for the size of the dictionary"),
                "family_but_n_tokens": Column("likewise, but for the number of training tokens"),
                "family_but_downstream": Column("likewise, but for what is reconstructed downstream"),
                "family_but_reconstruction_coeff": Column("likewise, but for the weight of the reconstruction error"),
            },
        ),
        "selection": Table(
            "For each criterion and hook point one run of each objective and architecture, as similar as the experiment allows.",
            {
                "criterion": Column("what the runs are similar in: `similar_ce`, `similar_l0` or `similar_alive`"),
                "hook_point": Column("where the SAEs sit"),
                "objective": Column("training objective"),
                "architecture": Column("architecture of the SAE"),
                "run": Column("the run that was chosen"),
                "ce_increase": Column("increase of the cross-entropy by the SAE", "nats/token"),
                "spread": Column("largest minus smallest value of the criterion among the chosen runs", "that of `value`"),
                "value": Column(
                    "value of the criterion: CE increase, L0 or alive features", "nats/token, features/token or features"
                ),
                "tolerance": Column("largest over smallest value of the criterion among the chosen runs"),
            },
        ),
    },
    figures={"selection_table": SelectionTable, "seed_pairs": SeedPairsFigure},
)
