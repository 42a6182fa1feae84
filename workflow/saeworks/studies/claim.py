"""A claim of a paper and its test, and the runs that claims compare."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from .reading import architectures, read_runs, read_selection

REPRODUCED, NOT_REPRODUCED, UNTESTED = "reproduced", "not reproduced", "cannot be tested"
OF_PAPER = ("local", "e2e", "e2e_ds")

# what `low` and `high` are
FEATURES = "bootstrap over features"
SEEDS = "over seeds"
CURVE = "smallest and largest along the curve (no resampling)"
CURVES = "smallest and largest over curves (no resampling)"
AXES = "smallest and largest over the axes (no resampling)"
RUNS = "smallest and largest over runs (no resampling)"
ONE_RUN = "none: one run per objective"
ONE_STUDY = "none: one study of the model"

_SIMILAR = 1.5  # largest over smallest CE increase of runs that are compared as similar; the paper's differ by 1.16 at layer 6
NOT_SIMILAR = "no runs at similar CE increase"


@dataclass(frozen=True)
class Claim:
    """What a paper claims, as it is tested at one hook point. One row of the table of claims.

    Args:
        hook_point: where it is tested.
        claim: what is claimed.
        published: the published value.
        source: where that is published.
        criterion: what decides the verdict, whatever the result.
        power: what the test can rest on; empty: filled in from the runs that there are.
        verdict: `reproduced`, `not reproduced` or `cannot be tested`.
        note: the numbers behind ours, or why it cannot be tested.
        ours: this experiment's value; NaN where it cannot be tested.
        low: what `interval` says of the smaller end; NaN where there is none.
        high: likewise of the larger end.
        interval: what `low` and `high` are.
    """

    hook_point: str
    claim: str
    published: str
    source: str
    criterion: str
    power: str = ""
    verdict: str = ""
    note: str = ""
    ours: float = np.nan
    low: float = np.nan
    high: float = np.nan
    interval: str = "–"

    def tested(
        self, passed: bool, ours: float, note: str, interval: str = ONE_RUN, low: float = np.nan, high: float = np.nan
    ) -> Claim:
        """The claim after a test that the runs could pass or fail; `low` and `high` are what `interval` says."""
        verdict = REPRODUCED if passed else NOT_REPRODUCED
        numbers = {"ours": float(ours), "low": float(low), "high": float(high)}
        return replace(self, verdict=verdict, note=note, interval=interval, **numbers)

    def untested(self, why: str) -> Claim:
        """The claim where the runs can neither pass nor fail."""
        return replace(self, verdict=UNTESTED, note=why)


def of_one_architecture(runs: pd.DataFrame) -> pd.DataFrame:
    """`runs` without those of other architectures than the claims are tested on, hook point by hook point.

    That is the architecture with the most of the paper's three objectives there, and among those the one with the most runs.
    """
    kept = []
    for _, here in runs.groupby("hook_point", sort=False):
        of_paper = here[here["objective"].isin(OF_PAPER)]
        counts = of_paper.groupby("architecture")["objective"].agg(["nunique", "size"]).reindex(architectures(here)).dropna()
        chosen = counts.sort_values(["nunique", "size"], ascending=False, kind="stable").index[:1]
        kept.append(here[here["architecture"].isin(chosen)])
    return pd.concat(kept) if kept else runs


def chosen_runs(tables: Path, hook_point: str) -> pd.DataFrame:
    """The runs chosen for similar CE increase at a hook point, of the architecture that the claims compare."""
    compared = of_one_architecture(read_runs(tables))["run"]
    selected = read_selection(tables)
    return selected[selected["run"].isin(compared) & (selected["hook_point"] == hook_point)]


def similar_runs(tables: Path, hook_point: str) -> pd.DataFrame:
    """`chosen_runs` by objective; none where their CE increases are not similar."""
    chosen = chosen_runs(tables, hook_point)
    increases = chosen.loc[chosen["objective"].isin(OF_PAPER), "ce_increase"]
    similar = increases.max() <= _SIMILAR * increases.min()
    return chosen[similar & chosen["objective"].notna()].set_index("objective")


def increases(selected: pd.DataFrame, *objectives: str) -> str:
    """The CE increases of selected runs, for a note."""
    return f"CE increases {', '.join(f'{value:.3f}' for value in selected.loc[list(objectives), 'ce_increase'])} nats"
