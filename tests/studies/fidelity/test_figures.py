"""Pareto curves and reconstruction errors: what is drawn of the tables."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from tests.studies.drawing import edit, legend

from saeworks.config.objectives import OBJECTIVES
from saeworks.config.training import ArchitectureName, ObjectiveName
from saeworks.studies.draw import drawn
from saeworks.studies.fidelity import pareto, residual_mse
from saeworks.studies.fidelity.settings import ParetoFigure, ResidualMseFigure
from saeworks.studies.geometry import cross_seed, within_dictionary
from saeworks.studies.geometry.settings import CrossSeedFigure, WithinDictionaryFigure
from saeworks.studies.reading import ARCHITECTURES, read_runs


def test_own_settings(make_tables):
    tables = make_tables()
    assert pareto.draw(tables, ParetoFigure(x_scale="log")).axes[0].get_xscale() == "log"
    assert residual_mse.draw(tables, ResidualMseFigure(y_scale="linear")).axes[0].get_yscale() == "linear"
    assert len(within_dictionary.draw(tables, WithinDictionaryFigure(bins=7)).axes[0].patches) == 7
    assert len(cross_seed.draw(tables, CrossSeedFigure(bins=7)).axes[0].patches) == 7  # the outline is a line


def test_pareto_joins_the_first_seed_in_order_of_l0_and_inverts_the_axis(make_tables):
    figure = pareto.draw(make_tables(), ParetoFigure())
    line, further = (line for line in figure.axes[0].lines if line.get_color() == OBJECTIVES["local"].color)
    assert line.get_xdata() == pytest.approx([19.44, 32.4, 54, 90])
    assert further.get_linestyle() == "None" and len(further.get_xdata()) == 1
    bottom, top = figure.axes[0].get_ylim()
    assert bottom > top


def curves(tables: Path) -> list[int]:
    """Numbers of markers that are joined, curve by curve."""
    return [len(line.get_xdata()) for line in pareto.draw(tables, ParetoFigure()).axes[0].lines]


def test_pareto_joins_groups_of_one_family_and_no_others(make_tables):
    tables = make_tables(objectives=("local", "e2e"), seeds=(0,))
    edit(tables, "runs", lambda t: t.assign(group=["a", "a", "b", "b", "c", "c", "c"]))
    assert curves(tables) == [4, 3] and legend(pareto.draw(tables, ParetoFigure())) == ["local", "e2e"]
    edit(tables, "runs", lambda t: t.assign(family=t["group"]))
    figure = pareto.draw(tables, ParetoFigure())
    assert curves(tables) == [2, 2, 3] and legend(figure) == ["local (a)", "local (b)", "e2e"]
    styles = [(line.get_color(), line.get_marker(), line.get_linestyle()) for line in figure.axes[0].lines]
    assert styles == [("#0072B2", "o", "-"), ("#0072B2", "v", "--"), ("#D55E00", "s", "-")]


def test_pareto_of_many_families_has_room_for_its_panels(make_tables):
    tables = make_tables()
    few = drawn("pareto", tables, ParetoFigure())
    few.draw_without_rendering()
    edit(tables, "runs", lambda t: t.assign(family=t["run"], group=t["run"].str.rsplit("/").str[-1]))
    many = drawn("pareto", tables, ParetoFigure())
    many.draw_without_rendering()
    heights = [figure.axes[0].get_position().height * figure.get_figheight() for figure in (few, many)]
    assert len(legend(many)) > 8 and heights[1] > 0.9 * heights[0]


def test_pareto_of_families_apart_needs_no_group_names(make_tables):
    tables = make_tables(objectives=("e2e_ds",), hook_points=("blocks.2.hook_resid_pre", "blocks.4.hook_resid_pre"))
    edit(tables, "runs", lambda t: t.assign(group=t["hook_point"], family=t["hook_point"]))  # as in config/gpt2-small.yaml
    assert legend(pareto.draw(tables, ParetoFigure())) == ["e2e+ds", "further seeds"]


def test_architectures_are_named_where_a_figure_has_several(make_tables):
    tables = make_tables(objectives=("local", "finetune"), architectures=("topk", "relu"))
    names = ["local, ReLU", "local, TopK", "fine-tuned, ReLU", "fine-tuned, TopK"]
    assert legend(pareto.draw(tables, ParetoFigure())) == [*names, "further seeds"]
    assert legend(residual_mse.draw(tables, ResidualMseFigure())) == names
    within = [panel.get_title() for panel in within_dictionary.draw(tables, WithinDictionaryFigure()).axes]
    across = [panel.get_title() for panel in cross_seed.draw(tables, CrossSeedFigure()).axes]
    assert [title.split("\n")[:2] for title in within] == [name.split(", ") for name in names]
    chosen = ["ReLU\nλ = 6", "TopK\nk = 32", "ReLU\nλ = 3", "TopK\nk = 32"]
    assert ["\n".join(title.split("\n")[1:3]) for title in across] == chosen
    alone = make_tables("alone", objectives=("local",), architectures=("topk",))
    assert legend(pareto.draw(alone, ParetoFigure())) == ["local", "further seeds"]
    assert cross_seed.draw(alone, CrossSeedFigure()).axes[0].get_title().startswith("local, k = 32\n")


def test_runs_come_in_the_order_of_the_forward_pass_and_of_the_papers(make_tables):
    hooks = ["hook_mlp_out", "hook_resid_pre", "hook_attn_out", "attn.hook_z", "hook_resid_post"]
    tables = make_tables(
        hook_points=[f"blocks.3.{hook}" for hook in hooks] + ["blocks.10.hook_resid_pre"],
        objectives=("finetune", "e2e"), architectures=("topk", "relu"),
    )  # fmt: skip
    runs = read_runs(tables)
    order = ["hook_resid_pre", "attn.hook_z", "hook_attn_out", "hook_mlp_out", "hook_resid_post"]
    assert list(runs["hook_point"].unique()) == [f"blocks.3.{hook}" for hook in order] + ["blocks.10.hook_resid_pre"]
    here = runs[runs["hook_point"] == "blocks.3.hook_mlp_out"]
    kinds = list(dict.fromkeys(zip(here["objective"], here["architecture"], strict=True)))
    assert kinds == [("e2e", "relu"), ("e2e", "topk"), ("finetune", "relu"), ("finetune", "topk")]
    assert here.loc[here["architecture"] == "topk", "k"].tolist() == [16, 32, 32, 64] * 2


def test_the_error_at_a_site_inside_a_block_is_not_joined_to_that_of_the_residual_stream(make_tables):
    panel = residual_mse.draw(make_tables(hook_points=("blocks.4.hook_mlp_out",)), ResidualMseFigure()).axes[0]
    own, later = (line for line in panel.lines if line.get_color() == OBJECTIVES["local"].color)
    assert list(own.get_xdata()) == [4] and list(later.get_xdata()) == [5, 6, 7, 8]
    assert (own.get_linestyle(), own.get_marker(), own.get_color()) == ("None", later.get_marker(), later.get_color())


def test_residual_mse_keeps_position_0_apart(make_tables):
    rest, first = residual_mse.draw(make_tables(), ResidualMseFigure()).axes
    assert list(rest.lines[0].get_xdata()) == [4, 5, 6, 7, 8]
    assert first.lines[0].get_ydata()[0] == pytest.approx(40 * rest.lines[0].get_ydata()[0])


def test_every_objective_and_architecture_has_its_colour_and_name():
    assert set(OBJECTIVES) == set(get_args(ObjectiveName))
    assert set(ARCHITECTURES) == set(get_args(ArchitectureName))
