"""Claims on what a feature costs, and on reconstruction by layer, norms and alive features of runs at similar CE increase."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ..claim import CURVE, NOT_SIMILAR, Claim, increases, similar_runs
from ..curves import curve_ratios
from ..paper import BRAUN
from ..reading import LABELS, read_metrics
from ..tables import read_table

_COLUMNS = ["run", "metric", "layer", "positions", "value"]


def claims(hook_point: str, tables: Path) -> list[Claim]:
    """Claims on what a feature costs, and on what runs at similar CE increase do to the residual stream."""
    found = (_frontier, _error, _explained_variance, _alive, _norm)
    return [claim for claims_of in found for claim in claims_of(hook_point, tables)]


def _frontier(hook_point: str, tables: Path) -> list[Claim]:
    """What a feature costs (Fig. 1 and 4)."""
    ratios = curve_ratios(tables).set_index(["hook_point", "objective", "quantity"])
    rows = []
    kinds = {
        "ce_at_equal_l0": ("CE increase of {} over local at equal L0", "< 0.45", "below 0.45", "L0"),
        "ce_at_equal_alive": ("CE increase of {} over local at equal alive features", "< 0.45", "below 0.45", "alive features"),
        "l0_at_equal_ce": ("L0 of local over {} at equal CE increase", "> 2", "above 2", "CE increase"),
    }
    for quantity, (text, published, criterion, axis) in kinds.items():
        for objective in ("e2e", "e2e_ds"):
            found = ratios.loc[(hook_point, objective, quantity)]
            claim = Claim(hook_point, text.format(LABELS[objective]), published, f"{BRAUN}, Fig. 1 and 4", criterion)
            if found["why"]:
                rows.append(claim.untested(found["why"]))
                continue
            passed = found["ratio"] > 2 if quantity == "l0_at_equal_ce" else found["ratio"] < 0.45
            start, stop = (f"{found[end]:,.0f}" if axis == "alive features" else f"{found[end]:.3g}" for end in ("start", "stop"))
            note = f"{axis} {start} to {stop}, seed {found['seeds']}"
            if not passed:
                better = found["ratio"] > 1 if quantity == "l0_at_equal_ce" else found["ratio"] < 1
                note += "; better than local, by less than published" if better else "; no better than local"
            rows.append(claim.tested(passed, found["ratio"], note, CURVE, found["low"], found["high"]))
    return rows


def _error(hook_point: str, tables: Path) -> list[Claim]:
    """Errors of the residual stream (Fig. 2)."""
    fidelity = read_table(tables, "fidelity", _COLUMNS)
    errors = fidelity[(fidelity["metric"] == "mse") & (fidelity["positions"] == "all")]
    selected = similar_runs(tables, hook_point)
    runs, rows = selected["run"], []
    for above, below, at, text, published, criterion in (
        ("e2e", "local", 0, "MSE of e2e over local at the SAE's layer", "≈ 29", "above 1"),
        ("e2e", "local", -1, "MSE of e2e over local at the last layer", "≈ 11", "above 1"),
        ("e2e_ds", "e2e", -1, "MSE of e2e+ds over e2e at the last layer", "≈ 0.11", "below 1"),
    ):
        claim = Claim(hook_point, text, published, f"{BRAUN}, read off Fig. 2", criterion)
        if above not in runs.index or below not in runs.index:
            rows.append(claim.untested(NOT_SIMILAR))
            continue
        pair = [errors[errors["run"] == runs[objective]].set_index("layer")["value"] for objective in (above, below)]
        layers = _compared_layers(*pair)
        if not layers:
            rows.append(claim.untested("MSE was not measured"))
            continue
        ratio = pair[0][layers[at]] / pair[1][layers[at]]
        passed = ratio > 1 if criterion == "above 1" else ratio < 1
        rows.append(claim.tested(passed, ratio, f"layer {layers[at]}, all positions; {increases(selected, above, below)}"))
    return rows


def _explained_variance(hook_point: str, tables: Path) -> list[Claim]:
    """Explained variance of the layer-normalised residual stream (Fig. 12b), in the paper's definition.

    That is a mean over tokens of ratios, and at the SAE's own layer the variance of its output is the denominator.
    """
    fidelity = read_table(tables, "fidelity", _COLUMNS)
    overall = fidelity[(fidelity["positions"] == "all") & fidelity["metric"].str.startswith("explained_variance_ln")]
    selected = similar_runs(tables, hook_point)
    values = {
        (metric, objective): overall[(overall["metric"] == metric) & (overall["run"] == row["run"])].set_index("layer")["value"]
        for metric in overall["metric"].unique()
        for objective, row in selected.iterrows()
    }

    def of(metric: str, *objectives: str) -> list[pd.Series]:
        return [values.get((f"explained_variance_ln{metric}", o), pd.Series(dtype=float)).dropna() for o in objectives]

    criterion = "above 0.55, the middle between that and 0"
    text = "layer-normalised explained variance at the SAE's layer: local − e2e"
    at_sae = Claim(hook_point, text, "≈ 1.1 (0.9 and −0.2)", f"{BRAUN}, read off Fig. 12b", criterion)
    text = "layer-normalised explained variance at the last layer: local − e2e+ds"
    at_end = Claim(
        hook_point,
        text,
        "≈ 0 (both 0.9, e2e 0.72)",
        f"{BRAUN}, read off Fig. 12b",
        "nearer to local than to e2e, and e2e below local",
    )
    rows = []
    local, e2e = of("_swapped", "local", "e2e")
    if not {"local", "e2e"} <= set(selected.index):
        rows.append(at_sae.untested(NOT_SIMILAR))
    elif local.empty or e2e.empty:
        rows.append(at_sae.untested("it was not measured"))
    else:
        difference = local.iloc[0] - e2e.iloc[0]
        usual = [series.get(local.index[0], np.nan) for series in of("", "local", "e2e")]
        note = f"{local.iloc[0]:.3f} and {e2e.iloc[0]:.3f} by the paper's definition, {usual[0]:.3f} and {usual[1]:.3f} by the usual one"
        note += f"; {increases(selected, 'local', 'e2e')}" + ("; above 0, by less" if 0 < difference <= 0.55 else "")
        rows.append(at_sae.tested(difference > 0.55, difference, note))
    three = of("_mean_of_ratios", "local", "e2e", "e2e_ds")
    layers = _compared_layers(*three)
    if not {"local", "e2e", "e2e_ds"} <= set(selected.index):
        rows.append(at_end.untested(NOT_SIMILAR))
    elif not layers:
        rows.append(at_end.untested("it was not measured"))
    else:
        local, e2e, e2e_ds = (series[layers[-1]] for series in three)
        passed = abs(local - e2e_ds) < abs(e2e - e2e_ds) and e2e < local
        note = f"layer {layers[-1]}: local {local:.3f}, e2e {e2e:.3f}, e2e+ds {e2e_ds:.3f}; "
        rows.append(at_end.tested(passed, local - e2e_ds, note + increases(selected, "local", "e2e", "e2e_ds")))
    return rows


def _compared_layers(*by_layer: pd.Series) -> list[int]:
    """Layers that all have, without the last: the paper's last is the input of the last block, not its output."""
    return sorted(set.intersection(*(set(values.index) for values in by_layer)))[:-1]


