"""The learning rate of the lowest frontier, by an algorithm that looks at nothing but L0 and the increase of the cross-entropy."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..place import Place
from .settings import RatesConfig

_KEYS = ["hook_point", "objective", "architecture"]


def measure(place: Place, config: RatesConfig) -> dict[str, pd.DataFrame]:
    """The table of all rates."""
    fidelity = place.table("fidelity")
    overall = fidelity[(fidelity["positions"] == "all") & (fidelity["layer"] == -1)]
    wide = overall[overall["metric"].isin(["l0", "ce_increase"])].pivot(index="run", columns="metric", values="value")
    return {"rates": compare(place.table("runs").merge(wide, left_on="run", right_index=True))}


def compare(runs: pd.DataFrame) -> pd.DataFrame:
    """Increase of the cross-entropy at equal L0 for each learning rate; `runs` have the columns of table `runs`, l0 and ce_increase.

    On logarithmic axes the runs of an objective lie near parallel lines, one for each rate: log ΔCE = a(rate) + b log L0, fitted by
    least squares with one slope b for all rates of the objective. The lines are compared at the geometric mean of all L0; the lowest
    wins, of equal ones that of the lower rate. Runs without an increase have no logarithm and are left out.
    """
    runs = runs[(runs["ce_increase"] > 0) & (runs["l0"] > 0)]
    records = []
    for key, alike in runs.groupby([*_KEYS, "family_but_lr"], sort=False):
        if alike["lr"].nunique() < 2:
            continue
        x, y = np.log(alike["l0"]), np.log(alike["ce_increase"])
        centred = [values - values.groupby(alike["lr"]).transform("mean") for values in (x, y)]
        spread = (centred[0] ** 2).sum()
        if spread == 0:  # one sparsity only
            continue
        slope = (centred[0] * centred[1]).sum() / spread
        means = (
            pd.DataFrame({"x": x, "y": y, "lr": alike["lr"]}).groupby("lr").agg(x=("x", "mean"), y=("y", "mean"), n=("x", "size"))
        )
        cost = np.exp(means["y"] - slope * (means["x"] - x.mean()))
        chosen = cost.idxmin()
        for rate, value in cost.items():
            numbers = (int(means.loc[rate, "n"]), float(np.exp(x.mean())), float(value), float(value / cost.min()))
            at_edge = rate == chosen and rate in (cost.index[0], cost.index[-1])
            records.append((*key[:3], float(rate), *numbers, bool(rate == chosen), bool(at_edge)))
    columns = [*_KEYS, "lr", "n_runs", "l0", "ce_increase", "excess", "chosen", "at_edge"]
    return pd.DataFrame(records, columns=columns)
