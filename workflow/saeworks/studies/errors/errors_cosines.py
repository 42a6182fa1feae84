"""KL divergence of noise at given cosines with the activation, with the SAEs among it (after a comment on Gurnee 2024)."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..plot import GREY, handles, legend, named_kinds, only_message
from ..tables import read_table
from .frame import ABSENT, measured_runs, tokens_of
from .panels import hook_grid
from .settings import ErrorsCosinesFigure

_COLUMNS = ["hook_point", "run", "sweep", "level", "row", "kl"]
_NOISE = {"color": GREY, "linestyle": ":", "marker": ".", "markersize": 3, "label": "noise"}


def draw(tables: Path, config: ErrorsCosinesFigure) -> Figure:
    """One panel per hook point: the curve of noise, and a marker for each run at its mean cosine and KL after position 0."""
    sweep = read_table(tables, "errors_sweep", _COLUMNS)
    sweep, runs = sweep[sweep["sweep"] == "cosine"], measured_runs(tables, chosen=False)
    if sweep.empty or runs.empty:
        return only_message(config, ABSENT)
    means = tokens_of(tables, runs, ["cosine", "kl_sae"], "rest").groupby("run")[["cosine", "kl_sae"]].mean()
    runs, looks = named_kinds(config, runs)
    noise = sweep.groupby(["hook_point", "level"])["kl"].mean()
    figure, placed = hook_grid(config, runs, sharey=True)
    for hook_point, panel in placed.items():
        panel.plot(noise[hook_point].index, noise[hook_point], linewidth=1, **_NOISE)
        for run in runs[runs["hook_point"] == hook_point].itertuples():
            cosine, kl = means.loc[run.run, ["cosine", "kl_sae"]]
            panel.plot(cosine, kl, **looks[run.kind] | {"linestyle": "none", "markersize": 3.5})
        panel.set(yscale=config.y_scale, xlabel="Cosine with x")
        panel.tick_params(labelsize=6)
    next(iter(placed.values())).set_ylabel("KL (nats/token)")
    legend(figure, [*handles(looks, linestyle="none", markersize=3.5), Line2D([], [], linewidth=1, **_NOISE)])
    return figure
