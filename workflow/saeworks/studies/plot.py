"""What the figures share: the look, panels, and files whose bytes are equal on every redraw."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
import seaborn
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter
from PIL import Image

from ..config.figures import FigureStyle
from ..config.objectives import OBJECTIVES
from ..store.files import atomic_path
from .reading import hook_points, kind_name, kinds
from .resampling import ENOUGH_SEEDS, seed_interval

_FURTHER_MARKERS = ("v", "P", "X", "*", "<", ">")  # of the second kind of an objective on
_DASHES = ("-", (0, (4, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (8, 3)), (0, (1, 3)))
# names of hook points in the figure that is drawn
_PLACES: ContextVar[Mapping[str, str] | None] = ContextVar("places", default=None)
GREY = "#595959"
NARROW = 4.5  # inches; below it, long labels take two lines
_LEGEND_ROW = 0.17  # inches
_ROOM = 0.02  # at the ends of an axis of cosines
POSITIVE: dict[str, Any] = {"color": "#AA3377", "linestyle": (0, (5, 1.5, 1, 1.5)), "linewidth": 1.1}  # of a positive control
OPEN: dict[str, Any] = {"dashes": False, "linestyle": "none", "markerfacecolor": "white", "zorder": 3}  # markers, not joined

THEME = {
    **seaborn.plotting_context("paper", font_scale=5 / 6),  # 8 points at the size of print
    **seaborn.axes_style("ticks"),
    "font.family": "DejaVu Sans",  # comes with matplotlib, so the glyphs are the same everywhere
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "lines.markersize": 4,
    "axes.grid": True,
    "grid.color": "0.92",
    "grid.linewidth": 0.5,
    "svg.hashsalt": "saeworks",  # element ids of the SVG would be random without it
    "svg.fonttype": "path",
}


def theme() -> AbstractContextManager[None]:
    """The look of all figures, whatever the caller's settings of matplotlib, which are back afterwards."""
    return matplotlib.style.context(THEME, after_reset=True)


@contextmanager
def naming(places: Mapping[str, str]) -> Iterator[None]:
    """Call hook points so in the figures that are drawn meanwhile."""
    before = _PLACES.set(places)
    try:
        yield
    finally:
        _PLACES.reset(before)


def place_name(hook_point: str) -> str:
    """What to call a hook point: its name and, on a further line, its layer."""
    return (_PLACES.get() or {}).get(hook_point, hook_point)


def save(figure: Figure, stem: Path | str, dpi: int) -> None:
    """Write `<stem>.svg` and `<stem>.png`, atomically; neither holds a date or a version, so equal figures are equal bytes."""
    nameless = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
    with theme():
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
    """Colour of an objective; marker and dashes of its kind number `rank` in the figure."""
    marker = _FURTHER_MARKERS[(rank - 1) % len(_FURTHER_MARKERS)] if rank else OBJECTIVES[objective].marker
    return {"color": colour(config, objective), "marker": marker, "linestyle": _DASHES[rank % len(_DASHES)]}


