"""Next-token predictions of examples: the model's, and with SAE and ε-random in one position's place (Gurnee 2024)."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from ..plot import GREY, colour, legend, only_message, panels
from ..reading import kind_name
from ..tables import read_table
from .frame import ABSENT, measured_runs, shown_run, visible
from .settings import ErrorsExamplesFigure

_COLUMNS = ["run", "row", "context", "rank", "text", "log_p", "log_sae", "log_random", "kl_sae", "kl_random"]


def draw(tables: Path, config: ErrorsExamplesFigure) -> Figure:
    """One panel per example of one run: log-probabilities of the model's most probable next tokens."""
    runs = measured_runs(tables, "errors_examples")
    if runs.empty:
        return only_message(config, ABSENT)
    run = shown_run(runs)
    examples = read_table(tables, "errors_examples", _COLUMNS)
    examples = examples[examples["run"] == run["run"]]
    rows = list(dict.fromkeys(examples["row"]))
    figure, axes = panels(config, len(rows), 1)
    name = kind_name(run["objective"], run["architecture"], runs)
    looks = {
        "log_p": {"color": "black", "marker": "_", "label": "model"},
        "log_random": {"color": GREY, "marker": "s", "label": "ε-random"},
        "log_sae": {"color": colour(config, run["objective"]), "marker": "o", "label": f"SAE ({name}, {run['hook_point']})"},
    }
    for panel, row in zip(axes[:, 0], rows, strict=True):
        here = examples[examples["row"] == row].sort_values("rank")
        drawn = [panel.plot(here["rank"], here[c], linestyle="none", markersize=3.5, **look)[0] for c, look in looks.items()]
        panel.set_xticks(here["rank"], [visible(text)[:9] for text in here["text"]], rotation=90, fontsize=5.5, parse_math=False)
        panel.set_ylabel("Log-probability")
        letters = int(13 * config.width)
        context = visible(here["context"].iloc[0])[-letters:]
        kl = f"KL {here['kl_sae'].iloc[0]:.3f} with the SAE, {here['kl_random'].iloc[0]:.3f} with ε-random"
        panel.set_title(f"…{context}\n{kl}", fontsize=6, parse_math=False)
    legend(figure, drawn)
    return figure
