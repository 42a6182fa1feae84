"""Whether features of two seeds fire on the same tokens although their directions differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..plot import GREY, NARROW, colour, cosine_axis, kind_panels, legend, only_message, points
from ..reading import alike, of_kind, read_runs
from ..seeds import NO_SEEDS, heading, joint, of_first_run, over_seeds, read_matching, with_interval
from .settings import FiringAgreementFigure

_LABELS = {
    "pearson": "Correlation\nof activations",
    "jaccard": "Jaccard index\nof firing",
    "p_b_given_a": "P(b fires | a fires)",
    "p_a_given_b": "P(a fires | b fires)",
}
_LINES = {  # partner in table `firing`: its column's prefix, line style and label
    "decoder": ("", "-", "decoder partner"),
    "best_in_b": ("best_", "--", "activation partner"),
    "best_in_shuffled": ("chance_", "-.", "the same, shuffled tokens"),
    "null": ("null_", ":", "equal firing rate"),
}


def draw(tables: Path, config: FiringAgreementFigure) -> Figure:
    """Per hook point one panel per objective and architecture: agreement of firing against decoder cosine, of the lowest two seeds.

    A point is a pair of partners, one to one by decoder directions. Lines are means over bins of that cosine.
    """
    prefixes = [prefix for prefix, _, _ in _LINES.values()]
    features = of_first_run(tables, "firing_features", ["decoder_cosine", *(f"{p}{config.metric}" for p in prefixes)])
    features = features[np.isfinite(features[config.metric].astype(float))]
    means = of_first_run(tables, "firing", ["partner", "metric", "value", "ci_low", "ci_high", "resampled"])
    matching = read_matching(tables)
    if features.empty:
        return only_message(config, NO_SEEDS)
    runs = read_runs(tables)
    runs = alike(runs, features)
    x_label = "Decoder\ncosine" if config.width < NARROW else "Decoder cosine\nwith partner"
    figure, placed = kind_panels(config, runs, x_label, _LABELS[config.metric])
    between = joint(config, figure.axes[0].get_gridspec().ncols)
    for kind, panel in placed.items():
        here, of_runs, matched = (of_kind(frame, *kind) for frame in (features, means, matching))
        _panel(panel, here, matched, colour(config, kind[1]), config)
        lines = [heading(here, *kind[1:], runs, between), *_numbers(of_runs, config.metric, between)]
        panel.set_title("\n".join(lines), fontsize=7)
    entries = [
        Line2D([], [], color=_line_colour(name), linestyle=style, label=label) for name, (_, style, label) in _LINES.items()
    ]
    entries.append(Line2D([], [], color=GREY, linestyle=(0, (1, 3)), linewidth=0.8, label="random directions"))
    legend(figure, entries, at_most=2)
    return figure


def _line_colour(partner: str) -> str:
    return GREY if partner in ("null", "best_in_shuffled") else "black"


def _numbers(means: pd.DataFrame, metric: str, between: str) -> list[str]:
    """Lines for the title: the mean over one-to-one partners, that of the null, and the kernel alignment."""
    own = means[means["metric"] == metric]
    lines = ["mean " + with_interval(own[own["partner"] == "decoder"], between)]
    for label, rows in (("null", own[own["partner"] == "null"]), ("CKA", means[means["partner"] == "codes"])):
        lines.append(f"{label} {over_seeds(rows)['value'].mean():.3f}")
    return [lines[0], ", ".join(lines[1:])] if between == " " else lines


def _panel(panel: Axes, features: pd.DataFrame, matching: pd.DataFrame, shade: str, config: FiringAgreementFigure) -> None:
    cosine_axis(panel)
    x = features["decoder_cosine"].clip(0, 1)
    points(panel, x, features[config.metric], 2, color=shade, alpha=0.4)
    bins = np.minimum((x * config.bins).astype(int), config.bins - 1)
    centres = (np.arange(config.bins) + 0.5) / config.bins
    for name, (prefix, style, _) in _LINES.items():
        binned = features.groupby(bins)[f"{prefix}{config.metric}"].mean().reindex(range(config.bins))
        known = binned.notna().to_numpy()  # the line passes over empty bins
        panel.plot(centres[known], binned[known], color=_line_colour(name), linestyle=style, linewidth=1)
    matched = matching[(matching["metric"] == "matched_cosine") & (matching["directions"] == "decoder")]
    baseline = matched.loc[matched["comparison"] == "cross_seed", "random_baseline"].mean()
    if np.isfinite(baseline):
        panel.axvline(baseline, color=GREY, linestyle=(0, (1, 3)), linewidth=0.8)
    panel.set_ylim(min(-0.05, features[config.metric].min() - 0.02), 1.05)
