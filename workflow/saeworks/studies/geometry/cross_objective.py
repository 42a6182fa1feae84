"""How near the closest feature of the local dictionary lies to each end-to-end feature (Fig. 3c and 8 of Braun et al. 2024)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..plot import NARROW, POSITIVE, colour, kind_panels, legend, only_message, positive_control
from ..reading import alike, kind_name, of_kind, read_selection
from ..seeds import joint
from ..tables import read_table
from .both_directions import MEANS, PAIR, draw_both, entries
from .cross_seed import of_seeds
from .settings import CrossObjectiveFigure


def local_pairs(tables: Path, name: str, columns: list[str]) -> pd.DataFrame:
    """Rows of table `name` that compare a selected run with the selected local run of its hook point and architecture.

    Added: hook_point, objective and architecture of the run that is not local, and `forward`: whether the row goes from that run
    to the local one (a row in both directions is not forward).
    """
    table = read_table(tables, name, columns)
    table = table[table["comparison"] == "cross_objective"].drop(columns="hook_point", errors="ignore")
    selected = read_selection(tables)[["hook_point", "objective", "architecture", "run"]]
    local = selected[selected["objective"] == "local"].drop(columns="objective")
    other = selected[selected["objective"] != "local"]
    pairs = other.merge(local, on=["hook_point", "architecture"], suffixes=("", "_local"))
    found = [
        pairs.merge(table, left_on=["run", "run_local"], right_on=ends).assign(towards=towards)
        for ends, towards in ((["run_a", "run_b"], "a_to_b"), (["run_b", "run_a"], "b_to_a"))
    ]
    joined = pd.concat(found, ignore_index=True)
    return joined.assign(forward=joined["direction"] == joined["towards"]).drop(columns="towards")


def draw(tables: Path, config: CrossObjectiveFigure) -> Figure:
    """Per hook point one panel per objective but local: alive decoder features of the selected run and of the local one.

    Where local was trained in several seeds, a line is its mean nearest cosine across them, of runs of any sparsity.
    """
    nearest = local_pairs(tables, "nearest", [*PAIR, "cosine"])
    nearest = nearest[np.isfinite(nearest["cosine"].astype(float))]
    means = local_pairs(tables, "geometry", MEANS).dropna(subset="value")
    means = means[(means["directions"] == "decoder") & (means["features"] == "alive") & (means["direction"] != "both")]
    if nearest.empty or means.empty:
        return only_message(config, "No hook point has a local run and one of another objective at similar CE increase.")
    others = alike(read_selection(tables), nearest)
    x_label = "Cosine" if config.width < NARROW else "Cosine with nearest\nof the other run"
    figure, placed = kind_panels(config, others, x_label, "Fraction of features")
    between = joint(config, figure.axes[0].get_gridspec().ncols)
    local = of_seeds(tables).query("objective == 'local'")
    for kind, panel in placed.items():
        here, of_pair = (of_kind(frame, *kind) for frame in (nearest, means))
        name = kind_name(*kind[1:], others, joint="\n")
        draw_both(panel, name, colour(config, kind[1]), here, of_pair, config.bins, between)
        positive_control(panel, of_kind(local, kind[0], "local", kind[2])["value"])
    control = [Line2D([], [], **POSITIVE, label="local, another seed")] if len(local) else []
    legend(figure, [*entries("to local", "from local"), *control])
    return figure
