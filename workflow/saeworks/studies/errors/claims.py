"""Claims on reconstruction errors: Gurnee 2024, and Lee and Heimersheim 2024 with what their code shows for other SAEs.

Values are of the run chosen for similar CE increase and of its other seeds, after position 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..claim import Claim, chosen_runs
from ..paper import ERRORS_KL, GURNEE, LEE
from ..reading import LABELS, read_runs
from ..tables import read_columns
from .correlates import OWN, gaps, of_other_hook_points, with_own
from .draws import share_beyond, z_scores
from .frame import run_ratio, tokens_of

_POST = f"{GURNEE}, GPT-2 small"
_LAYER_6 = f"{LEE}, layer 6"
_FAR = 3  # standard deviations
_KL = ("sae", "norm_corrected", "norm_only", "random", "cosine_true_norm", "gaussian_mixture", "real_mixture")
_LOCAL, _E2E, _E2E_DS = (ERRORS_KL[name] for name in ("local (Bloom)", "e2e (Braun)", "e2e+ds (Braun)"))
_DENSEST = ERRORS_KL["densest local (Braun)"][1] / ERRORS_KL["densest local (Braun)"][3]
_SPARSER = ERRORS_KL["local (Braun)"][1] / ERRORS_KL["local (Braun)"][3]
_AT_LENGTHS = {11: 0.039, 21: 0.184}  # KL of the error of "local (Braun)", rescaled to a length
_EPSILON = (
    22.5,
    ERRORS_KL["local (Braun)"][3],
)  # mean length of its error, and KL of random directions at the error's own length


def claims(hook_point: str, tables: Path) -> list[Claim]:
    """Claims on what the errors do at a hook point."""
    runs = _Runs.at(hook_point, tables)
    frame = tokens_of(tables, runs.measured, ["error", "ce_sae", "ce_random", *(f"kl_{name}" for name in _KL)], "rest")
    return [
        *_sizes(hook_point, frame, runs),
        *_inverted(hook_point, frame, runs),
        _by_l0(hook_point, tables, runs),
        *_single(hook_point, tables, runs),
        _draws(hook_point, tables, runs),
        _at_one_length(hook_point, tables, frame, runs),
        _correlates(hook_point, tables, runs),
    ]


class _Runs(NamedTuple):
    """Runs that have errors measured: at this hook point; those of each objective that the claims compare, all seeds of the chosen
    one; and everywhere."""

    measured: pd.DataFrame
    of: dict[str, list[str]]
    everywhere: pd.DataFrame

    @classmethod
    def at(cls, hook_point: str, tables: Path) -> _Runs:
        there = set(read_columns(tables, "errors", ["run"])["run"].unique())
        everywhere = read_runs(tables)[lambda table: table["run"].isin(there)]
        here, of = everywhere[everywhere["hook_point"] == hook_point], {}
        for chosen in chosen_runs(tables, hook_point).itertuples():
            if chosen.run in there:
                of[chosen.objective] = list(here.loc[here["settings"] == chosen.settings].sort_values("seed")["run"])
        return cls(here, of, everywhere)


def _ratio(claim: Claim, frame: pd.DataFrame, runs: _Runs, objective: str, above: str, below: str) -> Claim:
    """A claim on the ratio of the means of two columns, seed by seed; the note has the first one's interval over rows."""
    if objective not in runs.of:
        return claim.untested(f"no {LABELS[objective]} run was chosen for similar CE increase")
    found = [run_ratio(frame, run, above, below) for run in runs.of[objective]]
    values = [value for value, _, _ in found if np.isfinite(value)]
    if not values:
        return claim.untested("it was not measured")
    _, low, high = found[0]
    return claim.over_seeds(values, f"first seed: {low:.2f} to {high:.2f} over rows of tokens" if np.isfinite(low) else "one row")


