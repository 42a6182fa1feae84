"""Two dictionaries in one plane, and the regions that belong to one of them (Fig. 19 and 20 of Braun et al. 2024)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...config.figures import FigureStyle
from ..plot import NARROW, colour, legend, name_row, only_message, panels, points
from ..reading import hook_points, kind_name, kinds, read_runs
from ..tables import read_table
from .settings import UmapFigure

_SECOND = "#7f7f7f"  # of the dictionary that the others are compared with: colours of two objectives blend where points are dense
_POINTS = ["hook_point", "first", "second", "run", "x", "y", "region"]
_REGIONS = ["first", "second", "region", "dominated_by", "n_first", "n_second", "p_value", "x", "y", "top_tokens"]


def pairs_by_hook_point(tables: Path, points: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, list[tuple[str, str]]]]:
    """The embedded runs, indexed by name, and the pairs `(first, second)` of each hook point in the order of the table."""
    runs = read_runs(tables)
    runs = runs[runs["run"].isin(points["run"])].set_index("run", drop=False)
    pairs = points[["hook_point", "first", "second"]].drop_duplicates()
    ordered = hook_points(runs)
    return runs, {
        hook: list(pairs[pairs["hook_point"] == hook][["first", "second"]].itertuples(index=False, name=None)) for hook in ordered
    }


def two_rows_per_hook_point(
    config: FigureStyle, pairs: dict[str, list[tuple[str, str]]], ratios: tuple[float, float]
) -> tuple[Figure, dict[str, list[tuple[Axes, Axes]]]]:
    """A figure with a panel per pair and another below it, of these heights; unused ones are off."""
    n_columns = min(2, max(map(len, pairs.values())))
    blocks = {hook: -(-len(found) // n_columns) for hook, found in pairs.items()}
    n_blocks = sum(blocks.values())
    half = config.model_copy(update={"height": config.height / 2})
    figure, axes = panels(half, 2 * n_blocks, n_columns, height_ratios=ratios * n_blocks)
    placed, row = {}, 0
    for hook, found in pairs.items():
        above, below = (axes[row + i : row + 2 * blocks[hook] : 2] for i in range(2))
        row += 2 * blocks[hook]
        placed[hook] = list(zip(above.flat, below.flat, strict=True))[: len(found)]
        for panel in [*above.flat[len(found) :], *below.flat[len(found) :]]:
            panel.set_axis_off()
        for panel, _ in placed[hook]:  # the axes of a UMAP have no meaning
            panel.set(xticks=[], yticks=[])
            seaborn.despine(ax=panel, left=True, bottom=True)
        for line in above:
            name_row(line, hook)
    return figure, placed


def pair_title(runs: pd.DataFrame, first: str, second: str, narrow: bool) -> str:
    """Both kinds of a pair."""
    joint = "\n" if narrow else ", "
    names = [kind_name(runs.loc[run, "objective"], runs.loc[run, "architecture"], runs, joint) for run in (first, second)]
    return ("\nand " if narrow else " and ").join(names)


def draw(tables: Path, config: UmapFigure) -> Figure:
    """One panel per hook point and pair of runs: alive decoder directions; below, its regions with their counts and top tokens."""
    embedded = read_table(tables, "umap", _POINTS)
    regions = read_table(tables, "umap_regions", _REGIONS)
    if embedded.empty:
        return only_message(config, "No pair of selected dictionaries to embed.")
    runs, pairs = pairs_by_hook_point(tables, embedded)
    regions = regions[regions["p_value"] <= config.significance]
    n_lines = 1 + max(1, regions.groupby(["first", "second"]).size().max() if len(regions) else 0)
    figure, placed = two_rows_per_hook_point(config, pairs, (1.0, 0.06 * n_lines))
    for hook_point, found in pairs.items():
        for (first, second), (panel, below) in zip(found, placed[hook_point], strict=True):
            here = embedded[(embedded["first"] == first) & (embedded["second"] == second)]
            # in mixed order, so that neither dictionary covers the other
            here = here.iloc[np.random.default_rng(0).permutation(len(here))]
            shades = {first: colour(config, runs.loc[first, "objective"]), second: _SECOND}
            points(panel, here["x"], here["y"], config.point_size, hue=here["run"].to_numpy(), palette=shades, alpha=0.6)
            panel.set_title(pair_title(runs, first, second, config.width < NARROW))
            listed = regions[(regions["first"] == first) & (regions["second"] == second)]
            _list_regions(panel, below, listed, n_lines, shades, config)
    seconds = {second for found in pairs.values() for _, second in found}
    entries = []
    for objective, architecture in kinds(runs):
        here = runs[(runs["objective"] == objective) & (runs["architecture"] == architecture)]
        shade = _SECOND if here["run"].isin(seconds).all() else colour(config, objective)
        entries.append(Line2D([], [], color=shade, marker="o", linestyle="none", label=kind_name(objective, architecture, runs)))
    legend(figure, entries)
    return figure


def _list_regions(
    panel: Axes, below: Axes, regions: pd.DataFrame, n_lines: int, shades: dict[str, str], config: UmapFigure
) -> None:
    """Letters in the plane; under it one line per region: letter, features of both, top tokens."""
    below.set_axis_off()
    lines = [("regions: features of each, top tokens", "black")] if len(regions) else [("no region beyond chance", "black")]
    for region in regions.itertuples():
        shade = shades[region.dominated_by]
        panel.text(region.x, region.y, region.region, fontsize=8, weight="bold", ha="center", va="center")
        tokens = " ".join(_visible(token) for token in json.loads(region.top_tokens))
        text = f"{region.region} {region.n_first}/{region.n_second}: {tokens}"
        letters = int(9.5 * config.width)
        lines.append((text if len(text) <= letters else f"{text[: letters - 1]}…", shade))
    for i, (text, shade) in enumerate(lines):
        below.text(
            0,
            1 - i / n_lines,
            text,
            color=shade,
            fontsize=5.5,
            transform=below.transAxes,
            va="top",
            parse_math=False,
            clip_on=True,
        )


def _visible(token: str) -> str:
    shown = "".join("⏎" if c == "\n" else c if c.isprintable() else "·" for c in token).strip()
    return shown or "␣"
