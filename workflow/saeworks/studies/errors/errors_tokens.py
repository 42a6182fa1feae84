"""Which tokens have the largest gap, and whether it goes with their frequency (Gurnee 2024)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ..plot import GREY, NARROW, colour, only_message, panels, plain_log_ticks, points, say
from ..reading import kind_name
from ..tables import read_table
from .frame import ABSENT, measured_runs, shown_run, tokens_of, visible
from .settings import ErrorsTokensFigure


def by_token(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean, standard deviation and number of the gaps of each token."""
    gap = frame["kl_sae"].astype("float64") - frame["kl_random"]
    return gap.groupby(frame["token"]).agg(["mean", "std", "size"])


def draw(tables: Path, config: ErrorsTokensFigure) -> Figure:
    """Of one run. Left: the tokens of largest mean gap with standard deviation and count; right: gap by frequency."""
    runs = measured_runs(tables)
    if runs.empty:
        return only_message(config, ABSENT)
    run = shown_run(runs)
    frame = tokens_of(tables, runs[runs["run"] == run["run"]], ["token", "kl_sae", "kl_random"], "rest")
    texts = read_table(tables, "errors_vocabulary", ["hook_point", "token", "text"])
    texts = texts[texts["hook_point"] == run["hook_point"]].set_index("token")["text"]
    found = by_token(frame)
    most = found[found["size"] >= config.least].nlargest(config.tokens, "mean")
    shade, narrow = colour(config, run["objective"]), config.width < NARROW
    taller = config.model_copy(update={"height": max(config.height, 0.9 + 0.115 * len(most))})
    figure, axes = panels(taller, 2 if narrow else 1, 1 if narrow else 2)
    left, right = axes.flat
    names = [f"{visible(texts.get(token, str(token)))[:14]} ({n})" for token, n in most["size"].items()]
    left.barh(range(len(most)), most["mean"], xerr=most["std"], color=shade, error_kw={"linewidth": 0.6, "ecolor": GREY})
    left.set_yticks(range(len(most)), names, fontsize=5.5, parse_math=False)
    left.invert_yaxis()
    left.set_xlabel("Mean gap ± SD (nats)")
    if most.empty:
        say(left, f"no token occurs {config.least} times")
    left.set_title(f"{kind_name(run['objective'], run['architecture'], runs)}, {run['hook_point']}", fontsize=6.5, color=shade)
    points(right, found["size"], found["mean"], 5, color=shade, alpha=0.5)
    right.set_xscale("log")
    plain_log_ticks(right.xaxis, found["size"])
    right.axhline(0, color=GREY, linestyle=":", linewidth=0.9)
    r = found["mean"].corr(found["size"], method="spearman") if found["size"].nunique() > 1 else float("nan")
    right.set_title(f"Spearman's r = {r:.2f}", fontsize=6.5)
    right.set_xlabel("Occurrences of the token")
    right.set_ylabel("Mean gap (nats)")
    return figure
