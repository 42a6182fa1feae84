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


def share_beyond(draws: pd.DataFrame, z: float) -> pd.DataFrame:
    """By run of table `errors_draws`: the share of rows whose SAE lies more than `z` standard deviations above the random directions
    (`sae`), and the share of those directions that do (`random`). Rows whose directions do not differ do not count."""
    scores = z_scores(draws).dropna(subset="z")
    each = draws[draws["draw"] >= 0].join(scores[["mean", "sd"]], on=["run", "row"], how="inner")
    beyond = each["kl"].astype("float64") > each["mean"] + z * each["sd"]
    return pd.DataFrame({"sae": (scores["z"] > z).groupby("run").mean(), "random": beyond.groupby(each["run"]).mean()})
