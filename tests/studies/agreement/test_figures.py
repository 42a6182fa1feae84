"""Table and curves of subject-verb agreement on made-up tables: they draw the tables' numbers."""

from __future__ import annotations

import numpy as np
import pytest
from tests.studies.drawing import edit, texts
from tests.studies.made_up import KEPT, with_agreement

from saeworks.studies.agreement import agreement_features, agreement_table
from saeworks.studies.agreement.settings import AgreementFeaturesFigure, AgreementTableFigure


@pytest.fixture
def tables(make_tables):
    def make(name="tables", templates=("simple", "nounpp", "within_rc"), undefined=False, **settings):
        return with_agreement(make_tables(name, **settings), templates, undefined)

    return make


def _lines(figure) -> list[list[str]]:
    """The table's lines: texts of one height, from left to right."""
    found: dict[float, list] = {}
    for text in figure.axes[0].texts:
        found.setdefault(text.get_position()[1], []).append(text)
    return [[t.get_text() for t in sorted(row, key=lambda t: t.get_position()[0])] for _, row in sorted(found.items())]


def test_the_table_has_the_model_the_runs_and_the_paper(tables):
    lines = _lines(agreement_table.draw(tables(), AgreementTableFigure()))
    assert lines[0] == ["", "simple", "across PP", "across RC", "within RC"]
    assert lines[1] == ["blocks.4.hook_resid_pre"]
    assert lines[2] == ["items", "1,000", "999", "–", "998"]
    assert lines[3] == ["model prefers right verb, %", "83.0", "83.0", "–", "83.0"]
    assert lines[4] == ["m(M) − m(∅), logits", "1.75", "1.75", "–", "1.75"]
    assert lines[5] == ["local, similar CE", "90.0", "100.0", "–", "110.0"]
    assert lines[6] == ["e2e, similar CE", "91.0", "101.0", "–", "111.0"]
    paper = lines.index(["Braun et al. 2024, GPT-2 small, layer 6"])
    assert lines[paper + 1] == ["local, similar CE", "100.6", "96.0", "79.0", "102.8"]
    assert lines[paper + 5] == ["e2e, similar L0", "101.2", "101.3", "107.0", "101.1"]
    whole = _lines(agreement_table.draw(tables("other"), AgreementTableFigure(decimals=0)))
    assert whole[5] == ["local, similar CE", "90", "100", "–", "110"]


def test_an_undefined_faithfulness_is_a_dash_and_a_message(tables):
    folder = tables(undefined=True)
    assert _lines(agreement_table.draw(folder, AgreementTableFigure()))[5] == ["local, similar CE", *"––––"]
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
