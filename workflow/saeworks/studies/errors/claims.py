"""Claims on reconstruction errors: Gurnee 2024, its comment, and Lee and Heimersheim 2024, with what their code shows for other SAEs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from ..claim import RUNS, Claim, chosen_runs, of_one_architecture
from ..paper import ERRORS_KL, GURNEE, LEE
from ..reading import LABELS
from ..tables import read_columns
from .correlates import OWN, gaps, of_other_hook_points, with_own
from .draws import z_scores
from .errors_tokens import by_token
from .frame import ROWS, measured_runs, run_ratio, tokens_of

_POST = f"{GURNEE}, GPT-2 small"
_LAYER_6 = f"{LEE}, layer 6"
_HALF = 0.5
_FAR = 3  # standard deviations
_SOME = 0.1  # share of tokens
_LEAST_TOKENS = 20
_WEAK = 0.1  # correlation
_KL = ("sae", "norm_corrected", "norm_only", "random", "cosine_sae_norm", "cosine_true_norm", "gaussian_mixture", "real_mixture")
_LOCAL, _E2E, _E2E_DS = (ERRORS_KL[name] for name in ("local (Bloom)", "e2e (Braun)", "e2e+ds (Braun)"))

Test = Callable[[float, float, float], bool]


def claims(hook_point: str, tables: Path) -> list[Claim]:
    """Claims on what the errors of the runs chosen for similar CE increase do at a hook point, after position 0."""
    runs = chosen_runs(tables, hook_point)
    runs = runs[runs["run"].isin(read_columns(tables, "errors", ["run"])["run"].unique())]
    frame = tokens_of(tables, runs, ["token", "ce_sae", "ce_random", *(f"kl_{name}" for name in _KL)], "rest")
    of = runs.set_index("objective")["run"]
    return [
        *_sizes(hook_point, frame, of),
        *_baselines(hook_point, frame, of),
        *_inverted(hook_point, frame, of),
        _by_l0(hook_point, tables),
        *_single(hook_point, tables, runs, of),
        _draws(hook_point, tables, of),
        _correlates(hook_point, tables, of),
        _frequency(hook_point, frame, of),
    ]


def _tested(claim: Claim, frame: pd.DataFrame, of: pd.Series, objective: str, above: str, below: str, test: Test) -> Claim:
    """A claim on the ratio of two columns, by the test of the ratio and its bounds over rows."""
    if objective not in of.index:
        return claim.untested(f"no {LABELS[objective]} run was chosen for similar CE increase")
    value, low, high = run_ratio(frame, of[objective], above, below)
    if not np.isfinite(value):
        return claim.untested("it was not measured")
    means = frame.loc[frame["run"] == of[objective], [above, below]].astype("float64").mean()
    note = f"{means[above]:.3g} over {means[below]:.3g} nats"
    return claim.tested(bool(test(value, low, high)), value, note, ROWS, low, high)


def _above(bound: float) -> Test:
    return lambda value, low, high: (low if np.isfinite(low) else value) > bound


def _below(bound: float) -> Test:
    return lambda value, low, high: (high if np.isfinite(high) else value) < bound


def _sizes(hook_point: str, frame: pd.DataFrame, of: pd.Series) -> list[Claim]:
    """What takes the place of the activation, every position replaced."""
    residual, z = ".hook_resid_" in hook_point, hook_point.endswith("hook_z")
    published = "2.2 to 4.5" if residual else "0.9 to 1.7" if z else "above 1 (a comment, attention and MLP outputs)"
    rows = [
        ("KL of local's output over ε-random", published, _POST, "interval above 1", "kl_sae", "kl_random", _above(1)),
        ("CE increase of local's output over ε-random", "2 to 4", _POST, "interval above 1", "ce_sae", "ce_random", _above(1)),
        (
            "KL of local's output with the true norm over its output: shrinkage is not to blame",
            f"{_LOCAL[2] / _LOCAL[1]:.2f}",
            _LAYER_6,
            "interval above 0.8",
            "kl_norm_corrected",
            "kl_sae",
            _above(0.8),
        ),
        (
            "KL of the change of the norm alone over ε-random, local",
            f"{_LOCAL[4] / _LOCAL[3]:.2f}",
            _LAYER_6,
            f"interval below {_HALF}",
            "kl_norm_only",
            "kl_random",
            _below(_HALF),
        ),
        (
            "KL of a random vector at local's cosine and norm over ε-random",
            f"{_LOCAL[5] / _LOCAL[3]:.2f}",
            _LAYER_6,
            "0.67 to 1.5",
            "kl_cosine_sae_norm",
            "kl_random",
            lambda value, low, high: 1 / 1.5 <= value <= 1.5,
        ),
    ]
    return [
        _tested(Claim(hook_point, text, said, source, criterion), frame, of, "local", above, below, test)
        for text, said, source, criterion, above, below, test in rows
    ]


def _baselines(hook_point: str, frame: pd.DataFrame, of: pd.Series) -> list[Claim]:
    """Stronger baselines."""
    rows = []
    for name, text in (
        ("gaussian_mixture", "draws with the activations' covariance"),
        ("real_mixture", "other real activations"),
    ):
        claim = Claim(
            hook_point,
            f"KL of local's output over a step of its length along the difference of two {text}",
            "about 1 at layer 6, elsewhere it varies",
            LEE,
            "interval not above 1",
        )
        test: Test = lambda value, low, high: not _above(1)(value, low, high)  # noqa: E731
        rows.append(_tested(claim, frame, of, "local", "kl_sae", f"kl_{name}", test))
    return rows


def _inverted(hook_point: str, frame: pd.DataFrame, of: pd.Series) -> list[Claim]:
    """SAEs that were trained on the output."""
    rows = []
    for objective, theirs in (("e2e", _E2E), ("e2e_ds", _E2E_DS)):
        claim = Claim(
            hook_point,
            f"KL of the output of {LABELS[objective]} over ε-random",
            f"{theirs[1] / theirs[3]:.2f}",
            _LAYER_6,
            "interval below 1",
        )
        rows.append(_tested(claim, frame, of, objective, "kl_sae", "kl_random", _below(1)))
    return rows


def _by_l0(hook_point: str, tables: Path) -> Claim:
    """The ratio of local runs against their L0."""
    claim = Claim(
        hook_point,
        "KL over ε-random of the densest local run, over that of the sparsest",
        "0.59 (1.69 over 2.88)",
        _LAYER_6,
        "below 1",
    )
    runs = of_one_architecture(measured_runs(tables, chosen=False))
    runs = runs[(runs["hook_point"] == hook_point) & (runs["objective"] == "local")]
    runs = runs[runs["seed"] == runs["seed"].min()]
    frame = tokens_of(tables, runs, ["l0", "kl_sae", "kl_random"], "rest")
    order = list(frame.groupby("run")["l0"].mean().sort_values().index)
    if len(order) < 2:
        return claim.untested("fewer than two local runs of one seed")
    sparsest, densest = (run_ratio(frame, run, "kl_sae", "kl_random")[0] for run in (order[0], order[-1]))
    note = f"{densest:.2f} over {sparsest:.2f}, {len(order)} runs of one seed"
    return claim.tested(densest < sparsest, densest / sparsest, note)


def _single(hook_point: str, tables: Path, runs: pd.DataFrame, of: pd.Series) -> list[Claim]:
    """One position replaced."""
    frame = tokens_of(tables, runs, ["offset", "kl_sae", "kl_random"], table="errors_single")
    rows = []
    for offset, where in ((0, "there"), (1, "at the next position")):
        claim = Claim(hook_point, f"one position replaced: KL of local's output over ε-random {where}", "> 2", _POST, "2 or more")
        here = frame[frame["offset"] == offset]
        rows.append(_tested(claim, here, of, "local", "kl_sae", "kl_random", lambda value, low, high: value >= 2))
    return rows


def _draws(hook_point: str, tables: Path, of: pd.Series) -> Claim:
    """Many random directions for one token."""
    claim = Claim(
        hook_point,
        f"share of tokens on which local's output is more than {_FAR} standard deviations above random directions",
        "some, while many are near 0 (a figure)",
        _POST,
        f"{_SOME} or more, and as many within {_FAR - 1}",
    )
    if "local" not in of.index:
        return claim.untested("no local run was chosen for similar CE increase")
    draws = read_columns(tables, "errors_draws", ["run", "row", "draw", "kl"])
    z = z_scores(draws[draws["run"] == of["local"]])["z"].dropna()
    if len(z) < _LEAST_TOKENS:
        return claim.untested(f"fewer than {_LEAST_TOKENS} tokens were tried")
    far, near = (z > _FAR).mean(), (z.abs() <= _FAR - 1).mean()
    note = (
        f"{len(z)} tokens, z from {z.min():.1f} to {z.max():.1f}, median {z.median():.1f}; {near:.2f} of them within {_FAR - 1}"
    )
    return claim.tested(far >= _SOME and near >= _SOME, far, note)


def _correlates(hook_point: str, tables: Path, of: pd.Series) -> Claim:
    """The gap here and at other hook points."""
    claim = Claim(
        hook_point,
        "rank correlation of local's gap (SAE less ε-random) with that at other hook points, over the strongest with a value of the token",
        "above 1: the strongest",
        _POST,
        "above 1",
    )
    runs = of_one_architecture(measured_runs(tables))
    runs = runs[runs["objective"] == "local"]
    if "local" not in of.index or runs["hook_point"].nunique() < 2:
        return claim.untested("there are no local runs at several hook points")
    frame = tokens_of(tables, runs, ["kl_sae", "kl_random", *OWN], "rest")
    others = of_other_hook_points(runs, gaps(frame).corr("spearman"))[of["local"]]
    own = with_own(frame[frame["run"] == of["local"]], "spearman").loc[of["local"]].abs().dropna()
    if own.empty or not np.isfinite(others):
        return claim.untested("the gap does not vary")
    note = f"{others:.2f} on average over {runs['hook_point'].nunique() - 1} hook points; {OWN[own.idxmax()]} {own.max():.2f}"
    return claim.tested(others > own.max(), others / own.max(), note, RUNS)


def _frequency(hook_point: str, frame: pd.DataFrame, of: pd.Series) -> Claim:
    """The gap of tokens against how often they occur."""
    claim = Claim(
        hook_point,
        "rank correlation of the mean gap of a token with its frequency, local",
        "none",
        _POST,
        f"−{_WEAK} to {_WEAK}",
    )
    if "local" not in of.index:
        return claim.untested("no local run was chosen for similar CE increase")
    found = by_token(frame[frame["run"] == of["local"]])
    if found["size"].nunique() < 2:
        return claim.untested("all tokens occur equally often")
    r = found["mean"].corr(found["size"], method="spearman")
    return claim.tested(abs(r) <= _WEAK, r, f"{len(found)} tokens")
