"""Table and curves of subject-verb agreement on made-up tables: they draw the tables' numbers."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from tests.studies.drawing import assert_nothing_clipped, edit, texts

from saeworks.studies.agreement import agreement_features, agreement_table
from saeworks.studies.agreement.settings import AgreementFeaturesFigure, AgreementTableFigure

FIGURES = {
    "agreement_table": (agreement_table, AgreementTableFigure),
    "agreement_features": (agreement_features, AgreementFeaturesFigure),
}
_KEPT = [0, 1, 3, 10, 30]


@pytest.mark.parametrize("width", [5.5, 3.25])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {
            "hook_points": ("blocks.2.hook_resid_pre", "blocks.4.hook_resid_pre"),
            "templates": ("simple", "nounpp", "rc", "within_rc"),
        },
        {"objectives": ("local",), "templates": ("nounpp",)},
        {"objectives": ("local", "e2e"), "architectures": ("relu", "matryoshka_batch_topk")},
        {"undefined": True},
    ],
)
@pytest.mark.parametrize("name", FIGURES)
def test_draws_without_clipping(tables, name, settings, width):
    module, config = FIGURES[name]
    figure = module.draw(tables(**settings), config(width=width))
    assert figure.get_size_inches()[0] == width
    assert_nothing_clipped(figure)


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_a_redraw_gives_equal_bytes_and_a_setting_another_picture(tables, tmp_path, name):
    folder, (module, _) = tables(), FIGURES[name]
    pictures = []
    for i, settings in enumerate([{}, {}, {"colors": {"local": "k"}}, {"width": 4}, {"height": 0.2}, {"dpi": 60}]):
        settings = settings | ({"height": 3} if "height" in settings and name == "agreement_features" else {})
        module.main(json.dumps(settings), str(folder), str(tmp_path / str(i) / name))
        pictures.append((tmp_path / str(i) / f"{name}.png").read_bytes())
    assert pictures[0] == pictures[1] and len(set(pictures)) == 5


@pytest.mark.parametrize("name", FIGURES)
def test_empty_tables_give_a_message(tables, name):
    folder, (module, config) = tables(), FIGURES[name]
    for path in folder.iterdir():
        pd.read_parquet(path).iloc[:0].to_parquet(path)
    assert texts(module.draw(folder, config())).strip()


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
    assert list(local.get_xdata()) == _KEPT and local.get_ydata() == pytest.approx(np.array(_KEPT) / 30)
    assert local.get_color() == "#0072B2"