def named_kinds(config: FigureStyle, frame: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """`frame` with a column `kind`, what to call runs of that objective and architecture; and the `look` of each kind by its
    name, in the papers' order."""
    names = {kind: kind_name(*kind, frame) for kind in kinds(frame)}
    ranks = {kind: sum(other[0] == kind[0] for other in list(names)[:i]) for i, kind in enumerate(names)}
    of_rows = [names[kind] for kind in zip(frame["objective"], frame["architecture"], strict=True)]
    return frame.assign(kind=of_rows), {name: look(config, kind[0], ranks[kind]) for kind, name in names.items()}


def colour(config: FigureStyle, objective: str) -> str:
    """The configured colour of `objective`."""
    return config.colors[objective] if objective in config.colors else OBJECTIVES[objective].color


def panels(config: FigureStyle, n_rows: int, n_columns: int, **sharing: Any) -> tuple[Figure, np.ndarray]:
    """An empty figure and its axes, `(n_rows, n_columns)`; `config.height` is the height of one row."""
    figure = Figure(figsize=(config.width, config.height * n_rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(n_rows, n_columns, squeeze=False, **sharing)


def kind_panels(
    config: FigureStyle, runs: pd.DataFrame, x_label: str, y_label: str
) -> tuple[Figure, dict[tuple[str, str, str], Axes]]:
    """A figure with one panel per hook point, objective and architecture of `runs`, by these; a hook point with many of them has
    several rows."""
    kinds_at = {hook_point: kinds(runs[runs["hook_point"] == hook_point]) for hook_point in hook_points(runs)}
    n_columns = min(max(map(len, kinds_at.values())), 3 if config.width < NARROW else 4)
    n_rows = {hook_point: -(-len(found) // n_columns) for hook_point, found in kinds_at.items()}
    figure, axes = panels(config, sum(n_rows.values()), n_columns, sharex=True, sharey=True)
    placed: dict[tuple[str, str, str], Axes] = {}
    row = 0
    for hook_point, found in kinds_at.items():
        here = axes[row : row + n_rows[hook_point]]
        row += n_rows[hook_point]
        placed |= {(hook_point, *kind): panel for kind, panel in zip(found, here.flat, strict=False)}
        for panel in here.flat[len(found) :]:
            panel.set_axis_off()
        for line in here:
            line[0].set_ylabel(y_label)
            name_row(line, hook_point)
    name_columns(axes, x_label)
    return figure, placed


def name_columns(axes: np.ndarray, x_label: str) -> None:
    """Label the horizontal axis of the lowest panel that is used in each column."""
    for column in axes.T:
        lowest = [panel for panel in column if panel.axison][-1]
        lowest.tick_params(labelbottom=True)
        lowest.set_xlabel(x_label)


def name_row(row: Sequence[Axes], hook_point: str) -> None:
    """Write the hook point and its layer along the right-hand edge of a row of panels."""
    row[-1].annotate(
        place_name(hook_point), (1, 0.5), (5, 0), xycoords="axes fraction", textcoords="offset points",
        rotation=270, ha="left", va="center", multialignment="center", fontsize=6.5, color=GREY,
    )  # fmt: skip


def say(axes: Axes, text: str, width: int = 24) -> None:
    """Put a message where the data would be."""
    lines = "\n".join(textwrap.wrap(text, width))
    axes.text(0.5, 0.5, lines, transform=axes.transAxes, ha="center", va="center", fontsize=7, color=GREY)


def handles(looks: Mapping[str, Mapping[str, Any]], **changes: Any) -> list[Line2D]:
    """Entries of a legend: the name and look of each curve."""
    return [Line2D([], [], **style | changes, label=name) for name, style in looks.items()]


def legend(figure: Figure, entries: Sequence[Artist], at_most: int = 4, **options: Any) -> None:
    """The legend above the panels, in as many columns as there is room for; the figure grows with rows after the second."""
    for n_columns in range(min(at_most, len(entries)), 0, -1):
        drawn = figure.legend(handles=entries, loc="outside upper center", ncols=n_columns, columnspacing=1.5, **options)
        if n_columns == 1 or drawn.get_window_extent().width <= 0.98 * figure.bbox.width:
            break
        drawn.remove()
    further_rows = max(0, -(-len(entries) // n_columns) - 2)
    figure.set_figheight(figure.get_figheight() + _LEGEND_ROW * further_rows)


def only_message(config: FigureStyle, text: str) -> Figure:
    """A figure that says why there is nothing to draw."""
    figure, axes = panels(config, 1, 1)
    axes[0, 0].set_axis_off()
    say(axes[0, 0], text, width=int(14 * config.width))
    return figure


def lines(
    panel: Axes,
    frame: pd.DataFrame,
    x: str,
    y: str,
    looks: Mapping[Any, Mapping[str, Any]],
    by: str = "kind",
    **options: Any,
) -> None:
    """A line through the rows of each value of the column `by`, in their order; `looks` are by these values."""
    frame = frame.dropna(subset=[x, y])
    if frame.empty:  # seaborn would warn of colours without use
        return
    dashes = {name: "" if style["linestyle"] == "-" else style["linestyle"][1] for name, style in looks.items()}
    order = list(looks)
    with _own_labels(panel):
        seaborn.lineplot(
            frame, x=x, y=y, hue=by, hue_order=order, style=by, style_order=order,
            palette={name: style["color"] for name, style in looks.items()},
            markers={name: style["marker"] for name, style in looks.items()},
            estimator=None, sort=False, legend=False, ax=panel,
            **{"dashes": dashes, "markeredgecolor": "auto"} | options,
        )  # fmt: skip


def frontier(panel: Axes, runs: pd.DataFrame, x: str, y: str, looks: Mapping[Any, Mapping[str, Any]], by: str = "kind") -> None:
    """Runs of the lowest seed of each curve, joined in the order of L0.

    Settings of three seeds or more have a cross, their mean and its 95 % interval; of fewer, further seeds are open markers.
    """
    first = runs["seed"] == runs.groupby(by)["seed"].transform("min")
    several = of_enough_seeds(runs)
    lines(panel, runs[first].sort_values("l0"), x, y, looks, by)
    lines(panel, runs[~first & ~several], x, y, looks, by, **OPEN)
    for (name, _), alike in runs[several].groupby([by, "settings"], sort=False):
        interval(panel, alike, x, y, looks[name]["color"], 0.95)


def of_enough_seeds(runs: pd.DataFrame) -> pd.Series:
    """Which runs are of settings that have enough seeds for an interval."""
    return runs.groupby(["hook_point", "settings"])["seed"].transform("nunique") >= ENOUGH_SEEDS


def interval(panel: Axes, runs: pd.DataFrame, x: str, y: str, shade: Any, confidence: float) -> None:
    """The mean over seeds of runs that differ in nothing else, and Student's interval either way."""
    (x_mean, x_half), (y_mean, y_half) = (seed_interval(runs[column], confidence) for column in (x, y))
    panel.errorbar([x_mean], [y_mean], yerr=[y_half], xerr=[x_half], color=shade, elinewidth=1.2)


def points(panel: Axes, x: pd.Series, y: pd.Series, size: float, **options: Any) -> None:
    """A cloud of points of `size` square points each, as a picture in the SVG: there can be thousands."""
    seaborn.scatterplot(
        x=x.to_numpy(), y=y.to_numpy(), s=size, rasterized=True, legend=False, ax=panel, **{"linewidth": 0} | options
    )


@contextmanager
def _own_labels(panel: Axes) -> Iterator[None]:
    """Keep seaborn from naming the axes after columns."""
    x, y = panel.get_xlabel(), panel.get_ylabel()
    yield
    panel.set_xlabel(x, visible=True)
    panel.set_ylabel(y, visible=True)


def histogram(panel: Axes, values: pd.Series, bins: int, low: float, shade: str, outline: bool = False) -> None:
    """The fraction of `values` per bin of [low, 1]. Clipped, not dropped: an obtuse neighbour counts in the first bin."""
    drawn = {"element": "step", "fill": False, "linewidth": 0.9} if outline else {"alpha": 0.7, "linewidth": 0}
    with _own_labels(panel):
        seaborn.histplot(
            x=values.clip(low, 1).to_numpy(), bins=bins, binrange=(low, 1), stat="proportion", color=shade, ax=panel, **drawn
        )


def positive_control(panel: Axes, values: pd.Series) -> None:
    """The mean of a similarity's positive control, if there is one."""
    if values.notna().any():
        panel.axvline(values.mean(), **POSITIVE)


def cosine_axis(panel: Axes) -> None:
    """The common axis of the histograms and clouds, with room for a point at either end."""
    panel.set_xlim(-_ROOM, 1 + _ROOM)
    panel.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
    inward(panel)


def inward(panel: Axes) -> None:
    """Keep the outer labels of the horizontal axis from those of the panels beside it."""
    if labels := panel.get_xticklabels():  # none of a panel with another below it
        labels[0].set_horizontalalignment("left")
        labels[-1].set_horizontalalignment("right")


def plain_log_ticks(axis: Axis, values: pd.Series) -> None:
    """Label a logarithmic axis with plain numbers: powers of ten, and twice and five times them if `values` span few decades; a few
    others where they are so close that it would have none of these."""
    values = values[values > 0]
    span = np.inf if values.empty else values.max() / values.min()
    axis.set_major_locator(MaxNLocator(3) if 1 < span < 2 else LogLocator(subs=(1,) if span > 300 else (1, 2, 5)))
    axis.set_major_formatter(FormatStrFormatter("%g"))
    axis.set_minor_formatter(NullFormatter())
