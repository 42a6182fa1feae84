"""How long training took."""

from __future__ import annotations

from ..study import Column, Study, Table
from .settings import WallClockTable

STUDY = Study(
    title="Timing",
    description="How long the training of each run took. It differs from one machine and one day to the next.",
    scope="experiment",
    order=90,
    wall_clock=True,
    reads=("runs",),
    tables={
        "timing": Table(
            "One row per run.",
            {
                "run": Column("name of the run"),
                "hook_point": Column("where the SAE sits"),
                "layer": Column("index of the block whose input the SAE stands in for, or that it sits in"),
                "objective": Column("training objective"),
                "architecture": Column("architecture of the SAE"),
                "d_sae": Column("size of the dictionary", "features"),
                "n_tokens": Column("training tokens", "tokens"),
                "job": Column("how it was trained: `alone`, `together` with others, or `unknown` without a record"),
                "seconds": Column("wall-clock of its training job, start-up included; missing unless `alone`", "s"),
                "tokens_per_second": Column("training tokens over that wall-clock", "tokens/s"),
            },
        ),
    },
    figures={"wall_clock": WallClockTable},
)
