"""How many features subject-verb agreement needs (Fig. 24 of Braun et al. 2024)."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FormatStrFormatter

from ..plot import GREY, NARROW, handles, legend, lines, name_columns, name_row, named_kinds, only_message, panels, say
from ..reading import hook_points, read_selection
from ..tables import read_table
from .agreement_table import TEMPLATES
from .settings import AgreementFeaturesFigure

_COLUMNS = ["hook_point", "run", "template", "n_kept", "faithfulness"]


def draw(tables: Path, config: AgreementFeaturesFigure) -> Figure:
    """Per hook point one panel per template: faithfulness against the number of features that keep their activations."""
    curves = read_table(tables, "agreement_features", _COLUMNS)
    selected = read_selection(tables)
    selected = selected[selected["run"].isin(curves["run"])]
    if selected.empty:
        return only_message(config, "Agreement was not measured on any run selected at similar CE increase.")
    templates = [name for name in TEMPLATES if name in set(curves["template"])]
    selected, looks = named_kinds(config, selected)
    curves = curves.merge(selected[["run", "kind"]], on="run").sort_values("n_kept")
    hooks = hook_points(selected)
    n_columns = min(len(templates), 2 if config.width < NARROW else 4)
    n_rows = -(-len(templates) // n_columns)
    figure, axes = panels(config, n_rows * len(hooks), n_columns, sharex=True)
    for i, hook_point in enumerate(hooks):
        block = axes[i * n_rows : (i + 1) * n_rows]
        for panel in block.flat[len(templates) :]:
            panel.set_axis_off()
        for panel, template in zip(block.flat, templates, strict=False):
            panel.axhline(1, color=GREY, linestyle=":")
            here = curves[(curves["hook_point"] == hook_point) & (curves["template"] == template)]
            lines(panel, here, "n_kept", "faithfulness", looks, markersize=2.5, zorder=3)
            if here["faithfulness"].isna().all():
                say(panel, "not defined: ablation does not change the model", width=16)
            panel.set_xscale("symlog", linthresh=1, linscale=0.3)
            panel.xaxis.set_major_formatter(FormatStrFormatter("%g"))
            panel.set_xlim(0, 1.4 * curves["n_kept"].max())
            panel.set_title(TEMPLATES[template])
        for row in block:
            row[0].set_ylabel("Faithfulness")
            name_row(row, hook_point)
    name_columns(axes, "Features kept")
    original = Line2D([], [], color=GREY, linestyle=":", label="original model")
    legend(figure, [*handles(looks, markersize=2.5), original])
    return figure