def _alive(hook_point: str, tables: Path) -> list[Claim]:
    """Alive features at similar CE increase (Table 2)."""
    metrics = read_metrics(tables, ["alive_features"]).set_index("run")["alive_features"]
    runs = similar_runs(tables, hook_point)
    published = {"e2e": (22, 26, "22k over 26k"), "e2e_ds": (15, 26, "15k over 26k")}
    return [
        _over_local(hook_point, "alive features", "Table 2", metrics, runs, objective, *at) for objective, at in published.items()
    ]


def _norm(hook_point: str, tables: Path) -> list[Claim]:
    """Norms of outputs over those of inputs (Table 5)."""
    fidelity = read_table(tables, "fidelity", _COLUMNS)
    ratios = fidelity[(fidelity["metric"] == "l2_ratio") & (fidelity["positions"] == "rest")].set_index("run")["value"]
    runs = similar_runs(tables, hook_point)
    text = "norm of output over norm of input, positions after the first"
    published = {"e2e": (0.31, 0.92, "0.31 over 0.92"), "e2e_ds": (0.56, 0.92, "0.56 over 0.92")}
    return [_over_local(hook_point, text, "Table 5", ratios, runs, objective, *at) for objective, at in published.items()]


def _over_local(
    hook_point: str,
    what: str,
    table: str,
    values: pd.Series,
    selected: pd.DataFrame,
    objective: str,
    theirs: float,
    of_local: float,
    parts: str,
) -> Claim:
    """The claim that `values` (by run) of an objective lie below local's at similar CE increase.

    One run each has no interval, so a ratio just below 1 shows nothing: it must be nearer to the published one than to 1.
    """
    expected = theirs / of_local
    text, published = f"{what}: {LABELS[objective]} over local at similar CE increase", f"{expected:.2f} ({parts})"
    claim = Claim(
        hook_point, text, published, f"{BRAUN}, {table}", f"below {(1 + expected) / 2:.2f}, the middle between that and 1"
    )
    runs = selected["run"]
    pair = [values.get(runs[kind], np.nan) if kind in runs.index else np.nan for kind in (objective, "local")]
    if np.isnan(pair).any() or not pair[1]:
        return claim.untested(NOT_SIMILAR)
    ratio = pair[0] / pair[1]
    passed = ratio < (1 + expected) / 2
    note = f"{pair[0]:,.4g} over {pair[1]:,.4g}; {increases(selected, objective, 'local')}"
    return claim.tested(passed, ratio, note + ("; below local's, by less" if not passed and ratio < 1 else ""))
