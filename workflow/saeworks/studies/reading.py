"""The runs and their metrics as figures, claims and pages read them: in the papers' order, with names for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ..config import architectures as declared
from ..config import objectives
from ..store.errors import UserError
from .tables import read_columns, read_table

OBJECTIVES = tuple(objectives.OBJECTIVES)
LABELS = {name: facts.label for name, facts in objectives.OBJECTIVES.items()}
ARCHITECTURES = {name: facts.label for name, facts in declared.ARCHITECTURES.items()}
# within a block in the order of the forward pass; `layer` of a residual after a block is that of the next
_PLACES = ("hook_resid_post", "hook_resid_pre", "hook_z", "hook_attn_out", "hook_mlp_out")


def read_runs(tables: Path) -> pd.DataFrame:
    """The runs, one row each, by layer, hook point, objective and architecture (in the papers' order).

    Raises:
        UserError: the table cannot be read or has an objective that no figure knows.
    """
    columns = ["run", "group", "hook_point", "layer", "objective", "architecture", "family", "sparsity_coeff", "k", "seed"]
    runs = read_table(tables, "runs", columns)
    order = {"_place": runs["hook_point"].str.rsplit(".", n=1).str[-1].map({name: i for i, name in enumerate(_PLACES)})}
    if unknown := sorted(set(runs["objective"]) - set(OBJECTIVES)):
        raise UserError(
            f"table {tables}/runs.parquet has runs of objective `{unknown[0]}`, which is none of {', '.join(OBJECTIVES)}; delete it and run "
            "snakemake, which makes it again."
        )
    for column, known in (("objective", OBJECTIVES), ("architecture", architectures(runs))):
        order[f"_{column}"] = runs[column].map(known.index)
    keys = ["layer", "_place", "hook_point", "_objective", "_architecture", "group", "sparsity_coeff", "k", "seed"]
    return runs.assign(**order).sort_values(keys, ignore_index=True).drop(columns=list(order))


def texts(tables: Path) -> list[str]:
    """Names of the texts that runs were evaluated on, beside the held-out rows of the corpus."""
    return list(read_table(tables, "texts", ["text"])["text"].unique()) if (tables / "texts.parquet").exists() else []


def read_fidelity(tables: Path, text: str | None = None) -> pd.DataFrame:
    """Table `fidelity`, or its counterpart on a text."""
    columns = ["run", "metric", "layer", "positions", "value"]
    if text is None:
        return read_table(tables, "fidelity", columns)
    found = read_table(tables, "texts", ["text", *columns])
    return found[found["text"] == text]


def read_metrics(tables: Path, metrics: Sequence[str], text: str | None = None) -> pd.DataFrame:
    """The runs with one column per metric that has no layer, over all positions, on the corpus's held-out rows or on a text.

    A metric that was never measured is NaN.
    """
    fidelity = read_fidelity(tables, text)
    chosen = fidelity[fidelity["metric"].isin(metrics) & (fidelity["positions"] == "all") & (fidelity["layer"] == -1)]
    wide = chosen.pivot(index="run", columns="metric", values="value").reindex(columns=list(metrics))
    return read_runs(tables).merge(wide, left_on="run", right_index=True, how="left")


def read_selection(tables: Path, criterion: str = "similar_ce") -> pd.DataFrame:
    """The runs chosen by `criterion`, at most one per hook point, objective and architecture, with the columns of the runs."""
    selection = read_table(tables, "selection", ["criterion", "hook_point", "objective", "run", "ce_increase", "spread"])
    chosen = selection.loc[selection["criterion"] == criterion, ["run", "ce_increase", "spread"]]
    return read_runs(tables).merge(chosen, on="run", how="inner")


def hook_points(frame: pd.DataFrame) -> list[str]:
    """Hook points of `frame`, each once, in its order."""
    return list(dict.fromkeys(frame["hook_point"]))


def place_names(tables: Path) -> dict[str, str]:
    """What to call each hook point in a figure: with its layer and, where any was measured to the model's end, how many there are."""
    layers = read_table(tables, "runs", ["hook_point", "layer"]).groupby("hook_point")["layer"].first()
    last = read_columns(tables, "fidelity", ["layer"])["layer"].max()
    return {
        hook_point: f"{hook_point}\nlayer {layer} of {last}" if last > 0 else hook_point for hook_point, layer in layers.items()
    }


def kinds(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """`(objective, architecture)` pairs of `frame`, each once, in the papers' order."""
    present = set(zip(frame["objective"], frame["architecture"], strict=True))
    return [(o, a) for o in OBJECTIVES for a in architectures(frame) if (o, a) in present]


def of_kind(frame: pd.DataFrame, hook_point: str, objective: str, architecture: str) -> pd.DataFrame:
    """Rows of the runs of one kind at one hook point."""
    same = (frame["hook_point"] == hook_point) & (frame["objective"] == objective) & (frame["architecture"] == architecture)
    return frame[same]


def alike(runs: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """The runs of the hook points, objectives and architectures that `frame` has: what a figure of it has panels for."""
    kind = ["hook_point", "objective", "architecture"]
    return runs.merge(frame[kind].drop_duplicates(), on=kind)


def architectures(frame: pd.DataFrame) -> list[str]:
    """Architectures in the order of figures: those with a name for people, then any others of `frame`."""
    return [*ARCHITECTURES, *sorted(set(frame["architecture"]) - ARCHITECTURES.keys())]


def architecture_name(architecture: str) -> str:
    """What to call an architecture."""
    return ARCHITECTURES.get(architecture, architecture)


def kind_name(objective: str, architecture: str, among: pd.DataFrame, joint: str = ", ") -> str:
    """What to call runs of this kind in a figure of the runs `among`: the architecture is said where they have several."""
    label = LABELS[objective]
    return label if among["architecture"].nunique() < 2 else f"{label}{joint}{architecture_name(architecture)}"


def sparsity_label(runs: pd.DataFrame) -> str:
    """What set the sparsity of `runs`: `λ = 1, 3`, `k = 32`, or both."""
    chosen = {"λ": runs["sparsity_coeff"], "k": runs["k"]}
    values = {name: sorted(column.dropna().unique()) for name, column in chosen.items()}
    return ", ".join(f"{name} = {', '.join(f'{v:g}' for v in found)}" for name, found in values.items() if found)
