"""Tables drawn as figures: lines of a label and right-aligned cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from ..config.figures import FigureStyle
from .plot import GREY, NARROW, colour, panels
from .reading import LABELS, OBJECTIVES


@dataclass(frozen=True)
class Line:
    """One line: a row of an objective, or without one a heading (`level` 0, ruled; 1, grey)."""

    label: str
    cells: tuple[str, ...] = ()
    objective: str | None = None
    level: int = 1


def table_figure(config: FigureStyle, columns: Sequence[str], lines: Sequence[Line], label_width: float = 0.34) -> Figure:
    """A figure of the table; `config.height` is the height of one line, `label_width` the share of the width left of the cells."""
    figure, axes = panels(config.model_copy(update={"height": config.height * (len(lines) + 1)}), 1, 1)
    panel = axes[0, 0]
    panel.set_axis_off()
    panel.set_xlim(0, 1)
    panel.set_ylim(len(lines) + 1, 0)
    size = 5.5 if config.width < NARROW else 7.5
    for row, line in enumerate([Line("", tuple(columns), level=0), *lines]):
        ruled = line.objective is None and line.level == 0
        shade = "black" if ruled else GREY if line.objective is None else colour(config, line.objective)
        weight = "bold" if ruled else "normal"
        middle = 0.6 if ruled and row else 0.5  # clear of the rule above
        indent = 0.0 if line.objective is None else 0.02
        panel.text(indent, row + middle, line.label, va="center", fontsize=size, color=shade, weight=weight)
        for column, cell in enumerate(line.cells):
            x = label_width + (1 - label_width) * (column + 1) / len(columns)
            ink = GREY if line.objective is None and not ruled else "black"
            panel.text(x, row + middle, cell, va="center", ha="right", fontsize=size, color=ink, weight=weight)
        if ruled:
            panel.axhline(row + 1 if row == 0 else row, color="black", linewidth=0.5)
    return figure


def published_lines(layer: int, rows: dict[str, tuple[str, ...]]) -> list[Line]:
    """Lines of the paper's values at a layer of GPT-2 small, by objective."""
    heading = Line(f"Braun et al. 2024, GPT-2 small, layer {layer}")
    return [heading, *(Line(LABELS[o], rows[o], o) for o in OBJECTIVES if o in rows)]
