"""What the figures of sweeps share: runs that differ in one setting, a curve for each of its values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from ...config.figures import FigureStyle
from ..plot import GREY, NARROW, colour, frontier, handles, legend, name_row, only_message, panels
from ..reading import kind_name, read_metrics
from ..tables import read_table

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


@dataclass(frozen=True)
class Quantity:
    """A measured quantity on an axis."""

    metric: str
    name: str
    unit: str = ""

    def label(self, joint: str = " ") -> str:
        return f"{self.name}{joint}({self.unit})" if self.unit else self.name


L0 = Quantity("l0", "L0", "features per token")
ALIVE = Quantity("alive_features", "Alive features", "of the dictionary")
CE_INCREASE = Quantity("ce_increase", "CE loss increase", "nats")
EXPLAINED_VARIANCE = Quantity("explained_variance", "Explained variance")
FRONTIER = ((L0, CE_INCREASE), (ALIVE, CE_INCREASE))


@dataclass(frozen=True)
class Sweep:
    """A swept setting: its column in the table of runs, what to call it, and how to write a value of it in a legend."""

    column: str
    title: str
    text: Callable[[Any], str] = str
    order: Callable[[Any], Any] = float
    objectives: tuple[str, ...] | None = None  # None: all

    def groups(self, runs: pd.DataFrame) -> list[pd.DataFrame]:
        """The runs of each hook point and family that differ in nothing but the setting, sparsity and seed, if it has two values."""
        kept = runs if self.objectives is None else runs[runs["objective"].isin(self.objectives)]
        found = [group for _, group in kept.groupby(["hook_point", f"family_but_{self.column}"], sort=False)]
        return [group for group in found if group[self.column].nunique() > 1]

    def values(self, groups: list[pd.DataFrame]) -> list[Any]:
        """All values of the setting, in order."""
        return sorted({value for group in groups for value in group[self.column]}, key=self.order)


def million(n_tokens: int) -> str:
    """A number of tokens in millions."""
    return f"{n_tokens / 1e6:.3g}M"


def shades(base: str, n: int) -> list[tuple[float, float, float]]:
    """`n` shades of a colour from light to dark; they differ in lightness, so they can be told apart without colour vision."""
    rgb = np.array(to_rgb(base))
    light, dark = rgb + 0.6 * (1 - rgb), 0.4 * rgb
    places = np.linspace(0, 1, n) if n > 1 else [0.5]
    return [tuple(np.interp(place, [0, 0.5, 1], ends) for ends in zip(light, rgb, dark, strict=True)) for place in places]


def looks_of(base: str, values: Sequence[Any]) -> dict[Any, dict[str, Any]]:
    """Shade and marker of each value of a sweep."""
    looks = zip(values, shades(base, len(values)), cycle(_MARKERS), strict=False)
    return {value: {"color": shade, "marker": marker, "linestyle": "-"} for value, shade, marker in looks}


def group_names(groups: list[pd.DataFrame]) -> list[str]:
    """What to call each group: its objective, and its first run group where one hook point has several of that kind."""
    together = pd.concat(groups)
    names = [(g["hook_point"].iloc[0], kind_name(g["objective"].iloc[0], g["architecture"].iloc[0], together)) for g in groups]
    return [
        f"{name[1]} ({group['group'].iloc[0]})" if names.count(name) > 1 else name[1]
        for name, group in zip(names, groups, strict=True)
    ]


def value_legend(figure: Figure, sweep: Sweep, values: list[Any]) -> None:
    """The legend of a sweep, titled with its setting; its values in shades of grey."""
    looks = {sweep.text(value): style for value, style in looks_of(GREY, values).items()}
    legend(figure, handles(looks), at_most=5, title=sweep.title)


def name_x(panel: Axes, config: FigureStyle, x: Quantity) -> None:
    """Label of the horizontal axis."""
    panel.set_xlabel(x.label("\n" if config.width < NARROW else " "))
    if x is L0:
        panel.set_xlim(0, 1.05 * panel.dataLim.x1)


def name_y(panel: Axes, y: Quantity) -> None:
    """Label of the vertical axis; a loss is inverted: higher is better."""
    panel.set_ylabel(y.label())
    if y is CE_INCREASE:
        panel.invert_yaxis()


def read_sweep(tables: Path, sweep: Sweep, metrics: list[str]) -> list[pd.DataFrame]:
    """Groups of the sweep, with one column per metric; runs that lack one are left out.

    Raises:
        UserError: the table of runs cannot be read.
    """
    read_table(tables, "runs", [sweep.column, f"family_but_{sweep.column}"])
    return sweep.groups(read_metrics(tables, metrics).dropna(subset=metrics))


def draw_sweep(
    tables: Path, config: FigureStyle, sweep: Sweep, shown: tuple[tuple[Quantity, Quantity], ...] = FRONTIER
) -> Figure:
    """One row of panels per hook point and objective, one panel for each pair of quantities `shown`, a curve per value.

    In a row are runs that differ in nothing but the swept setting, their sparsity and their seed.
    """
    metrics = list(dict.fromkeys(quantity.metric for pair in shown for quantity in pair))
    groups = read_sweep(tables, sweep, metrics)
    if not groups:
        return only_message(config, f"No runs differ in nothing but their {sweep.title}, sparsity and seed.")
    values = sweep.values(groups)
    shared = len({y for _, y in shown}) == 1
    figure, axes = panels(config, len(groups), len(shown), sharey="row" if shared else "none")
    for row, group, name in zip(axes, groups, group_names(groups), strict=True):
        looks = looks_of(colour(config, group["objective"].iloc[0]), values)
        for panel, (x, y) in zip(row, shown, strict=True):
            frontier(panel, group, x.metric, y.metric, looks, by=sweep.column)
            name_x(panel, config, x)
            if panel is row[0] or not shared:
                name_y(panel, y)
        row[0].set_title(name, loc="left")
        name_row(row, group["hook_point"].iloc[0])
    value_legend(figure, sweep, values)
    return figure
