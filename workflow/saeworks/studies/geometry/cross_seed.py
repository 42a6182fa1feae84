"""How near the closest feature of another seed's dictionary lies (Fig. 3b of Braun et al. 2024)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ..plot import GREY, NARROW, colour, cosine_axis, cosine_histogram, kind_panels, only_message, say
from ..reading import hook_points, kind_name, kinds, read_runs, sparsity_label
from ..tables import read_table
from .settings import CrossSeedFigure

_PAIR = ["comparison", "run_a", "run_b", "direction"]
_MEANS = [*_PAIR, "directions", "features", "value", "ci_low", "ci_high", "random_baseline"]


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


def draw(tables: Path, config: CrossSeedFigure) -> Figure:
    """Per hook point one panel per objective and architecture; all pairs of seeds pooled, the two directions drawn apart.

    With one pair the title gives the table's mean and interval (a bootstrap over features) in each direction; with more, the
    mean over pairs and their range.
    """
    nearest = seed_pairs(tables, "nearest", [*_PAIR, "cosine"])
    means = seed_pairs(tables, "geometry", _MEANS)
    means = means[(means["directions"] == "decoder") & (means["features"] == "alive") & (means["direction"] != "both")]
    nearest, means = nearest[np.isfinite(nearest["cosine"].astype(float))], means.dropna(subset="value")
    if nearest.empty or means.empty:
        return only_message(config, "No two runs differ in their seed only: give a run group a second seed (`seeds: [0, 1]`).")
    runs = read_runs(tables)
    runs = runs[runs["hook_point"].isin(nearest["hook_point"])]
    kinds_at = {hook_point: kinds(runs[runs["hook_point"] == hook_point]) for hook_point in hook_points(runs)}
    x_label = "Cosine" if config.width < NARROW else "Cosine with nearest\nof the other seed"
    figure, placed = kind_panels(config, kinds_at, x_label, "Fraction of features")
    for hook_point, found in placed.items():
        for objective, architecture, panel in found:
            here = f"hook_point == {hook_point!r} and objective == {objective!r} and architecture == {architecture!r}"
            name = kind_name(objective, architecture, runs, joint="\n")
            _panel(panel, name, colour(config, objective), nearest.query(here), means.query(here), config)
    handles = [
        Patch(facecolor=GREY, alpha=0.5, label="→ to the higher seed"),
        Line2D([], [], color="black", linewidth=0.9, label="← to the lower seed"),
        Line2D([], [], color="black", linestyle="--", label="mean"),
        Line2D([], [], color=GREY, linestyle=":", label="random directions"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2 if config.width < NARROW else 4, columnspacing=1.2)
    return figure


def _panel(panel: Axes, name: str, shade: str, nearest: pd.DataFrame, means: pd.DataFrame, config: CrossSeedFigure) -> None:
    cosine_axis(panel)
    if nearest.empty or means.empty:
        panel.set_title(name)
        say(panel, "one seed only", width=14)
        return
    lines = [_heading(name, nearest, narrow=config.width < NARROW)]
    for forward, arrow in ((True, "→"), (False, "←")):
        cosines = nearest.loc[nearest["forward"] == forward, "cosine"].to_numpy()
        of_pairs = means[means["forward"] == forward]
        if cosines.size == 0 or of_pairs.empty:
            continue
        outline = {"histtype": "step", "color": "black", "linewidth": 0.9}
        look = {"color": shade, "alpha": 0.6} if forward else outline
        cosine_histogram(panel, cosines, config.bins, **look)
        panel.axvline(of_pairs["value"].mean(), color="black", linestyle="--")
        low, high = ("ci_low", "ci_high") if len(of_pairs) == 1 else ("value", "value")
        joint = "\n" if config.width < NARROW else " "
        lines.append(f"{arrow} {of_pairs['value'].mean():.3f}{joint}[{of_pairs[low].min():.3f}, {of_pairs[high].max():.3f}]")
    panel.axvline(means["random_baseline"].mean(), color=GREY, linestyle=":")
    panel.set_title("\n".join(lines), fontsize=7)


def _heading(name: str, nearest: pd.DataFrame, narrow: bool) -> str:
    n_pairs = len(nearest[["run_a", "run_b"]].drop_duplicates())
    pairs = f"seeds {nearest['seed_a'].iloc[0]}, {nearest['seed_b'].iloc[0]}" if n_pairs == 1 else f"range of {n_pairs} pairs"
    return f"{name}{chr(10) if narrow else ', '}{sparsity_label(nearest)}\n{pairs}"
