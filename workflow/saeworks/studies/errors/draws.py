"""How far the SAE's output lies from what random directions do to the same token."""

from __future__ import annotations

import pandas as pd


def z_scores(draws: pd.DataFrame) -> pd.DataFrame:
    """By run and row of table `errors_draws`: `mean` and `sd` of the random directions' KL, the SAE's (`sae`), and its `z` score.

    z = (sae − mean)/sd; NaN where the directions do not differ.
    """
    random = draws[draws["draw"] >= 0].astype({"kl": "float64"}).groupby(["run", "row"])["kl"].agg(mean="mean", sd="std")
    sae = draws[draws["draw"] < 0].set_index(["run", "row"])["kl"].astype("float64").rename("sae")
    found = random.join(sae)
    return found.assign(z=((found["sae"] - found["mean"]) / found["sd"]).where(found["sd"] > 0))