def _sizes(hook_point: str, frame: pd.DataFrame, runs: _Runs) -> list[Claim]:
    """Local's output and corrections of it against random vectors, every position replaced."""
    around_one = hook_point.endswith("hook_z")
    if ".hook_resid_" in hook_point:
        published, least = "2.2 to 4.5", 2.2
    else:
        published, least = "0.9 to 1.7" if around_one else "above 1 (a comment)", np.inf
    rows = [
        ("KL of local's output over ε-random", published, _POST, 1, least, "kl_sae", "kl_random"),
        ("CE increase of local's output over ε-random", "2 to 4", _POST, 1, 2.0, "ce_sae", "ce_random"),
        (
            "KL of local's output over a random vector at its cosine, true norm",
            f"{_LOCAL[1] / _LOCAL[6]:.2f}", _LAYER_6, 1, _LOCAL[1] / _LOCAL[6], "kl_sae", "kl_cosine_true_norm",
        ),
        (
            "KL of local's output with the true norm over its output: more than half, so that shrinkage is not to blame",
            f"{_LOCAL[2] / _LOCAL[1]:.2f}", _LAYER_6, 0.5, _LOCAL[2] / _LOCAL[1], "kl_norm_corrected", "kl_sae",
        ),
        (
            "KL of the change of the norm alone over ε-random, local",
            f"{_LOCAL[4] / _LOCAL[3]:.2f}", _LAYER_6, 1, _LOCAL[4] / _LOCAL[3], "kl_norm_only", "kl_random",
        ),
        *(
            (
                f"KL of ε-random over a step of its length along the difference of two {what}",
                f"about {_LOCAL[3] / _LOCAL[1]:.1f} at layer 6: that step does as much as local's error",
                LEE, 1, _LOCAL[3] / _LOCAL[1], "kl_random", f"kl_{name}",
            )
            for name, what in (("gaussian_mixture", "draws with the activations' covariance"), ("real_mixture", "other activations"))
        ),
    ]  # fmt: skip
    found = [
        _ratio(Claim(hook_point, text, said, source, null, target, ratio=True), frame, runs, "local", above, below)
        for text, said, source, null, target, above, below in rows
    ]
    if around_one and np.isfinite(found[0].ours):
        found[0] = found[0].untested(f"the published range holds 1, so it names no side; {found[0].note}", found[0].ours)
    return found


def _inverted(hook_point: str, frame: pd.DataFrame, runs: _Runs) -> list[Claim]:
    """SAEs that were trained on the output."""
    rows = []
    for objective, theirs in (("e2e", _E2E), ("e2e_ds", _E2E_DS)):
        target = theirs[1] / theirs[3]
        text = f"KL of the output of {LABELS[objective]} over ε-random"
        claim = Claim(hook_point, text, f"{target:.2f}", _LAYER_6, 1, target, ratio=True)
        rows.append(_ratio(claim, frame, runs, objective, "kl_sae", "kl_random"))
    return rows


def _by_l0(hook_point: str, tables: Path, runs: _Runs) -> Claim:
    """The ratio of local runs against their L0."""
    target = _DENSEST / _SPARSER
    text = "KL over ε-random of the densest local run, over that of the sparsest"
    claim = Claim(hook_point, text, f"{target:.2f} ({_DENSEST:.2f} over {_SPARSER:.2f})", _LAYER_6, 1, target, ratio=True)
    if "local" not in runs.of:
        return claim.untested("no local run was chosen for similar CE increase")
    same = runs.measured.set_index("run").loc[runs.of["local"][0]]
    local = runs.measured[runs.measured["family"] == same["family"]]
    frame = tokens_of(tables, local, ["l0", "kl_sae", "kl_random"], "rest")
    l0, values = frame.groupby("run")["l0"].mean(), []
    for _, of_seed in local.groupby("seed"):
        order = list(l0[of_seed["run"]].sort_values().index)
        if len(order) > 1:
            sparsest, densest = (run_ratio(frame, run, "kl_sae", "kl_random")[0] for run in (order[0], order[-1]))
            values.append(densest / sparsest)
    if not values:
        return claim.untested("no seed has two local runs that differ in sparsity")
    return claim.over_seeds(values, f"{len(local)} runs")


def _single(hook_point: str, tables: Path, runs: _Runs) -> list[Claim]:
    """One position replaced."""
    frame = tokens_of(tables, runs.measured, ["offset", "kl_sae", "kl_random"], table="errors_single")
    rows = []
    for offset, where in ((0, "there"), (1, "at the next position")):
        text = f"one position replaced: KL of local's output over ε-random {where}"
        claim = Claim(hook_point, text, "> 2", _POST, 1, 2.0, ratio=True)
        rows.append(_ratio(claim, frame[frame["offset"] == offset], runs, "local", "kl_sae", "kl_random"))
    return rows


