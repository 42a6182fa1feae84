"""How near the closest feature of another seed's dictionary lies (Fig. 3b of Braun et al. 2024)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..plot import NARROW, colour, kind_panels, legend, only_message
from ..reading import alike, of_kind, read_runs
from ..seeds import NO_SEEDS, heading, joint
from ..tables import read_table
from .both_directions import MEANS, PAIR, draw_both, entries
from .settings import CrossSeedFigure


def seed_pairs(tables: Path, name: str, columns: list[str]) -> pd.DataFrame:
    """Rows of table `name` that compare two seeds of otherwise equal runs.

    Added: hook_point, layer, objective, architecture, sparsity_coeff, k, seed_a, seed_b of the pair, and `forward`: whether the row goes from
    the lower seed to the higher one (a row in both directions is not forward).
    """
    table = read_table(tables, name, columns)
    table = table[table["comparison"] == "cross_seed"].drop(columns="hook_point", errors="ignore")
    runs = read_runs(tables)
    same = ["hook_point", "objective", "architecture", "sparsity_coeff", "k"]
    pairs = runs.merge(runs[["run", "seed", *same]], on=same, suffixes=("_a", "_b"))
    pairs = pairs[pairs["seed_a"] != pairs["seed_b"]]
    found = pairs[["run_a", "run_b", "seed_a", "seed_b", "layer", *same]].merge(table, on=["run_a", "run_b"])
    found["forward"] = found["direction"].map({"a_to_b": True, "b_to_a": False}) == (found["seed_a"] < found["seed_b"])
    return found


def of_seeds(tables: Path) -> pd.DataFrame:
    """Mean cosines of alive decoder features across seeds, in either direction."""
    means = seed_pairs(tables, "geometry", MEANS)
    means = means[(means["directions"] == "decoder") & (means["features"] == "alive") & (means["direction"] != "both")]
    return means.dropna(subset="value")


def draw(tables: Path, config: CrossSeedFigure) -> Figure:
    """Per hook point one panel per objective and architecture with several seeds; all pairs of seeds pooled, the two directions drawn apart.

    With one pair the title gives the table's mean and interval (a bootstrap over clusters of features) in each direction; with more, the
    mean over pairs and their range.
    """
    nearest = seed_pairs(tables, "nearest", [*PAIR, "cosine"])
    nearest, means = nearest[np.isfinite(nearest["cosine"].astype(float))], of_seeds(tables)
    if nearest.empty or means.empty:
        return only_message(config, NO_SEEDS)
    runs = read_runs(tables)
    runs = alike(runs, nearest)
    x_label = "Cosine" if config.width < NARROW else "Cosine with nearest\nof the other seed"
    figure, placed = kind_panels(config, runs, x_label, "Fraction of features")
    between = joint(config, figure.axes[0].get_gridspec().ncols)
    for kind, panel in placed.items():
        here, of_pairs = (of_kind(frame, *kind) for frame in (nearest, means))
        name = heading(here, *kind[1:], runs, between) + f"\n{_pairs(here)}"
        draw_both(panel, name, colour(config, kind[1]), here, of_pairs, config.bins, between)
    legend(figure, entries("to the higher seed", "to the lower seed"))
    return figure


def _pairs(nearest: pd.DataFrame) -> str:
    n_pairs = len(nearest[["run_a", "run_b"]].drop_duplicates())
    return f"seeds {nearest['seed_a'].iloc[0]}, {nearest['seed_b'].iloc[0]}" if n_pairs == 1 else f"{n_pairs} pairs"
