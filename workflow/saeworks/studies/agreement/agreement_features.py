"""How many features subject-verb agreement needs (Fig. 24 of Braun et al. 2024)."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FormatStrFormatter

from ..plot import GREY, NARROW, legend_columns, looks_of, name_row, only_message, panels, say
from ..reading import hook_points, kind_name, read_selection
from ..tables import read_table
from .agreement_table import TEMPLATES
from .settings import AgreementFeaturesFigure

_COLUMNS = ["run", "template", "n_kept", "faithfulness"]


def draw(tables: Path, config: AgreementFeaturesFigure) -> Figure:
    """Per hook point one panel per template: faithfulness against the number of features that keep their activations."""
    curves = read_table(tables, "agreement_features", _COLUMNS)
    selected = read_selection(tables)
    selected = selected[selected["run"].isin(curves["run"])]
    if selected.empty:
        return only_message(config, "Agreement was not measured on any run selected at similar CE increase.")
    templates = [name for name in TEMPLATES if name in set(curves["template"])]
    looks, hooks = looks_of(config, selected), hook_points(selected)
    n_columns = min(len(templates), 2 if config.width < NARROW else 4)
    n_rows = -(-len(templates) // n_columns)
    figure, axes = panels(config, n_rows * len(hooks), n_columns, sharex=True)
    for i, hook_point in enumerate(hooks):
        block = axes[i * n_rows : (i + 1) * n_rows]
        here = selected[selected["hook_point"] == hook_point]
        for panel in block.flat[len(templates) :]:
            panel.set_axis_off()
        for panel, template in zip(block.flat, templates, strict=False):
            panel.axhline(1, color=GREY, linestyle=":")
            drawn = False
            for run in here.itertuples():
                line = curves[(curves["run"] == run.run) & (curves["template"] == template)].sort_values("n_kept")
                drawn |= line["faithfulness"].notna().any()
                panel.plot(
                    line["n_kept"], line["faithfulness"], **looks[run.objective, run.architecture] | {"markersize": 2.5}, zorder=3
                )
            if not drawn:
                say(panel, "not defined: ablation does not change the model", width=16)
            panel.set_xscale("symlog", linthresh=1, linscale=0.3)
            panel.xaxis.set_major_formatter(FormatStrFormatter("%g"))
            panel.set_xlim(left=0)
            panel.set_title(TEMPLATES[template])
        for row in block:
            row[0].set_ylabel("Faithfulness")
            name_row(row, hook_point)
    for column in axes.T:
        lowest = [panel for panel in column if panel.axison][-1]
        lowest.tick_params(labelbottom=True)
        lowest.set_xlabel("Features kept")
    handles = [Line2D([], [], **looks[kind] | {"markersize": 2.5}, label=kind_name(*kind, selected)) for kind in looks] + [
        Line2D([], [], color=GREY, linestyle=":", label="original model")
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=legend_columns(config, handles))
    return figure