def _draws(hook_point: str, tables: Path, runs: _Runs) -> Claim:
    """Many random directions for one token."""
    text = (
        f"share of tokens on which local's output is more than {_FAR} standard deviations above random directions, less the share of "
        "those directions that are"
    )
    claim = Claim(hook_point, text, "above 0 (a picture)", _POST, 0, np.inf)
    if "local" not in runs.of:
        return claim.untested("no local run was chosen for similar CE increase")
    draws = read_columns(tables, "errors_draws", ["run", "row", "draw", "kl"])
    draws = draws[draws["run"].isin(runs.of["local"])]
    z, shares = z_scores(draws)["z"].dropna(), share_beyond(draws, _FAR)
    if z.empty:
        return claim.untested("no directions were tried")
    means = f"{shares['sae'].mean():.3f} and {shares['random'].mean():.3f}"
    note = f"{means}; {len(z) // len(shares)} tokens of each; z from {z.min():.1f} to {z.max():.1f}, median {z.median():.1f}"
    return claim.over_seeds(list(shares["sae"] - shares["random"]), note)


def _at_one_length(hook_point: str, tables: Path, frame: pd.DataFrame, runs: _Runs) -> Claim:
    """Errors and random directions rescaled to one length, so that the length of the errors plays no part."""
    text = "KL of local's errors rescaled to one length over random directions of that length"
    published = ", ".join(f"{kl:g} at {length}" for length, kl in _AT_LENGTHS.items())
    said = f"above 1: {published}; ε-random {_EPSILON[1]:.3f} at {_EPSILON[0]:g}"
    claim = Claim(hook_point, text, said, _LAYER_6, 1, np.inf, ratio=True)
    if "local" not in runs.of:
        return claim.untested("no local run was chosen for similar CE increase")
    sweep = read_columns(tables, "errors_sweep", ["hook_point", "run", "sweep", "direction", "level", "length", "kl"])
    sweep = sweep[(sweep["hook_point"] == hook_point) & (sweep["sweep"] == "length")]
    errors = sweep[(sweep["direction"] == "error") & sweep["run"].isin(runs.of["local"])]
    if errors.empty:
        return claim.untested("no lengths were tried")
    own = float(frame.loc[frame["run"].isin(runs.of["local"]), "error"].mean())
    lengths = errors.groupby("level")["length"].first()
    level = (np.log(lengths) - np.log(own)).abs().idxmin()
    random = sweep.loc[(sweep["direction"] == "random") & (sweep["level"] == level), "kl"].mean()
    kl = errors[errors["level"] == level].groupby("run")["kl"].mean()
    note = f"{kl.mean():.3g} over {random:.3g} nats at {lengths[level]:.3g}, {level:g} of the mean norm; local's mean error is {own:.3g}"
    return claim.over_seeds(kl / random, note)


def _correlates(hook_point: str, tables: Path, runs: _Runs) -> Claim:
    """The gap here and at other hook points."""
    text = "rank correlation of local's gap (SAE less ε-random) with that at other hook points, less the strongest with a value of the token"
    claim = Claim(hook_point, text, "above 0: the strongest", _POST, 0, np.inf)
    if "local" not in runs.of:
        return claim.untested("no local run was chosen for similar CE increase")
    known, values, notes = runs.everywhere.set_index("run"), [], []
    for run in runs.of["local"]:
        family = runs.everywhere[runs.everywhere["family"] == known["family"][run]]
        alike = ["seed", "sparsity_coeff", "k"]
        same = family[(family[alike].fillna(-1) == known.loc[run, alike].fillna(-1)).all(axis=1)]
        if same["hook_point"].nunique() < 2:
            return claim.untested("there are no such runs at several hook points")
        frame = tokens_of(tables, same, ["kl_sae", "kl_random", *OWN], "rest")
        others = of_other_hook_points(same, gaps(frame).corr("spearman"))[run]
        own = with_own(frame[frame["run"] == run], "spearman").loc[run].abs()
        values.append(others - own.max())
        notes.append(
            f"{others:.2f} with {same['hook_point'].nunique() - 1} other hook points, {own.max():.2f} with {OWN[own.idxmax()]}"
        )
    return claim.over_seeds(values, notes[0])
