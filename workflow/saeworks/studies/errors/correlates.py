"""What the gap between the divergences of SAE and ε-random goes along with, token by token."""

from __future__ import annotations

import pandas as pd

OWN = {"cosine": "cosine", "l0": "L0", "position": "position", "ce_clean": "model's loss", "input_norm": "norm"}


def gaps(frame: pd.DataFrame) -> pd.DataFrame:
    """The gap kl_sae − kl_random of every token, a column per run."""
    gap = (frame["kl_sae"].astype("float64") - frame["kl_random"]).rename("gap")
    return pd.concat([frame[["run", "row", "position"]], gap], axis=1).pivot(
        index=["row", "position"], columns="run", values="gap"
    )


def of_other_hook_points(runs: pd.DataFrame, matrix: pd.DataFrame) -> pd.Series:
    """By run the mean correlation of its gap with those of runs of its kind at other hook points; NaN where there are none."""
    known = runs.set_index("run")
    found = {}
    for run in matrix.index:
        same = (known["objective"] == known["objective"][run]) & (known["architecture"] == known["architecture"][run])
        others = known.index[same & (known["hook_point"] != known["hook_point"][run])]
        found[run] = matrix.loc[run, [other for other in others if other in matrix.columns]].mean()
    return pd.Series(found, dtype=float)


def with_own(frame: pd.DataFrame, method: str) -> pd.DataFrame:
    """Correlation of the gap with each of `OWN`: a row per run, a column each; NaN where one does not vary."""
    frame = frame.assign(gap=frame["kl_sae"].astype("float64") - frame["kl_random"])
    rows = {}
    for run, here in frame.groupby("run", sort=False):
        kept = here[["gap", *OWN]].astype("float64")
        kept = kept.rank() if method == "spearman" else kept  # of complete pairs but for the loss at last positions
        varying = kept.loc[:, kept.std() > 0]
        rows[run] = varying.corrwith(varying["gap"]).reindex(list(OWN)) if "gap" in varying else pd.Series(index=list(OWN))
    return pd.DataFrame(rows).T.astype(float)
