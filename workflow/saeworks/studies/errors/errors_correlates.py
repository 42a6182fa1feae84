"""Correlates of the gap between the divergences of SAE and ε-random (Gurnee 2024)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..plot import NARROW, colour, legend, only_message, panels
from ..reading import kind_name, kinds
from .correlates import OWN, gaps, of_other_hook_points, with_own
from .frame import ABSENT, measured_runs, short_name, tokens_of
from .settings import ErrorsCorrelatesFigure

_MANY = 12  # runs, beyond which the matrix needs the whole width for their names
_LINE = 0.09  # inches for each of them


def draw(tables: Path, config: ErrorsCorrelatesFigure) -> Figure:
    """Bars: correlation of the gap with what is known of the token, mean over hook points; matrix: of the runs' gaps with each other."""
    runs = measured_runs(tables)
    if runs.empty:
        return only_message(config, ABSENT)
    frame = tokens_of(tables, runs, ["kl_sae", "kl_random", *OWN], "rest")
    matrix = gaps(frame)[list(runs["run"])].corr(config.method)
    own = with_own(frame, config.method).assign(others=of_other_hook_points(runs, matrix))
    many = len(runs) > _MANY
    stacked = many or config.width < NARROW
    height = max(config.height, 0.7 + _LINE * len(runs)) if many else config.height
    figure, axes = panels(config.model_copy(update={"height": height}), 2 if stacked else 1, 1 if stacked else 2)
    bars, square = axes.flat
    own = own.dropna(axis=1, how="all")
    names = [{**OWN, "others": "gap at other\nhook points"}[column] for column in own.columns]
    present = kinds(runs)
    looks = {
        kind: {
            "facecolor": colour(config, kind[0]),
            "hatch": "////" if any(other[0] == kind[0] for other in present[:i]) else None,
            "edgecolor": "white",
            "linewidth": 0,
        }
        for i, kind in enumerate(present)
    }
    for i, kind in enumerate(present):
        of_kind = runs.loc[(runs["objective"] == kind[0]) & (runs["architecture"] == kind[1]), "run"]
        width = 0.8 / len(present)
        at = np.arange(len(names)) + (i + 0.5) * width - 0.4
        bars.barh(at, own.loc[of_kind].mean(), width, **looks[kind])
    bars.set_yticks(range(len(names)), names, fontsize=6.5)
    bars.invert_yaxis()
    bars.axvline(0, color="black", linewidth=0.6)
    bars.set_xlabel(f"Correlation with the gap\n({config.method.capitalize()})")
    image = square.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
    labels = [short_name(hook_point) for hook_point in runs["hook_point"]]
    size = 5 if many else 5.5
    square.set_xticks(range(len(runs)), labels, rotation=90, fontsize=size)
    square.set_yticks(range(len(runs)), labels, fontsize=size)
    for label, run in zip([*square.get_xticklabels(), *square.get_yticklabels()], [*runs["objective"]] * 2, strict=True):
        label.set_color(colour(config, run))
    square.set_title("gap against gap,\nby layer", fontsize=6.5)
    square.grid(False)
    figure.colorbar(image, ax=square, shrink=0.8)
    legend(figure, [Patch(**look, label=kind_name(*kind, runs)) for kind, look in looks.items()])
    return figure
