"""A claim of a paper and its test, and the runs that claims compare.

One rule decides every verdict. An effect is computed for each training seed apart, and its 95 % interval over the seeds is held against
the null (no effect) and, where the paper gives a number, against the published value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import optimize, stats

from .reading import architectures, read_runs, read_selection, texts
from .resampling import ENOUGH_SEEDS

REPRODUCED, WEAKER, NO_DIFFERENCE = "reproduced", "same direction, weaker", "no difference"
OPPOSITE, UNTESTED = "opposite direction", "cannot be tested"
VERDICTS = (REPRODUCED, WEAKER, NO_DIFFERENCE, OPPOSITE, UNTESTED)
OF_PAPER = ("local", "e2e", "e2e_ds")
CONFIDENCE, SURE = 0.95, 0.8

# what `low` and `high` are
SEEDS = "over seeds"
NO_SEEDS = "of this sample of tokens; rounding alone"

NOT_SIMILAR = "no runs at similar CE increase"
_ROUNDING = 1e-3  # share by which a value of the language model alone may differ between processors: far more than it does
_SHARES = (np.arange(4000) + 0.5) / 4000  # of the distribution of the estimated error
_SIMILAR = 1.5  # largest over smallest CE increase of runs that are compared as similar; the paper's differ by 1.16 at layer 6


@dataclass(frozen=True)
class Claim:
    """What a paper claims, as it is tested at one hook point. One row of the table of claims.

    Args:
        hook_point: where it is tested.
        claim: what is claimed.
        published: the published value, in words.
        source: where that is published.
        null: the value without an effect.
        target: the published value; ±inf of a claim that only says on which side of the null it is.
        ratio: whether the value is a ratio, which is averaged and compared as a logarithm.
        verdict: one of `VERDICTS`.
        note: the numbers behind ours, or why it cannot be tested.
        ours: this experiment's value; NaN where there is none.
        low: smaller end of what `interval` says; NaN where there is none.
        high: likewise of the larger end.
        interval: what `low` and `high` are.
        n_seeds: seeds behind the interval.
        power: chance that the interval of such an experiment excludes the null if the published value is true; NaN where either is missing.
        detectable: value nearest to the null that it would exclude with 80 % chance.
    """

    hook_point: str
    claim: str
    published: str
    source: str
    null: float
    target: float
    ratio: bool = False
    verdict: str = ""
    note: str = ""
    ours: float = np.nan
    low: float = np.nan
    high: float = np.nan
    interval: str = "–"
    n_seeds: int = 0
    power: float = np.nan
    detectable: float = np.nan

    @property
    def criterion(self) -> str:
        """What decides the verdict, whatever the result."""
        side = "above" if self.target > self.null else "below"
        what = "value, but for rounding," if self.interval == NO_SEEDS else "interval over seeds"
        text = f"{what} {side} {self.null:g}"
        return (
            text
            if math.isinf(self.target)
            else f"{text}, and up to {self.target:.3g}"
            if side == "above"
            else f"{text}, and down to {self.target:.3g}"
        )

    def over_seeds(self, values: Sequence[float], note: str) -> Claim:
        """The claim after a test on one value for each seed: Student's interval of their mean."""
        scaled = self._scaled(np.asarray(values, dtype=float))
        if not len(scaled) or not np.isfinite(scaled).all():
            return self.untested(f"the value is not defined for every seed; {note}")
        return self.tested(*(self._unscaled(value) for value in student_interval(scaled)), len(scaled), note)

    def tested(self, ours: float, low: float, high: float, n_seeds: int, note: str) -> Claim:
        """The claim after a test whose interval over `n_seeds` seeds is [low, high]."""
        if n_seeds < ENOUGH_SEEDS or not np.isfinite([ours, low, high]).all():
            return self.untested(f"{_seeds(n_seeds)}, an interval needs {ENOUGH_SEEDS}; {note}", ours)
        found = replace(self, ours=ours, low=low, high=high, interval=SEEDS, n_seeds=n_seeds, note=f"{_seeds(n_seeds)}; {note}")
        error = float(self._scaled(high) - self._scaled(low)) / 2 / _quantile(n_seeds)
        found = replace(found, **self._strength(error, n_seeds))
        verdict = decide(low, high, self.null, self.target)
        if verdict == UNTESTED:
            return replace(
                found, verdict=verdict, note=f"the interval holds both no effect and the published value; {found.note}"
            )
        return replace(found, verdict=verdict)

    def measured(self, value: float, note: str) -> Claim:
        """The claim after a measurement of the language model alone on one sample of tokens, in which no seed takes part.

        The range is that of rounding: how far another sample would differ is not in it.
        """
        low, high = rounded(value)
        verdict = decide(low, high, self.null, self.target)
        return replace(self, ours=float(value), low=low, high=high, verdict=verdict, note=note, interval=NO_SEEDS)

    def untested(self, why: str, ours: float = np.nan) -> Claim:
        """The claim where the runs cannot decide; `ours` is what there is."""
        return replace(self, verdict=UNTESTED, note=why.removesuffix("; "), ours=float(ours))

    def _scaled(self, value):
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.log(value) if self.ratio else value

    def _unscaled(self, value: float) -> float:
        return float(np.exp(value)) if self.ratio else float(value)

    def _strength(self, error: float, n_seeds: int) -> dict[str, float]:
        """`power` and `detectable` of an interval with this standard error, on the scale of the test."""
        effect = abs(float(self._scaled(self.target) - self._scaled(self.null))) if math.isfinite(self.target) else math.nan
        if math.isfinite(self.target) and self.ratio and self.target <= 0:
            effect = math.nan
        side = 1.0 if self.target > self.null else -1.0
        detectable = self._unscaled(float(self._scaled(self.null)) + side * error * _distance(n_seeds))
        return {"power": math.nan if math.isnan(effect) else chance(effect, error, n_seeds), "detectable": detectable}


