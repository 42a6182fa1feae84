"""How alike two seeds fire, beside what is as alike without learning the same features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..plot import GREY, NARROW, colour, legend, name_row, only_message, panels
from ..reading import hook_points, kind_name, kinds, of_kind, read_runs
from ..seeds import NO_SEEDS, of_first_run, over_seeds
from .settings import FiringControlsFigure

_WITH = {  # what the first run is compared with: partner in table `firing` by quantity, marker
    "another seed": ({"pearson": "best_in_b", "cka": "codes"}, "o"),
    "the activations": ({"pearson": "best_in_activations", "cka": "codes_activations"}, "s"),
    "an untrained code": ({"pearson": "best_in_untrained", "cka": "codes_untrained"}, "^"),
    "shuffled tokens": ({"pearson": "best_in_shuffled", "cka": "codes_shuffled"}, "v"),
}
_PANELS = {"pearson": "Correlation with best partner", "cka": "Alignment of all codes (CKA)"}


def draw(tables: Path, config: FiringControlsFigure) -> Figure:
    """Per hook point two panels: the correlation of a feature with its best partner, and the alignment of all codes.

    Each objective and architecture has a full marker for another seed and open ones for the controls, with the table's interval, if any.
    """
    means = of_first_run(tables, "firing", ["partner", "metric", "value", "ci_low", "ci_high", "resampled"])
    means = means.dropna(subset="value")
    if means.empty:
        return only_message(config, NO_SEEDS)
    hooks, narrow = hook_points(means), config.width < NARROW
    figure, axes = panels(config, len(hooks) * (2 if narrow else 1), 1 if narrow else 2)
    runs = read_runs(tables)
    placed = [(hook, quantity) for hook in hooks for quantity in _PANELS]
    for panel, (hook_point, quantity) in zip(axes.flat, placed, strict=True):
        here = means[(means["hook_point"] == hook_point) & (means["metric"] == quantity)]
        found = kinds(here)
        for place, kind in enumerate(found):
            _draw_kind(panel, place, of_kind(here, hook_point, *kind), quantity, colour(config, kind[0]))
        panel.set_xticks(range(len(found)), [kind_name(*kind, runs, joint="\n") for kind in found])
        if len(found) > 4:
            panel.tick_params(axis="x", labelsize=5)
        panel.set_xlim(-0.5, len(found) - 0.5)
        panel.set_ylim(min(-0.05, panel.dataLim.y0 - 0.03), max(1.05, panel.dataLim.y1 + 0.03))
        panel.grid(axis="x", visible=False)
        panel.set_title(_PANELS[quantity])
    for row, (hook_point, _) in zip(axes, placed[:: axes.shape[1]], strict=True):
        name_row(row, hook_point)
    legend(figure, [Line2D([], [], **_look(name, GREY), label=name) for name in _WITH])
    return figure


def _look(name: str, shade: str) -> dict[str, Any]:
    control = {} if name == next(iter(_WITH)) else {"markerfacecolor": "white"}
    return {"color": shade, "marker": _WITH[name][1], "linestyle": "none"} | control


def _draw_kind(panel: Axes, place: int, rows: pd.DataFrame, quantity: str, shade: str) -> None:
    for offset, (name, (partners, _)) in zip(np.linspace(-0.27, 0.27, len(_WITH)), _WITH.items(), strict=True):
        here = over_seeds(rows[rows["partner"] == partners[quantity]])
        if here.empty:
            continue
        value = here["value"].mean()
        ends = [value - here["ci_low"].min(), here["ci_high"].max() - value]
        error = [[max(0, end)] for end in ends] if np.isfinite(ends).all() else None
        panel.errorbar([place + offset], [value], yerr=error, elinewidth=0.8, **_look(name, shade))
