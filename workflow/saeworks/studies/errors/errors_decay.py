"""KL divergence at and after the one position that is replaced (Gurnee 2024)."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..plot import colour, kind_panels, legend, only_message
from ..reading import kind_name, of_kind
from .frame import ABSENT, measured_runs, tokens_of
from .panels import entries, measured
from .settings import INTERVENTIONS, ErrorsDecayFigure

_SHOWN = ("sae", "norm_corrected", "random", "cosine_true_norm", "norm_only", "real_mixture")


def draw(tables: Path, config: ErrorsDecayFigure) -> Figure:
    """One panel per hook point and kind: mean KL over rows by the distance to the position."""
    runs = measured_runs(tables, "errors_single")
    if runs.empty:
        return only_message(config, ABSENT)
    frame = tokens_of(tables, runs, ["offset", *(f"kl_{name}" for name in _SHOWN)], table="errors_single")
    names = measured(frame, _SHOWN)
    means = frame.groupby(["run", "offset"])[[f"kl_{name}" for name in names]].mean()
    figure, placed = kind_panels(config, runs, "Offset", "KL (nats)")
    for (hook_point, *kind), panel in placed.items():
        here = means.loc[of_kind(runs, hook_point, *kind)["run"].iloc[0]]
        for name in names:
            shown = here[f"kl_{name}"][here[f"kl_{name}"] > 0]
            panel.plot(shown.index, shown, color=INTERVENTIONS[name].color, linewidth=1, marker=".", markersize=2)
        panel.set_yscale("log")
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        panel.set_title(kind_name(*kind, runs, joint="\n"), fontsize=7, color=colour(config, kind[0]))
    legend(figure, entries(names))
    return figure