def rounded(value: float) -> tuple[float, float]:
    """The range in which another processor may find a value of the language model alone."""
    return float(value - _ROUNDING * abs(value)), float(value + _ROUNDING * abs(value))


def student_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """`(mean, low, high)`: the 95 % interval over seeds; NaN bounds where there are fewer than three."""
    values = np.asarray(values, dtype=float)
    mean = float(values.mean())
    if len(values) < ENOUGH_SEEDS:
        return mean, math.nan, math.nan
    reach = _quantile(len(values)) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return mean, mean - reach, mean + reach


def decide(low: float, high: float, null: float, target: float) -> str:
    """The verdict on an interval [low, high]; see docs/results/plan-braun2024.md."""
    if target < null:
        low, high, null, target = -high, -low, -null, -target
    low, high = (
        null if math.isclose(end, null, rel_tol=1e-9, abs_tol=1e-9) else end for end in (low, high)
    )  # no effect but rounding
    if high < null:
        return OPPOSITE
    reaches = math.isinf(target) or high >= target or math.isclose(high, target)  # as seeds without a spread can do
    if low > null:
        return REPRODUCED if reaches else WEAKER
    return UNTESTED if reaches and not math.isinf(target) else NO_DIFFERENCE


def chance(effect: float, error: float, n_seeds: int) -> float:
    """Chance that a t interval over `n_seeds` seeds excludes zero if the mean is `effect` and its standard error `error`.

    That of the noncentral t distribution outside the quantiles, averaged over the estimate of the error: scipy's own has holes.
    """
    if error == 0:
        return float(effect > 0)
    bound = _quantile(n_seeds) * np.sqrt(stats.chi2.ppf(_SHARES, n_seeds - 1) / (n_seeds - 1))
    return float((stats.norm.cdf(effect / error - bound) + stats.norm.cdf(-effect / error - bound)).mean())


def _distance(n_seeds: int) -> float:
    """Effect over standard error at which `chance` is 80 %."""
    return float(optimize.brentq(lambda shift: chance(shift, 1.0, n_seeds) - SURE, 0.0, 30.0))


def _quantile(n_seeds: int) -> float:
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, n_seeds - 1))


def _seeds(n: int) -> str:
    return f"{n} seed{'' if n == 1 else 's'}"


def judged_on(tables: Path) -> str | None:
    """The text that decides about costs: the first of those that the runs were evaluated on, else the corpus's held-out rows (None)."""
    return next(iter(texts(tables)), None)


def of_one_architecture(runs: pd.DataFrame) -> pd.DataFrame:
    """`runs` without those of other architectures than the claims are tested on, hook point by hook point.

    That is the architecture with the most of the paper's three objectives there, and among those the one with the most runs.
    """
    kept = []
    for _, here in runs.groupby("hook_point", sort=False):
        of_paper = here[here["objective"].isin(OF_PAPER)]
        counts = of_paper.groupby("architecture")["objective"].agg(["nunique", "size"]).reindex(architectures(here)).dropna()
        chosen = counts.sort_values(["nunique", "size"], ascending=False, kind="stable").index[:1]
        kept.append(here[here["architecture"].isin(chosen)])
    return pd.concat(kept) if kept else runs


def chosen_runs(tables: Path, hook_point: str, criterion: str = "similar_ce") -> pd.DataFrame:
    """The runs chosen by a criterion at a hook point, of the architecture that the claims compare."""
    compared = of_one_architecture(read_runs(tables))["run"]
    selected = read_selection(tables, criterion)
    return selected[selected["run"].isin(compared) & (selected["hook_point"] == hook_point)]


def similar_runs(tables: Path, hook_point: str) -> pd.DataFrame:
    """The runs chosen for similar CE increase, by objective; none where their CE increases are not similar."""
    chosen = chosen_runs(tables, hook_point)
    increases = chosen.loc[chosen["objective"].isin(OF_PAPER), "ce_increase"]
    similar = increases.max() <= _SIMILAR * increases.min()
    return chosen[similar & chosen["objective"].notna()].set_index("objective")
