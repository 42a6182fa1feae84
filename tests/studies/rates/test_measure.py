"""The learning rate that is chosen is that of the lowest line, and the configuration has the rates that were chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from saeworks.studies.rates.measure import compare

ROOT = Path(__file__).resolve().parents[3]
CHOSEN = ROOT / "results" / "tuning" / "tables" / "rates.parquet"


def runs_of(
    intercepts: dict[float, float], l0: dict[float, tuple[float, float]], slope: float = -1.2, objective: str = "e2e"
) -> pd.DataFrame:
    """Two runs for each rate on a line of its own: log ΔCE = intercept + slope · log L0."""
    rows = [(rate, x, np.exp(a) * x**slope) for rate, a in intercepts.items() for x in l0[rate]]
    runs = pd.DataFrame(rows, columns=["lr", "l0", "ce_increase"])
    return runs.assign(hook_point="here", objective=objective, architecture="relu", family_but_lr=objective)


def test_parallel_lines_are_compared_at_the_mean_l0_of_all_though_no_two_rates_share_any():
    intercepts = {1e-3: 0.3, 3e-3: 0.0, 1e-2: 0.5}
    l0 = {1e-3: (30.0, 10.0), 3e-3: (9.0, 3.0), 1e-2: (25.0, 5.0)}
    found = compare(runs_of(intercepts, l0)).set_index("lr")
    middle = np.exp(np.mean(np.log([x for pair in l0.values() for x in pair])))
    assert found["l0"].tolist() == pytest.approx([middle] * 3)
    assert found["ce_increase"].tolist() == pytest.approx([np.exp(a) * middle**-1.2 for a in intercepts.values()])
    assert found["excess"].tolist() == pytest.approx(np.exp([0.3, 0.0, 0.5]))
    assert found.index[found["chosen"]].tolist() == [3e-3] and not found["at_edge"].any()


def test_a_rate_at_the_edge_is_named_and_equal_rates_give_the_lower():
    l0 = dict.fromkeys((1e-3, 3e-3), (20.0, 5.0))
    found = compare(runs_of({1e-3: 0.1, 3e-3: 0.0}, l0))
    assert found.loc[found["chosen"], ["lr", "at_edge"]].to_numpy().tolist() == [[3e-3, True]]
    found = compare(runs_of({1e-3: 0.0, 3e-3: 0.0}, l0).round(12))
    assert found.loc[found["chosen"], "lr"].tolist() == [1e-3]


def test_each_objective_is_compared_with_itself_and_one_rate_or_one_sparsity_decides_nothing():
    l0 = dict.fromkeys((1e-3, 3e-3), (20.0, 5.0))
    both = pd.concat([runs_of({1e-3: 0.0, 3e-3: 0.5}, l0), runs_of({1e-3: 5.0, 3e-3: 4.0}, l0, -0.5, "local")])
    found = compare(both)
    assert dict(found.loc[found["chosen"], ["objective", "lr"]].to_numpy().tolist()) == {"e2e": 1e-3, "local": 3e-3}
    assert compare(runs_of({1e-3: 0.0}, l0)).empty
    assert compare(runs_of({1e-3: 0.0, 3e-3: 0.5}, dict.fromkeys(l0, (20.0, 20.0)))).empty
    without = both.assign(ce_increase=both["ce_increase"].where(both["objective"] == "local", -0.1))
    assert set(compare(without)["objective"]) == {"local"}


def rates_of(path: Path) -> set[tuple[str, float]]:
    values = yaml.safe_load(path.read_text())
    groups = [group for group in values["runs"].values() if group["objective"] in ("local", "e2e", "e2e_ds")]
    return {(group["objective"], float(group["training"]["lr"])) for group in groups}


def test_all_files_of_the_experiment_have_one_rate_for_each_objective():
    rates = {path.name: rates_of(path) for path in (ROOT / "config").glob("braun2024*.yaml")}
    assert len(rates) == 7 and len(set().union(*rates.values())) <= 3


@pytest.mark.skipif(not CHOSEN.exists(), reason="the tables of experiment `tuning` are not here: `dvc pull`")
def test_the_rates_are_those_that_the_algorithm_chooses_from_the_stored_tables():
    rates = pd.read_parquet(CHOSEN)
    chosen = rates[rates["chosen"]]
    assert len(chosen) == 3 and not chosen["at_edge"].any()
    tables = CHOSEN.parent
    fidelity = pd.read_parquet(tables / "fidelity.parquet").query(
        "positions == 'all' and layer == -1 and metric in ['l0', 'ce_increase']"
    )
    runs = pd.read_parquet(tables / "runs.parquet").merge(
        fidelity.pivot(index="run", columns="metric", values="value"), left_on="run", right_index=True
    )
    pd.testing.assert_frame_equal(compare(runs), rates)
    assert rates_of(ROOT / "config" / "braun2024.yaml") == {(row.objective, row.lr) for row in chosen.itertuples()}
