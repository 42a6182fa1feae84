"""What the figures of the study share: panels by kind and by hook point, bars by hook point and intervention."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ...config.figures import FigureStyle
from ..plot import GREY, NARROW, colour, panels, place_name
from ..reading import hook_points, kind_name, kinds, of_kind
from .frame import short_name
from .settings import INTERVENTIONS

Interval = tuple[float, float, float]


def grid(config: FigureStyle, names: Sequence[str], **sharing: object) -> tuple[Figure, dict[str, Axes]]:
    """A figure with a panel for each of `names`, by name, in rows of two to four."""
    n_columns = min(len(names), 2 if config.width < NARROW else 4 if len(names) > 3 else 3)
    figure, axes = panels(config, -(-len(names) // n_columns), n_columns, **sharing)
    for panel in axes.flat[len(names) :]:
        panel.set_axis_off()
    return figure, dict(zip(names, axes.flat, strict=False))


def hook_grid(config: FigureStyle, runs: pd.DataFrame, **sharing: object) -> tuple[Figure, dict[str, Axes]]:
    """`grid` of the hook points of `runs`, each with its title."""
    figure, placed = grid(config, hook_points(runs), **sharing)
    for hook_point, panel in placed.items():
        panel.set_title(place_name(hook_point).removeprefix("blocks."), fontsize=7)
    return figure, placed


def title(panel: Axes, config: FigureStyle, objective: str, architecture: str, among: pd.DataFrame, more: str = "") -> None:
    """The kind of the runs in a panel, in the colour of their objective."""
    panel.set_title(f"{kind_name(objective, architecture, among)}{more}", color=colour(config, objective), fontsize=7)


def bars_by_kind(
    config: FigureStyle,
    runs: pd.DataFrame,
    names: Sequence[str],
    value: Callable[[str, str], Interval],
    y_label: str,
    y_scale: str = "linear",
    base: float | None = None,
    share_y: bool = True,
    n_columns: int = 1,
    of_column: Callable[[int], str] = lambda column: "",
) -> Figure:
    """One row of panels per kind of run: at every hook point a bar for each of `names` with its interval.

    Args:
        runs: at most one for each kind and hook point.
        names: interventions.
        base: where the bars of a logarithmic axis begin and a dotted line is drawn; None: at its lower end, without a line.
        value: mean and bounds of an intervention on a run, NaN where it was not measured; the run's name, for panels of several
            columns followed by `/` and the column.
        share_y: whether panels of different kinds have the same axis.
        n_columns: panels of a kind; `of_column` says what each shows.
    """
    present, hooks = kinds(runs), hook_points(runs)
    figure, axes = panels(config, len(present), n_columns, sharey="all" if share_y else "row", sharex=True)
    for row, kind in zip(axes, present, strict=True):
        for column, panel in enumerate(row):
            for x, hook_point in enumerate(hooks):
                for run in of_kind(runs, hook_point, *kind)["run"]:
                    _group(panel, x, names, [value(run if n_columns == 1 else f"{run}/{column}", name) for name in names], base)
            if base is not None:
                panel.axhline(base, color=GREY, linestyle=":", linewidth=0.9)
            panel.set_yscale(y_scale, **({"linthresh": 0.01} if y_scale == "symlog" else {}))
            panel.set_xticks(range(len(hooks)), [short_name(h) for h in hooks], rotation=90 if len(hooks) > 6 else 0, fontsize=6)
            panel.set_xlim(-0.6, len(hooks) - 0.4)
            title(panel, config, *kind, runs, of_column(column))
            panel.grid(False, axis="x")
        row[0].set_ylabel(y_label)
    for panel in axes[-1]:
        panel.set_xlabel("Layer")
    return figure


def _group(panel: Axes, x: float, names: Sequence[str], values: Sequence[Interval], base: float | None) -> None:
    width = 0.84 / len(names)
    for i, (name, (mean, low, high)) in enumerate(zip(names, values, strict=True)):
        if np.isfinite(mean):
            at = x + (i + 0.5) * width - 0.42
            panel.bar(at, mean - (base or 0), width, base or 0, color=INTERVENTIONS[name].color, linewidth=0)
            if np.isfinite(low):
                panel.plot([at, at], [low, high], color="black", linewidth=0.6)


def entries(names: Sequence[str]) -> list[Patch]:
    """Entries of a legend."""
    return [Patch(color=INTERVENTIONS[name].color, label=INTERVENTIONS[name].label, linewidth=0) for name in names]


def measured(frame: pd.DataFrame, names: Sequence[str], prefix: str = "kl_") -> list[str]:
    """Those of the interventions that the frame has values of."""
    return [name for name in names if frame[f"{prefix}{name}"].notna().any()]
