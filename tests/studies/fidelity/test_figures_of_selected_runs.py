"""Figures and tables of the selected runs: what is drawn, beside the paper's numbers, on made-up tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tests.studies.drawing import assert_nothing_clipped, edit, texts
from tests.studies.made_up import NORM, with_evaluation

from saeworks.config.training import RunSpec
from saeworks.studies.draw import drawn
from saeworks.studies.fidelity import cosines, explained_variance, norm_table, norms
from saeworks.studies.fidelity.settings import CosinesFigure, ExplainedVarianceFigure, NormsFigure, NormTableFigure
from saeworks.studies.paper import L2_RATIO, SELECTED
from saeworks.studies.reading import ARCHITECTURES
from saeworks.studies.runs import selection_table
from saeworks.studies.runs.settings import SelectionTableFigure

FIGURES = {
    "selection_table": (selection_table, SelectionTableFigure),
    "norm_table": (norm_table, NormTableFigure),
    "norms": (norms, NormsFigure),
    "cosines": (cosines, CosinesFigure),
    "explained_variance": (explained_variance, ExplainedVarianceFigure),
}
HOOKS = ("blocks.2.hook_resid_pre", "blocks.4.hook_resid_pre")


@pytest.fixture
def tables(make_tables):
    return with_evaluation(make_tables())


def lines(figure) -> list[list[str]]:
    """The cells of a table figure, line by line from the top."""
    found: dict[float, list[tuple[float, str]]] = {}
    for text in figure.axes[0].texts:
        x, y = text.get_position()
        found.setdefault(np.floor(y), []).append((x, text.get_text()))
    return [[text for _, text in sorted(found[y])] for y in sorted(found)]


@pytest.mark.parametrize("width", [5.5, 3.25])
@pytest.mark.parametrize("name", ["selection_table", "norm_table"])
def test_cells_do_not_overlap(make_tables, name, width):
    figure = drawn(
        name,
        with_evaluation(make_tables(objectives=("local",), architectures=tuple(ARCHITECTURES))),
        FIGURES[name][1](width=width),
    )
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.axes[0].texts if text.get_text()]
    assert not any(a.padded(-1).overlaps(b.padded(-1)) for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.parametrize("name", FIGURES)
def test_what_was_not_measured_is_left_out(tables, name):
    chosen = pd.read_parquet(tables / "selection.parquet").query("objective == 'e2e'")["run"].iloc[0]
    edit(tables, "fidelity", lambda t: t[(t["run"] != chosen) | (t["metric"] == "ce")])
    edit(tables, "tokens", lambda t: t[t["run"] != chosen])
    edit(tables, "runs", lambda t: t.assign(grad_norm=np.nan))
    figure = drawn(name, tables, FIGURES[name][1]())
    assert_nothing_clipped(figure)
    assert "nan" not in texts(figure)
    if "table" in name:
        assert "–" in texts(figure)
    if name in ("norms", "cosines"):
        assert "no tokens were sampled" in " ".join(texts(figure).split())


def test_the_selection_table_shows_our_runs_with_the_tolerance_and_then_the_paper_s(tables):
    metrics = pd.read_parquet(tables / "fidelity.parquet").query("positions == 'all' and layer == -1")
    values = metrics.pivot(index="run", columns="metric", values="value")
    selection = pd.read_parquet(tables / "selection.parquet")
    found = lines(selection_table.draw(tables, SelectionTableFigure()))
    assert found[0] == ["", "λ or k", "L0", "alive", "grad norm", "ΔCE (nats)"]
    starts = {row[0]: i for i, row in enumerate(found) if row[0].startswith("Similar")}
    assert len(starts) == 3
    for (title, start), (criterion, metric) in zip(
        starts.items(), [("similar_ce", "ce_increase"), ("similar_l0", "l0"), ("similar_alive", "alive_features")], strict=True
    ):
        here = selection[selection["criterion"] == criterion].set_index("objective")["run"]
        ratio = values.loc[here, metric].max() / values.loc[here, metric].min()
        assert found[start + 1][0].startswith("blocks.4.hook_resid_pre: ") and found[start + 1][0].endswith(f" {ratio:.3g}"), (
            title
        )
        for i, (objective, label, λ) in enumerate((("local", "local", 6), ("e2e", "e2e", 1.5), ("e2e_ds", "e2e+ds", 20))):
            v = values.loc[here[objective]]
            numbers = [f"{v['l0']:.1f}", f"{v['alive_features']:.0f}", "0.25", f"{v['ce_increase']:.3f}"]
            assert found[start + 2 + i] == [label, f"{λ:g}", *numbers]
    layer_6 = found.index(["Braun et al. 2024, GPT-2 small, layer 6"], starts["Similar L0 (Table 3)"])
    assert found[layer_6 + 1] == ["local", "6", "42.8", "21k", "0.13", "0.228"]
    assert found[layer_6 + 3] == ["e2e+ds", "50", "36.8", "15k", "3.27", "0.124"]
    assert found[-1] == ["Braun et al. 2024: values not published"]
    assert len(found) == 1 + 3 * (2 + 3) + 2 * 3 * 4 + 1


def test_the_selection_table_says_k_for_the_topk_family(make_tables):
    tables = with_evaluation(make_tables(architectures=("relu", "topk"), hook_points=HOOKS))
    found = lines(selection_table.draw(tables, SelectionTableFigure()))
    assert [row[1] for row in found if row[0] == "e2e, TopK"] == ["k = 32"] * 6
    assert [row[1] for row in found if row[0] == "e2e, ReLU"] == ["1.5"] * 6


def test_selected_runs_for_the_reader(tables):
    chosen = selection_table.selected(tables)
    assert chosen.groupby("criterion", sort=False).size().to_dict() == {"similar_ce": 3, "similar_l0": 3, "similar_alive": 3}
    assert {"run", "hook_point", "objective", "l0", "alive_features", "grad_norm", "ce_increase", "tolerance"} <= set(chosen)
    metrics = (
        pd.read_parquet(tables / "fidelity.parquet").query("positions == 'all' and metric == 'l0'").set_index("run")["value"]
    )
    assert chosen["l0"].tolist() == metrics[chosen["run"]].tolist()


def test_a_selection_table_needs_two_kinds_of_runs():
    def spec(objective, hook_point="blocks.1.hook_resid_pre"):
        return RunSpec(name="a", group="a", hook_point=hook_point, objective=objective, sparsity_coeff=1.0, seed=0, training={})

    applies = SelectionTableFigure.applies
    assert applies([spec("local"), spec("e2e")])
    assert not applies([spec("local"), spec("local", "blocks.2.hook_resid_pre")])


def test_the_norm_table_has_position_0_and_the_rest_apart(tables):
    found = lines(norm_table.draw(tables, NormTableFigure(decimals=3)))
    assert found[0] == ["", "position 0", "later positions"]
    ours = [("local, λ = 6", "local"), ("e2e, λ = 1.5", "e2e"), ("e2e+ds, λ = 20", "e2e_ds")]
    assert found[3:6] == [[name, "1.000", f"{NORM[objective]:.3f}"] for name, objective in ours]
    layer_2 = found.index(["Braun et al. 2024, GPT-2 small, layer 2"])
    assert found[layer_2 + 1 : layer_2 + 4] == [["local", "1.00", "0.98"], ["e2e", "0.16", "0.67"], ["e2e+ds", "0.14", "0.74"]]


def test_published_numbers_have_every_layer_and_objective():
    for table in (*SELECTED.values(), L2_RATIO):
        assert list(table) == [2, 6, 10]
        assert all(list(rows) == ["local", "e2e", "e2e_ds"] for rows in table.values())
    assert SELECTED["similar_ce"][6]["e2e_ds"] == SELECTED["similar_l0"][6]["e2e_ds"]  # the same run
    assert SELECTED["similar_ce"][10]["e2e"] == SELECTED["similar_l0"][10]["e2e"]


def test_norms_are_points_of_the_selected_runs_tokens_with_position_0_apart(tables):
    figure = norms.draw(tables, NormsFigure())
    tokens = pd.read_parquet(tables / "tokens.parquet")
    chosen = pd.read_parquet(tables / "selection.parquet").query("criterion == 'similar_ce'").set_index("objective")["run"]
    for panel, objective in zip(figure.axes, ("local", "e2e", "e2e_ds"), strict=True):
        here = tokens[tokens["run"] == chosen[objective]]
        (rest,), (first, equal) = panel.collections, panel.lines
        np.testing.assert_array_equal(rest.get_offsets(), here.query("position > 0")[["input_norm", "output_norm"]])
        np.testing.assert_array_equal(first.get_xydata(), [[30, 30]])  # 20 tokens, all alike
        assert (equal.get_xdata() == equal.get_ydata()).all()
        assert panel.get_xlim() == panel.get_ylim() and panel.get_xscale() == "linear"
        assert f"ratio {NORM[objective]:.2f}\nposition 0: 1.00" in panel.get_title()


@pytest.mark.parametrize(("outlier", "scale"), [(9.0, "linear"), (100.0, "log")])
def test_norms_are_logarithmic_where_position_0_outweighs_the_rest(make_tables, outlier, scale):
    figure = norms.draw(with_evaluation(make_tables(), outlier), NormsFigure())
    panel = figure.axes[0]
    assert panel.get_xscale() == panel.get_yscale() == scale
    assert panel.get_xlim()[1] > 30 * outlier and panel.get_xlim() == panel.get_ylim()
    assert norms.draw(with_evaluation(make_tables("b"), outlier), NormsFigure(scale="linear")).axes[0].get_xscale() == "linear"


def test_norms_of_an_output_that_is_zero_are_drawn(tables):
    edit(tables, "tokens", lambda t: t.assign(output_norm=0.0))
    for scale in ("auto", "log"):
        assert_nothing_clipped(drawn("norms", tables, NormsFigure(scale=scale)))


def test_cosines_are_a_histogram_with_mean_baseline_and_position_0(tables):
    figure = cosines.draw(tables, CosinesFigure(bins=20))
    tokens = pd.read_parquet(tables / "tokens.parquet").query("position > 0")
    chosen = pd.read_parquet(tables / "selection.parquet").query("criterion == 'similar_ce'").set_index("objective")["run"]
    low = np.floor(10 * min(tokens.loc[tokens["run"].isin(chosen), "cosine"].min(), 0.35)) / 10
    for panel, objective in zip(figure.axes, ("local", "e2e", "e2e_ds"), strict=True):
        here = tokens.loc[tokens["run"] == chosen[objective], "cosine"]
        heights, _ = np.histogram(here, 20, (low, 1))
        assert [patch.get_height() for patch in panel.patches] == pytest.approx(heights / len(here))
        assert panel.get_xlim() == (low, 1)
        places = {line.get_linestyle(): line.get_xdata()[0] for line in panel.lines}
        assert places == {":": 0.35, "--": NORM[objective], "None": 0.99}
        assert panel.get_title().endswith(f"mean {NORM[objective]:.3f}")


def test_the_axis_of_cosines_reaches_below_zero_where_they_do(tables):
    edit(tables, "tokens", lambda t: t.assign(cosine=t["cosine"] - 1.03))
    panel = cosines.draw(tables, CosinesFigure()).axes[0]
    assert -1 <= panel.get_xlim()[0] <= -0.5
    assert sum(patch.get_height() for patch in panel.patches) == pytest.approx(1)


def _lines_of(panel, colour):
    return [line for line in panel.lines if line.get_color() == colour and len(line.get_xdata())]


@pytest.mark.parametrize(("positions", "level"), [("rest", 0.5), ("all", 0.6)])
def test_explained_variance_by_both_definitions_raw_and_normalised(tables, positions, level):
    figure = explained_variance.draw(tables, ExplainedVarianceFigure(positions=positions))
    local = ExplainedVarianceFigure().colors["local"]
    for panel, shift in zip(figure.axes, (0.0, 0.1), strict=True):
        conventional, paper, swapped = _lines_of(panel, local)
        expected = level * NORM["local"] + 0.03 * np.arange(5) + shift
        assert list(conventional.get_xdata()) == list(paper.get_xdata()) == [4, 5, 6, 7, 8]
        assert list(conventional.get_ydata()) == pytest.approx(expected)
        assert list(paper.get_ydata()) == pytest.approx(expected - 0.2)
        assert (conventional.get_linestyle(), paper.get_linestyle()) == ("-", "--")
        assert list(swapped.get_xdata()) == [4] and swapped.get_linestyle() == "None"
        assert list(swapped.get_ydata()) == pytest.approx([1 - 0.5 / NORM["local"] ** 3 + shift])


def test_what_lies_below_the_axis_is_written_at_its_edge(tables):
    figure = explained_variance.draw(tables, ExplainedVarianceFigure())
    panel, e2e = figure.axes[0], ExplainedVarianceFigure().colors["e2e"]
    value = 1 - 0.5 / NORM["e2e"] ** 3
    assert value < -15 and f"{value:.3g}" in [text.get_text() for text in panel.texts]
    assert _lines_of(panel, e2e)[-1].get_ydata()[0] == -1 and -1.1 < panel.get_ylim()[0] < -1
    deeper = explained_variance.draw(tables, ExplainedVarianceFigure(lowest=-20)).axes[0]
    assert not deeper.texts or f"{value:.3g}" not in [text.get_text() for text in deeper.texts]
    assert deeper.get_ylim()[0] < value


def test_explained_variance_inside_a_block_is_not_joined_to_that_of_the_residual_stream(make_tables):
    tables = with_evaluation(make_tables(hook_points=("blocks.4.hook_mlp_out",)))
    panel = explained_variance.draw(tables, ExplainedVarianceFigure()).axes[0]
    own, later = _lines_of(panel, ExplainedVarianceFigure().colors["local"])[:2]
    assert list(own.get_xdata()) == [4] and list(later.get_xdata()) == [5, 6, 7, 8]
    assert own.get_linestyle() == "None" and later.get_linestyle() == "-"


def test_several_hook_points_have_a_row_each(make_tables):
    tables = with_evaluation(make_tables(hook_points=HOOKS))
    figure = explained_variance.draw(tables, ExplainedVarianceFigure())
    assert [len(_lines_of(panel, "#0072B2")[0].get_xdata()) for panel in figure.axes] == [7, 7, 5, 5]
    assert len(norms.draw(tables, NormsFigure()).axes) == len(cosines.draw(tables, CosinesFigure()).axes) == 6
