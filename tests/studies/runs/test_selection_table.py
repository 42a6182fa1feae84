"""Table of the runs that are compared, on made-up tables: ours with how similar they are, and the paper's."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tests.studies.drawing import TWO_LAYERS, edit
from tests.studies.made_up import HOOK, with_evaluation
from tests.studies.shown import rows

from saeworks.config.training import RunSpec
from saeworks.studies.runs.selection_table import selected, table
from saeworks.studies.runs.settings import SelectionTable


@pytest.fixture
def tables(make_tables):
    return with_evaluation(make_tables())


def test_it_shows_our_runs_with_their_ratio_and_then_the_paper_s(tables):
    metrics = pd.read_parquet(tables / "fidelity.parquet").query("positions == 'all' and layer == -1")
    values = metrics.pivot(index="run", columns="metric", values="value")
    selection = pd.read_parquet(tables / "selection.parquet")
    shown = table(tables, SelectionTable())
    assert list(shown.cells.columns) == ["λ or k", "L0", "alive", "grad norm", "ΔCE (nats)", "ratio"]
    found = rows(shown)
    criteria = {"similar_ce": "ce_increase", "similar_l0": "l0", "similar_alive": "alive_features"}
    for criterion, metric in criteria.items():
        here = selection[selection["criterion"] == criterion].set_index("objective")["run"]
        ratio = values.loc[here, metric].max() / values.loc[here, metric].min()
        chosen_for = {"similar_ce": "similar CE", "similar_l0": "similar L0", "similar_alive": "similar alive"}[criterion]
        for objective, label, λ in (("local", "local", 6), ("e2e", "e2e", 1.5), ("e2e_ds", "e2e+ds", 20)):
            v = values.loc[here[objective]]
            numbers = [f"{v['l0']:.1f}", f"{v['alive_features']:.0f}", "0.25", f"{v['ce_increase']:.3f}", f"{ratio:.2f}"]
            assert [chosen_for, HOOK, label, f"{λ:g}", *numbers] in found
    assert ["similar L0", "Braun et al. 2024, layer 6", "local", "6", "42.8", "21k", "0.13", "0.228", ""] in found
    assert ["similar CE", "Braun et al. 2024, layer 6", "e2e+ds", "50", "36.8", "15k", "3.27", "0.124", ""] in found
    assert len(found) == 3 * 3 + 2 * 3 * 3
    assert [row[1] for row in found[:12]] == [HOOK] * 3 + [f"Braun et al. 2024, layer {n}" for n in (2, 6, 10) for _ in range(3)]


def test_what_was_not_measured_is_a_dash(tables):
    edit(tables, "runs", lambda t: t.assign(grad_norm=np.nan))
    assert {row[6] for row in rows(table(tables, SelectionTable())) if row[1] == HOOK} == {"–"}


def test_it_says_k_for_the_topk_family(make_tables):
    tables = with_evaluation(make_tables(architectures=("relu", "topk"), hook_points=TWO_LAYERS))
    found = rows(table(tables, SelectionTable()))
    assert [row[3] for row in found if row[2] == "e2e, TopK"] == ["k = 32"] * 6
    assert [row[3] for row in found if row[2] == "e2e, ReLU"] == ["1.5"] * 6


def test_selected_runs_for_the_reader(tables):
    chosen = selected(tables)
    assert chosen.groupby("criterion", sort=False).size().to_dict() == {"similar_ce": 3, "similar_l0": 3, "similar_alive": 3}
    assert {"run", "hook_point", "objective", "l0", "alive_features", "grad_norm", "ce_increase", "tolerance"} <= set(chosen)
    metrics = pd.read_parquet(tables / "fidelity.parquet").query("positions == 'all' and metric == 'l0'")
    assert chosen["l0"].tolist() == metrics.set_index("run")["value"][chosen["run"]].tolist()


def test_it_needs_two_kinds_of_runs():
    def spec(objective, hook_point="blocks.1.hook_resid_pre"):
        return RunSpec(name="a", group="a", hook_point=hook_point, objective=objective, sparsity_coeff=1.0, seed=0, training={})

    applies = SelectionTable.applies
    assert applies([spec("local"), spec("e2e")])
    assert not applies([spec("local"), spec("local", "blocks.2.hook_resid_pre")])
