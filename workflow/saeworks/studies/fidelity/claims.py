"""Claims on what a feature costs, and on reconstruction by layer, norms and alive features at equal CE increase."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..claim import Claim, judged_on, of_one_architecture
from ..curves import at_ceiling, at_equal_ce, curve_ratios, shares_at_equal_alive
from ..paper import BRAUN
from ..reading import LABELS, read_fidelity, read_metrics


def claims(hook_point: str, tables: Path) -> list[Claim]:
    """Claims on what a feature costs, and on what SAEs of equal cost do to the residual stream."""
    found = (_frontier, _error, _explained_variance, _alive, _norm)
    return [claim for claims_of in found for claim in claims_of(hook_point, tables)]


def _frontier(hook_point: str, tables: Path) -> list[Claim]:
    """What a feature costs (Fig. 1 and 4), on the text that decides and on the corpus's held-out rows."""
    kinds = {
        "ce_at_equal_l0": ("CE increase of {} over local at equal L0", "< 0.45", 0.45, "L0"),
        "ce_at_equal_alive": ("CE increase of {} over local at equal alive features", "< 0.45", 0.45, "alive features"),
        "l0_at_equal_ce": ("L0 of local over {} at equal CE increase", "> 2", 2.0, "CE increase"),
    }
    alive, rows = _with_alive(hook_point, tables), []
    for text in dict.fromkeys([judged_on(tables), None]):
        on = "" if judged_on(tables) is None else f", on {text or 'held-out rows of the corpus'}"
        ratios = curve_ratios(tables, text).set_index(["hook_point", "objective", "quantity"])
        for quantity, (words, published, target, axis) in kinds.items():
            for objective in ("e2e", "e2e_ds"):
                found = ratios.loc[(hook_point, objective, quantity)]
                claim = Claim(
                    hook_point, words.format(LABELS[objective]) + on, published, f"{BRAUN}, Fig. 1 and 4", 1.0, target, ratio=True
                )
                if found["why"]:
                    rows.append(claim.untested(found["why"]))
                    continue
                start, stop = (
                    f"{found[end]:,.0f}" if axis == "alive features" else f"{found[end]:.3g}" for end in ("start", "stop")
                )
                along = f"{found['low']:.2f} to {found['high']:.2f} along {axis} {start} to {stop}"
                tested = claim.over_seeds(found["by_seed"], along)
                ceiling = at_ceiling(shares_at_equal_alive(alive, objective, "local")) if axis == "alive features" else ""
                rows.append(claim.untested(ceiling, tested.ours) if ceiling else tested)
    return rows


def _runs(hook_point: str, tables: Path) -> pd.DataFrame:
    """The runs of the compared architecture at a hook point with their CE increase on the text that decides."""
    runs = of_one_architecture(read_metrics(tables, ["ce_increase"], judged_on(tables)))
    return runs[runs["hook_point"] == hook_point]


def _with_alive(hook_point: str, tables: Path) -> pd.DataFrame:
    """These runs with the count and the share of their alive features."""
    alive = read_metrics(tables, ["alive_features", "alive_fraction"])[["run", "alive_features", "alive_fraction"]]
    return _runs(hook_point, tables).merge(alive, on="run")


def _at_equal_ce(claim: Claim, runs: pd.DataFrame, values: pd.Series, one: str, other: str) -> Claim:
    """The claim on `values` (by run) of one objective over those of another, or less those, at equal CE increase."""
    found, ce, why = at_equal_ce(runs.assign(value=runs["run"].map(values)), "value", one, other)
    if why:
        return claim.untested(why)
    means = " and ".join(f"{found[objective].mean():,.4g}" for objective in (one, other))
    each = found[one] / found[other] if claim.ratio else found[one] - found[other]
    return claim.over_seeds(each, f"{LABELS[one]} and {LABELS[other]}: {means} at a CE increase of {ce:.3f} nats")


def _by_layer(tables: Path, metric: str) -> dict[int, pd.Series]:
    """A metric over all positions, by layer and then by run."""
    fidelity = read_fidelity(tables, judged_on(tables))
    chosen = fidelity[(fidelity["metric"] == metric) & (fidelity["positions"] == "all")].dropna(subset="value")
    return {int(layer): rows.set_index("run")["value"] for layer, rows in chosen.groupby("layer")}


