"""Table of norms on made-up tables: position 0 and the rest, and the paper's values."""

from __future__ import annotations

import pandas as pd
import pytest
from tests.studies.drawing import edit
from tests.studies.made_up import HOOK, NORM, with_evaluation
from tests.studies.shown import rows

from saeworks.studies.fidelity.norm_table import table
from saeworks.studies.fidelity.settings import NormTable


@pytest.fixture
def tables(make_tables):
    return with_evaluation(make_tables())


def test_position_0_and_the_rest_are_apart_and_the_paper_s_follow(tables):
    shown = table(tables, NormTable(decimals=3))
    assert list(shown.cells.columns) == ["position 0", "later positions"]
    ours = [("local, λ = 6", "local"), ("e2e, λ = 1.5", "e2e"), ("e2e+ds, λ = 20", "e2e_ds")]
    assert rows(shown)[:6] == [
        *([HOOK, name, "1.000", f"{NORM[objective]:.3f}"] for name, objective in ours),
        ["Braun et al. 2024, layer 2", "local", "1.00", "0.98"],
        ["Braun et al. 2024, layer 2", "e2e", "0.16", "0.67"],
        ["Braun et al. 2024, layer 2", "e2e+ds", "0.14", "0.74"],
    ]
    assert len(shown.cells) == 3 + 3 * 3


def test_what_was_not_measured_is_a_dash(tables):
    chosen = pd.read_parquet(tables / "selection.parquet").query("objective == 'e2e'")["run"].iloc[0]
    edit(tables, "fidelity", lambda t: t[(t["run"] != chosen) | (t["metric"] == "ce")])
    assert rows(table(tables, NormTable()))[1] == [HOOK, "e2e, λ = 1.5", "–", "–"]
