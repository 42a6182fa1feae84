"""What the figures share: the look, panels, and files whose bytes are equal on every redraw."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import is_color_like
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter
from PIL import Image

from ..config.figures import FigureStyle
from ..config.objectives import OBJECTIVES
from ..store.errors import UserError
from ..store.files import atomic_path
from .reading import kinds

_FURTHER_MARKERS = ("v", "P", "X", "*", "<", ">")  # of the second kind of an objective on
_DASHES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (8, 3)), (0, (1, 3)))
GREY = "#595959"
NARROW = 4.5  # inches; below it, long labels take two lines

LOOK = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so the glyphs are the same everywhere
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.5,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.5,
    "svg.hashsalt": "saeworks",  # element ids of the SVG would be random without it
    "svg.fonttype": "path",
}


def save(figure: Figure, stem: Path | str, dpi: int) -> None:
    """Write `<stem>.svg` and `<stem>.png`, atomically; neither holds a date or a version, so equal figures are equal bytes."""
    nameless = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
    with matplotlib.rc_context(LOOK):
        for kind, metadata in nameless.items():
            with atomic_path(f"{stem}.{kind}") as partial:
                figure.savefig(partial, format=kind, dpi=dpi, metadata=metadata)
                if kind == "png":
                    _shrink(partial, dpi)


def _shrink(png: Path, dpi: int) -> None:
    """Write the image again in 256 colours: a third of the bytes, and no difference that one could see."""
    with Image.open(png) as image:
        reduced = image.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    reduced.save(png, format="png", optimize=True, dpi=(dpi, dpi))


def look(config: FigureStyle, objective: str, rank: int = 0) -> dict[str, Any]:
    """Colour and marker of an objective's kind number `rank` in the figure, and its dashes after the first."""
    marker = _FURTHER_MARKERS[(rank - 1) % len(_FURTHER_MARKERS)] if rank else OBJECTIVES[objective].marker
    return {"color": colour(config, objective), "marker": marker, "linestyle": _DASHES[rank % len(_DASHES)]}


def looks_of(config: FigureStyle, frame: pd.DataFrame) -> dict[tuple[str, str], dict[str, Any]]:
    """The `look` of each kind of `frame`, in the papers' order."""
    present = kinds(frame)
    return {kind: look(config, kind[0], [k for k in present if k[0] == kind[0]].index(kind)) for kind in present}


def colour(config: FigureStyle, objective: str) -> str:
    """The configured colour of `objective`.

    Raises:
        UserError: matplotlib does not know it.
    """
    value = config.colors.get(objective, OBJECTIVES[objective].color)
    if not is_color_like(value):
        raise UserError(f"the figure's `colors.{objective}` is {value!r}, which is no colour; write e.g. '#0072B2' or 'black'.")
    return value


def panels(config: FigureStyle, n_rows: int, n_columns: int, **sharing: Any) -> tuple[Figure, np.ndarray]:
    """An empty figure and its axes, `(n_rows, n_columns)`; `config.height` is the height of one row."""
    figure = Figure(figsize=(config.width, config.height * n_rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(n_rows, n_columns, squeeze=False, **sharing)


def kind_panels(
    config: FigureStyle, kinds_at: dict[str, list[tuple[str, str]]], x_label: str, y_label: str
) -> tuple[Figure, dict[str, list[tuple[str, str, Axes]]]]:
    """A figure with one panel per hook point, objective and architecture; a hook point with many of them has several rows.

    Returns the figure and, per hook point, its `(objective, architecture, panel)`.
    """
    n_columns = min(max(map(len, kinds_at.values())), 3 if config.width < NARROW else 4)
    n_rows = {hook_point: -(-len(found) // n_columns) for hook_point, found in kinds_at.items()}
    figure, axes = panels(config, sum(n_rows.values()), n_columns, sharex=True, sharey=True)
    placed: dict[str, list[tuple[str, str, Axes]]] = {}
    row = 0
    for hook_point, found in kinds_at.items():
        here = axes[row : row + n_rows[hook_point]]
        row += n_rows[hook_point]
        placed[hook_point] = [(*kind, panel) for kind, panel in zip(found, here.flat, strict=False)]
        for panel in here.flat[len(found) :]:
            panel.set_axis_off()
        for line in here:
            line[0].set_ylabel(y_label)
            name_row(line, hook_point)
    for column in axes.T:
        lowest = [panel for panel in column if panel.axison][-1]
        lowest.tick_params(labelbottom=True)
        lowest.set_xlabel(x_label)
    return figure, placed


def name_row(row: Sequence[Axes], hook_point: str) -> None:
    """Write the hook point along the right-hand edge of a row of panels."""
    row[-1].annotate(
        hook_point, (1, 0.5), (5, 0), xycoords="axes fraction", textcoords="offset points",
        rotation=270, ha="left", va="center", fontsize=6.5, color=GREY,
    )  # fmt: skip


def say(axes: Axes, text: str, width: int = 24) -> None:
    """Put a message where the data would be."""
    lines = "\n".join(textwrap.wrap(text, width))
    axes.text(0.5, 0.5, lines, transform=axes.transAxes, ha="center", va="center", fontsize=7, color=GREY)


def legend_columns(config: FigureStyle, handles: Sequence[Artist], at_most: int = 4) -> int:
    """Columns that a legend over the whole width has room for."""
    inches = 0.5 + 0.06 * max(len(str(handle.get_label())) for handle in handles)  # line and space, and letters
    return min(at_most, max(1, int(config.width / inches)))


def only_message(config: FigureStyle, text: str) -> Figure:
    """A figure that says why there is nothing to draw."""
    figure, axes = panels(config, 1, 1)
    axes[0, 0].set_axis_off()
    say(axes[0, 0], text, width=int(14 * config.width))
    return figure


def cosine_histogram(panel: Axes, cosines: np.ndarray, bins: int, **look: Any) -> None:
    """Draw the fraction of features per bin of [0, 1]. Clipped, not dropped: an obtuse neighbour counts in the first bin."""
    panel.hist(np.clip(cosines, 0, 1), bins=bins, range=(0, 1), weights=np.full(cosines.size, 1 / cosines.size), **look)


def cosine_axis(panel: Axes) -> None:
    """The common axis of the histograms."""
    panel.set_xlim(0, 1)
    panel.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])


def plain_log_ticks(axis: Axis, values: pd.Series) -> None:
    """Label a logarithmic axis with plain numbers: powers of ten, and twice and five times them if `values` span few decades."""
    values = values[values > 0]
    wide = values.empty or values.max() / values.min() > 300
    axis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
    axis.set_major_formatter(FormatStrFormatter("%g"))
    axis.set_minor_formatter(NullFormatter())