def _compared_layers(found: dict[int, pd.Series], runs: pd.DataFrame) -> list[int]:
    """Layers at which a run here was measured, without the last: the paper's last is the input of the last block, not its output."""
    return sorted(layer for layer, values in found.items() if values.index.isin(runs["run"]).any())[:-1]


def _error(hook_point: str, tables: Path) -> list[Claim]:
    """Errors of the residual stream (Fig. 2)."""
    runs, errors = _runs(hook_point, tables), _by_layer(tables, "mse")
    layers, rows = _compared_layers(errors, runs), []
    for above, below, at, text, target in (
        ("e2e", "local", 0, "MSE of e2e over local at the SAE's layer", 29.0),
        ("e2e", "local", -1, "MSE of e2e over local at the last layer", 11.0),
        ("e2e_ds", "e2e", -1, "MSE of e2e+ds over e2e at the last layer", 0.11),
    ):
        claim = Claim(
            hook_point, f"{text}, at equal CE increase", f"≈ {target:g}", f"{BRAUN}, read off Fig. 2", 1.0, target, ratio=True
        )
        rows.append(
            _at_equal_ce(claim, runs, errors[layers[at]], above, below) if layers else claim.untested("MSE was not measured")
        )
    return rows


def _explained_variance(hook_point: str, tables: Path) -> list[Claim]:
    """Explained variance of the layer-normalised residual stream (Fig. 12b), in the paper's definition.

    That is a mean over tokens of ratios, and at the SAE's own layer the variance of its output is the denominator.
    """
    runs, rows = _runs(hook_point, tables), []
    for metric, at, one, other, where, published, target in (
        ("swapped", 0, "local", "e2e", "SAE's", "≈ 1.1 (0.9 and −0.2)", 1.1),
        ("mean_of_ratios", -1, "e2e_ds", "e2e", "last", "≈ 0.18 (0.9 and 0.72)", 0.18),
    ):
        text = f"layer-normalised explained variance at the {where} layer, at equal CE increase: {LABELS[one]} − {LABELS[other]}"
        claim = Claim(hook_point, text, published, f"{BRAUN}, read off Fig. 12b", 0.0, target)
        found = _by_layer(tables, f"explained_variance_ln_{metric}")
        layers = sorted(found)[:1] if at == 0 else _compared_layers(found, runs)
        here = {layer: found[layer] for layer in layers if found[layer].index.isin(runs["run"]).any()}
        rows.append(
            _at_equal_ce(claim, runs, here[sorted(here)[at]], one, other) if here else claim.untested("it was not measured")
        )
    return rows


def _alive(hook_point: str, tables: Path) -> list[Claim]:
    """Alive features at equal CE increase (Table 2)."""
    runs, rows = _with_alive(hook_point, tables), []
    of_run = runs.set_index("run")
    for objective, target, parts in (("e2e", 22 / 26, "22k over 26k"), ("e2e_ds", 15 / 26, "15k over 26k")):
        claim = _over_local(hook_point, "alive features", "Table 2", objective, target, parts)
        found = _at_equal_ce(claim, runs, of_run["alive_features"], objective, "local")
        shares, *_ = at_equal_ce(runs, "alive_fraction", "local", objective)
        ceiling = at_ceiling(shares.to_dict("list"))
        rows.append(claim.untested(ceiling, found.ours) if ceiling else found)
    return rows


def _norm(hook_point: str, tables: Path) -> list[Claim]:
    """Norms of outputs over those of inputs (Table 5)."""
    fidelity = read_fidelity(tables, judged_on(tables))
    ratios = fidelity[(fidelity["metric"] == "l2_ratio") & (fidelity["positions"] == "rest")].set_index("run")["value"]
    runs, text = _runs(hook_point, tables), "norm of output over norm of input, positions after the first"
    published = (("e2e", 0.31 / 0.92, "0.31 over 0.92"), ("e2e_ds", 0.56 / 0.92, "0.56 over 0.92"))
    return [
        _at_equal_ce(_over_local(hook_point, text, "Table 5", objective, *at), runs, ratios, objective, "local")
        for objective, *at in published
    ]


def _over_local(hook_point: str, what: str, table: str, objective: str, target: float, parts: str) -> Claim:
    """The claim that something of an objective lies below local's at equal CE increase."""
    text = f"{what}: {LABELS[objective]} over local at equal CE increase"
    return Claim(hook_point, text, f"{target:.2f} ({parts})", f"{BRAUN}, {table}", 1.0, target, ratio=True)
