"""Table and curves of subject-verb agreement on made-up tables: they draw the tables' numbers."""

from __future__ import annotations

import numpy as np
import pytest
from tests.studies.drawing import edit, texts
from tests.studies.made_up import HOOK, KEPT, with_agreement
from tests.studies.shown import rows

from saeworks.studies.agreement import agreement_features, agreement_table
from saeworks.studies.agreement.settings import AgreementFeaturesFigure, AgreementTable


@pytest.fixture
def tables(make_tables):
    def make(name="tables", templates=("simple", "nounpp", "within_rc"), undefined=False, **settings):
        return with_agreement(make_tables(name, **settings), templates, undefined)

    return make


def test_the_table_has_the_model_the_runs_and_the_paper(tables):
    shown = agreement_table.table(tables(), AgreementTable())
    assert list(shown.cells.columns) == ["simple", "across PP", "across RC", "within RC"]
    found = rows(shown)
    assert found[:5] == [
        [HOOK, "items", "1,000", "999", "–", "998"],
        [HOOK, "model prefers right verb, %", "83.0", "83.0", "–", "83.0"],
        [HOOK, "m(M) − m(∅), logits", "1.75", "1.75", "–", "1.75"],
        [HOOK, "local, similar CE", "90.0", "100.0", "–", "110.0"],
        [HOOK, "e2e, similar CE", "91.0", "101.0", "–", "111.0"],
    ]
    paper = [row[1:] for row in found if row[0] == "Braun et al. 2024, layer 6"]
    assert paper[0] == ["local, similar CE", "100.6", "96.0", "79.0", "102.8"]
    assert paper[4] == ["e2e, similar L0", "101.2", "101.3", "107.0", "101.1"]
    whole = rows(agreement_table.table(tables("other"), AgreementTable(decimals=0)))
    assert whole[3] == [HOOK, "local, similar CE", "90", "100", "–", "110"]


def test_an_undefined_faithfulness_is_a_dash_and_a_message(tables):
    folder = tables(undefined=True)
    assert rows(agreement_table.table(folder, AgreementTable()))[3] == [HOOK, "local, similar CE", *"––––"]
    assert "not defined" in " ".join(texts(agreement_features.draw(folder, AgreementFeaturesFigure())).split())


def test_the_curves_are_the_table_s_in_the_papers_order_of_templates(tables):
    folder = tables(templates=("within_rc", "simple"))
    edit(folder, "agreement_features", lambda t: t.sample(frac=1, random_state=0))
    simple, within = agreement_features.draw(folder, AgreementFeaturesFigure()).axes
    assert (simple.get_title(), within.get_title()) == ("simple", "within RC")
    reference, local, *_ = simple.lines
    assert set(reference.get_ydata()) == {1} and reference.get_linestyle() == ":"
    assert list(local.get_xdata()) == KEPT and local.get_ydata() == pytest.approx(np.array(KEPT) / 30)
    assert local.get_color() == "#0072B2"
