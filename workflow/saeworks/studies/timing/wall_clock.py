"""Cost of training by objective, beside the paper's (Table 6 of Braun et al. 2024)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ..paper import TRAINING_TOKENS, WALL_CLOCK_HOURS
from ..plot import GREY, NARROW, colour, panels
from ..reading import LABELS, OBJECTIVES, kind_name, kinds
from ..tables import read_table
from .settings import WallClockFigure

_COLUMNS = [
    "run", "hook_point", "layer", "objective", "architecture", "d_sae", "n_tokens", "job", "seconds", "tokens_per_second",
]  # fmt: skip
_LIKE = ["hook_point", "architecture", "d_sae", "n_tokens"]  # of runs whose times differ by their objectives
_HEADER = ("jobs", "wall-clock", "tokens/s", "× local")
_PLACES = (0.40, 0.62, 0.83, 1.0)  # right edges of the columns, as shares of the width
_LINES = 15  # per `height`


def summary(timing: pd.DataFrame) -> pd.DataFrame:
    """Per objective, hook point, architecture, d_sae and n_tokens: jobs, medians of wall-clock (s) and tokens/s, and the slowdown.

    `slowdown` is tokens/s of the local objective over those of this one, all else equal; NaN where there is no such local run.
    """
    alone = timing[timing["job"] == "alone"].dropna(subset=["seconds", "tokens_per_second"])
    table = alone.groupby(["objective", *_LIKE], sort=False).agg(
        layer=("layer", "first"),
        jobs=("run", "size"),
        seconds=("seconds", "median"),
        tokens_per_second=("tokens_per_second", "median"),
    )
    table = table.reset_index()
    local = table[table["objective"] == "local"].set_index(_LIKE)["tokens_per_second"].rename("of_local")
    table = table.join(local, on=_LIKE)
    return table.assign(slowdown=table["of_local"] / table["tokens_per_second"]).drop(columns="of_local")


def duration(seconds: float) -> str:
    """A wall-clock in two units, the larger not zero."""
    minutes, hours = seconds / 60, seconds / 3600
    if hours >= 1:
        return (
            f"{int(hours)} h {round(60 * (hours % 1)):02d} min" if round(60 * (hours % 1)) < 60 else f"{int(hours) + 1} h 00 min"
        )
    return f"{minutes:.1f} min" if minutes >= 1 else f"{seconds:.1f} s"


def draw(tables: Path, config: WallClockFigure) -> Figure:
    """A table: this experiment's training jobs by hook point, and below them the paper's by layer."""
    timing = read_table(tables, "timing", _COLUMNS)
    lines = [*_own_lines(timing), ("note", ("",), ""), *_paper_lines()]
    figure, axes = panels(config, 1, 1)
    figure.set_size_inches(config.width, config.height * len(lines) / _LINES)
    panel = axes[0, 0]
    panel.set_axis_off()
    panel.set_xlim(0, 1)
    panel.set_ylim(len(lines), 0)
    size = 6.5 if config.width < NARROW else 8
    for number, (kind, cells, objective) in enumerate(lines):
        y = number + 0.5
        if kind == "heading":
            panel.text(0, y, cells[0], va="center", fontsize=size, weight="bold")
            panel.axhline(number + 0.97, color=GREY, linewidth=0.6)
        elif kind == "note":
            panel.text(0, y, cells[0], va="center", fontsize=size, color=GREY)
        else:
            shade = colour(config, objective) if objective else GREY
            panel.text(0.0, y, cells[0], va="center", fontsize=size, color=shade)
            for place, cell in zip(_PLACES, cells[1:], strict=True):
                panel.text(place, y, cell, va="center", ha="right", fontsize=size, color=GREY if kind == "header" else "black")
    return figure


def _own_lines(timing: pd.DataFrame) -> list[tuple[str, tuple[str, ...], str]]:
    table = summary(timing)
    lines: list[tuple[str, tuple[str, ...], str]] = []
    hooks = table.sort_values("layer", kind="stable")["hook_point"].unique()
    for hook_point in hooks:
        here = table[table["hook_point"] == hook_point]
        lines += [("heading", (hook_point,), ""), ("header", ("", *_HEADER), "")]
        for (d_sae, n_tokens), alike in here.groupby(["d_sae", "n_tokens"]):
            sizes = {"d_sae": f"{d_sae:,} features", "n_tokens": f"{n_tokens:,} tokens"}
            differing = [size for column, size in sizes.items() if here[column].nunique() > 1]
            if differing:
                lines.append(("note", (", ".join(differing),), ""))
            rows = alike.set_index(["objective", "architecture"])
            for objective, architecture in kinds(alike):
                row = rows.loc[(objective, architecture)]
                slowdown = "–" if pd.isna(row["slowdown"]) else f"{row['slowdown']:.1f}"
                cells = (f"{int(row['jobs'])}", duration(row["seconds"]), f"{row['tokens_per_second']:,.0f}", slowdown)
                lines.append(("row", (kind_name(objective, architecture, table), *cells), objective))
    if not len(hooks):
        lines.append(("heading", ("This experiment",), ""))
    together, unknown = ((timing["job"] == job).sum() for job in ("together", "unknown"))
    if together:
        lines.append(("note", (f"{together} runs were trained together and have no time of their own.",), ""))
    if unknown or not len(timing):
        lines.append(("note", (f"{unknown} runs have no record of their training.",), ""))
    return lines


def _paper_lines() -> list[tuple[str, tuple[str, ...], str]]:
    lines: list[tuple[str, tuple[str, ...], str]] = [
        ("heading", ("Braun et al. 2024, one A100",), ""),
        ("header", ("", *_HEADER), ""),
    ]
    for layer, hours in WALL_CLOCK_HOURS.items():
        for objective in (o for o in OBJECTIVES if o in hours):
            seconds = 3600 * hours[objective]
            cells = ("", duration(seconds), f"{TRAINING_TOKENS / seconds:,.0f}", f"{hours[objective] / hours['local']:.1f}")
            lines.append(("row", (f"{LABELS[objective]}, layer {layer}", *cells), objective))
    return lines
