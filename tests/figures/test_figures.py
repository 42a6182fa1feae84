"""Figures, verdicts and the notebook on made-up tables."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import get_args

import nbformat
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from nbformat.v4 import new_code_cell, new_notebook
from tests.figures.conftest import papers_pattern

from saeworks.config.figures import CrossSeedFigure, FigureStyle, ParetoFigure, ResidualMseFigure, WithinDictionaryFigure
from saeworks.config.training import ArchitectureName, ObjectiveName
from saeworks.figures import cross_seed, notebook, pareto, residual_mse, verdicts, within_dictionary
from saeworks.figures.claims.curves import ratio_of_curves
from saeworks.figures.common import ARCHITECTURES, OBJECTIVES, read_runs, read_selection
from saeworks.store.errors import UserError

NOTEBOOK = Path(notebook.__file__).parents[2] / "notebooks" / "braun2024.ipynb"
FIGURES = {
    "pareto": (pareto, ParetoFigure),
    "residual_mse": (residual_mse, ResidualMseFigure),
    "within_dictionary": (within_dictionary, WithinDictionaryFigure),
    "cross_seed": (cross_seed, CrossSeedFigure),
}
EXPERIMENTS = {
    "usual": {},
    "three seeds, two hook points": {"hook_points": ("blocks.2.hook_resid_pre", "blocks.4.hook_resid_pre"), "seeds": (0, 1, 2)},
    "one seed, two objectives": {"seeds": (3,), "objectives": ("local", "e2e")},
    "local only": {"objectives": ("local",)},
    "fine-tuned too": {"objectives": ("local", "e2e", "e2e_ds", "finetune")},
    "three architectures, two hook points": {
        "objectives": ("local", "e2e", "finetune"),
        "architectures": ("relu", "topk", "jumprelu"),
        "hook_points": ("blocks.2.hook_resid_post", "blocks.3.attn.hook_z"),
    },
    "six architectures": {"objectives": ("local",), "architectures": tuple(ARCHITECTURES)},
}


def edit(tables: Path, name: str, change) -> None:
    path = tables / f"{name}.parquet"
    change(pd.read_parquet(path)).to_parquet(path)


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def assert_nothing_clipped(figure: Figure) -> None:
    """Everything drawn lies on the page, panels with all their labels do not overlap each other, nor the legend."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [axes.get_tightbbox(canvas.get_renderer()) for axes in figure.axes]
    boxes += [legend.get_window_extent(canvas.get_renderer()) for legend in figure.legends]
    for i, box in enumerate(boxes):
        assert box.x0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y0 >= -1 and box.y1 <= figure.bbox.y1 + 1
        assert not any(box.padded(-1).overlaps(other) for other in boxes[:i])


@pytest.mark.parametrize("width", [5.5, 3.25])
@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("name", FIGURES)
def test_draws_without_clipping(make_tables, name, experiment, width):
    module, config = FIGURES[name]
    figure = module.draw(make_tables(**EXPERIMENTS[experiment]), config(width=width))
    assert figure.get_size_inches()[0] == width
    assert_nothing_clipped(figure)


@pytest.mark.parametrize("name", FIGURES)
def test_a_redraw_gives_equal_bytes_without_date_or_version(make_tables, tmp_path, name):
    tables = make_tables()
    module, _ = FIGURES[name]
    for folder in ("first", "second"):
        module.main(json.dumps({"dpi": 80}), str(tables), str(tmp_path / folder / name))
    for kind in ("svg", "png"):
        first, second = ((tmp_path / folder / f"{name}.{kind}").read_bytes() for folder in ("first", "second"))
        assert first == second
        assert b"matplotlib.org" not in first
    assert sorted(p.name for p in (tmp_path / "first").iterdir()) == [f"{name}.png", f"{name}.svg"]


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize(
    "setting", [{"width": 4.0}, {"height": 3.0}, {"dpi": 50}, {"colors": {"local": "red", "e2e": "k", "e2e_ds": "b"}}]
)
def test_every_common_setting_changes_the_picture(make_tables, tmp_path, name, setting):
    tables = make_tables()
    module, _ = FIGURES[name]
    module.main("{}", str(tables), str(tmp_path / "plain" / name))
    module.main(json.dumps(setting), str(tables), str(tmp_path / "changed" / name))
    assert (tmp_path / "plain" / f"{name}.png").read_bytes() != (tmp_path / "changed" / f"{name}.png").read_bytes()


def test_own_settings(make_tables):
    tables = make_tables()
    assert pareto.draw(tables, ParetoFigure(x_scale="log")).axes[0].get_xscale() == "log"
    assert residual_mse.draw(tables, ResidualMseFigure(y_scale="linear")).axes[0].get_yscale() == "linear"
    assert len(within_dictionary.draw(tables, WithinDictionaryFigure(bins=7)).axes[0].patches) == 7
    assert len(cross_seed.draw(tables, CrossSeedFigure(bins=7)).axes[0].patches) == 8  # the outline is one patch


def test_pareto_joins_the_first_seed_in_order_of_l0_and_turns_the_axis_over(make_tables):
    figure = pareto.draw(make_tables(), ParetoFigure())
    line, further = figure.axes[0].lines[:2]
    assert line.get_xdata() == pytest.approx([19.44, 32.4, 54, 90])
    assert further.get_linestyle() == "None" and len(further.get_xdata()) == 1
    bottom, top = figure.axes[0].get_ylim()
    assert bottom > top


def curves(tables: Path) -> list[list[int]]:
    """Numbers of markers that are joined and not joined, curve by curve."""
    lines = [len(line.get_xdata()) for line in pareto.draw(tables, ParetoFigure()).axes[0].lines]
    return [lines[i : i + 2] for i in range(0, len(lines), 2)]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_pareto_joins_groups_of_one_family_and_no_others(make_tables):
    tables = make_tables(objectives=("local", "e2e"), seeds=(0,))
    edit(tables, "runs", lambda t: t.assign(group=["a", "a", "b", "b", "c", "c", "c"]))
    assert curves(tables) == [[4, 0], [3, 0]] and legend(pareto.draw(tables, ParetoFigure())) == ["local", "e2e"]
    edit(tables, "runs", lambda t: t.assign(family=t["group"]))
    figure = pareto.draw(tables, ParetoFigure())
    assert curves(tables) == [[2, 0], [2, 0], [3, 0]] and legend(figure) == ["local (a)", "local (b)", "e2e"]
    styles = [(line.get_color(), line.get_marker(), line.get_linestyle()) for line in figure.axes[0].lines[::2]]
    assert styles == [("#0072B2", "o", "-"), ("#0072B2", "v", "--"), ("#D55E00", "s", "-")]


def test_pareto_of_many_families_has_room_for_its_panels(make_tables):
    tables = make_tables()
    few = pareto.draw(tables, ParetoFigure())
    few.draw_without_rendering()
    edit(tables, "runs", lambda t: t.assign(family=t["run"], group=t["run"].str.rsplit("/").str[-1]))
    many = pareto.draw(tables, ParetoFigure())
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
    assert [", ".join(title.split("\n")[1].split(", ")) for title in across] == [
        "ReLU, λ = 6", "TopK, k = 32", "ReLU, λ = 3", "TopK, k = 32",
    ]  # fmt: skip
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
    own, later = panel.lines[:2]
    assert list(own.get_xdata()) == [4] and list(later.get_xdata()) == [5, 6, 7, 8]
    assert (own.get_linestyle(), own.get_marker(), own.get_color()) == ("None", later.get_marker(), later.get_color())


def test_residual_mse_keeps_position_0_apart(make_tables):
    rest, first = residual_mse.draw(make_tables(), ResidualMseFigure()).axes
    assert list(rest.lines[0].get_xdata()) == [4, 5, 6, 7, 8]
    assert first.lines[0].get_ydata()[0] == pytest.approx(40 * rest.lines[0].get_ydata()[0])
    assert (rest.lines[0].get_linestyle(), first.lines[0].get_linestyle()) == ("-", "--")


def test_histograms_sum_to_one_whatever_the_cosines(make_tables):
    tables = make_tables()
    edit(tables, "nearest", lambda t: t.assign(cosine=t["cosine"] - 0.5))
    for module, config in (FIGURES["within_dictionary"], FIGURES["cross_seed"]):
        panel = module.draw(tables, config()).axes[0]
        assert sum(patch.get_height() for patch in panel.patches if hasattr(patch, "get_height")) == pytest.approx(1)


def test_within_dictionary_shows_the_tables_mean_interval_and_baseline(make_tables):
    figure = within_dictionary.draw(make_tables(), WithinDictionaryFigure())
    panel = figure.axes[0]
    mean = np.mean([line.get_xdata()[0] for line in panel.lines if line.get_linestyle() == "--"])
    assert f"mean {mean:.3f}\n[{mean - 0.008:.3f}, {mean + 0.008:.3f}]" in panel.get_title()
    assert [line.get_xdata()[0] for line in panel.lines if line.get_linestyle() == ":"] == [0.41]


def test_cross_seed_shows_both_directions_from_the_lower_seed_whatever_the_order_in_the_table(make_tables):
    tables = make_tables()
    title = cross_seed.draw(tables, CrossSeedFigure()).axes[0].get_title()
    assert re.search(r"→ 0\.\d{3} \[.*\]\n← 0\.\d{3} \[", title) and "λ = 6" in title and "seeds 0, 1" in title

    def other_way_round(table):
        swapped = table.rename(columns={"run_a": "run_b", "run_b": "run_a"})
        return swapped.assign(direction=swapped["direction"].replace({"a_to_b": "b_to_a", "b_to_a": "a_to_b"}))

    for name in ("nearest", "geometry"):
        edit(tables, name, other_way_round)
    swapped = cross_seed.draw(tables, CrossSeedFigure()).axes[0].get_title()
    assert swapped.splitlines()[2:] == title.splitlines()[2:]


def test_cross_seed_without_pairs_says_so(make_tables):
    figure = cross_seed.draw(make_tables(seeds=(0,)), CrossSeedFigure())
    assert "No two runs differ in their seed only" in " ".join(texts(figure).split())


def test_cross_seed_ignores_pairs_that_differ_in_more_than_the_seed(make_tables):
    tables = make_tables()
    columns = ["comparison", "run_a", "run_b", "direction"]
    assert len(cross_seed.seed_pairs(tables, "nearest", columns))
    for change in (
        lambda t: t.assign(sparsity_coeff=t["sparsity_coeff"] + t["seed"]),
        lambda t: t.assign(sparsity_coeff=np.nan, k=t["seed"] + 1),
        lambda t: t.assign(architecture=t["seed"].map({0: "relu", 1: "gated"})),
    ):
        other = make_tables("other")
        edit(other, "runs", change)
        assert cross_seed.seed_pairs(other, "nearest", columns).empty


@pytest.mark.parametrize("name", FIGURES)
def test_empty_tables_give_a_message(make_tables, name):
    tables = make_tables()
    for path in tables.iterdir():
        pd.read_parquet(path).iloc[:0].to_parquet(path)
    module, config = FIGURES[name]
    assert texts(module.draw(tables, config())).strip()


def test_a_selected_run_without_alive_features_has_a_message(make_tables):
    tables = make_tables()
    for name in ("nearest", "geometry"):
        edit(tables, name, lambda t: t[~t["run_a"].str.contains("/e2e-")])
    assert "no run with two alive features" in " ".join(
        texts(within_dictionary.draw(tables, WithinDictionaryFigure()).axes[1].figure).split()
    )
    assert "one seed only" in " ".join(texts(cross_seed.draw(tables, CrossSeedFigure())).split())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: (t / "runs.parquet").unlink(), r"runs\.parquet is missing; .*dvc pull"),
        (lambda t: (t / "fidelity.parquet").write_bytes(b"no"), r"fidelity\.parquet cannot be read .*rerun"),
        (lambda t: edit(t, "fidelity", lambda f: f.drop(columns="value")), r"no column `value`"),
        (
            lambda t: edit(t, "runs", lambda r: r.assign(objective="sae")),
            r"objective `sae`; it must be one of local, e2e, e2e_ds, finetune",
        ),
        (
            lambda t: edit(t, "runs", lambda r: r.assign(architecture="vae")),
            r"architecture `vae`; it must be one of batch_topk, gated, ",
        ),
    ],
)
def test_unfit_tables_are_one_sentence(make_tables, change, message):
    tables = make_tables()
    change(tables)
    with pytest.raises(UserError, match=message) as caught:
        pareto.draw(tables, ParetoFigure())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"colors": {"locl": "red"}},
            r"`figures.pareto.colors.locl.*` is 'locl'; it must be one of local, e2e, e2e_ds, finetune",
        ),
        ({"colors": {"local": "no", "e2e": "k", "e2e_ds": "b"}}, r"`colors.local` is 'no', which is no colour"),
        ({"x_scal": "log"}, r"unknown configuration key `figures.pareto.x_scal` \(did you mean 'x_scale'"),
    ],
)
def test_unfit_settings_are_one_sentence(make_tables, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        pareto.main(json.dumps(settings), str(make_tables()), str(tmp_path / "pareto"))
    assert not (tmp_path / "pareto.png").exists()


def test_ratio_of_curves_by_hand():
    above = pd.DataFrame({"x": [0.0, 2.0], "y": [1.0, 3.0]})  # y = 1 + x
    below = pd.DataFrame({"x": [3.0, 1.0], "y": [6.0, 2.0]})  # y = 2 x
    found = ratio_of_curves(above, below, "x", "y", n_points=3)  # at 1, 1.5, 2: 2/2, 2.5/3, 3/4
    assert (found.start, found.stop) == (1, 2)
    assert (found.mean, found.low, found.high) == pytest.approx(((1 + 2.5 / 3 + 0.75) / 3, 0.75, 1))


@pytest.mark.parametrize(
    ("below", "why"),
    [
        ([(1, 1)], "two runs"),
        ([(1, 1), (1, 2)], "two runs"),
        ([(5, 1), (6, 2)], "no common range"),
        ([(0, -1), (2, 1)], "zero"),
        ([(0, np.nan), (2, 1)], "two runs"),
    ],
)
def test_ratio_of_curves_says_why_not(below, why):
    above = pd.DataFrame({"x": [0.0, 2.0], "y": [1.0, 3.0]})
    found = ratio_of_curves(above, pd.DataFrame(below, columns=["x", "y"], dtype=float), "x", "y")
    assert why in found.why and np.isnan(found.mean)


def test_curve_ratios_find_the_pattern_that_was_put_in(make_tables):
    ratios = verdicts.curve_ratios(make_tables()).set_index(["objective", "quantity"])["ratio"]
    assert ratios["e2e", "ce_at_equal_l0"] == pytest.approx(0.4)
    assert ratios["e2e_ds", "ce_at_equal_alive"] == pytest.approx(0.42)
    assert ratios["e2e", "l0_at_equal_ce"] == pytest.approx(2.5, rel=0.02)


def test_counts_of_alive_features_with_little_in_common_are_not_compared(make_tables):
    frame = pd.DataFrame({"alive_features": [100.0, 200.0], "l0": [100.0, 200.0], "ce_increase": [0.2, 0.1]})
    shifted = frame.assign(alive_features=[181.0, 300.0], l0=[181.0, 300.0])
    assert (
        ratio_of_curves(frame, shifted, "alive_features", "ce_increase").why == "less than a fifth of a curve's range is common"
    )
    assert not ratio_of_curves(frame, shifted, "l0", "ce_increase").why
    shifted["alive_features"] -= 5
    assert not ratio_of_curves(frame, shifted, "alive_features", "ce_increase").why


def test_claims_on_the_papers_pattern_and_on_its_opposite(make_tables):
    tables = papers_pattern(make_tables())
    found = verdicts.claims(tables)
    assert set(found["verdict"]) == {verdicts.REPRODUCED}
    edit(tables, "runs", lambda t: t.assign(objective=t["objective"].replace({"local": "e2e", "e2e": "local"})))
    swapped = verdicts.claims(tables).set_index("claim")["verdict"]
    of_two = [claim for claim in swapped.index if "+ds" not in claim and "within an objective" not in claim]
    assert (swapped[of_two] == verdicts.NOT_REPRODUCED).all()


def test_within_difference_is_read_in_either_order(make_tables):
    tables = make_tables()
    rows = ["ours", "low", "high"]
    expected = verdicts.claims(tables).set_index("claim").filter(like="within", axis=0)[rows]

    def other_way_round(table):
        difference = table["comparison"] == "within_difference"
        swapped = table[difference].rename(columns={"run_a": "run_b", "run_b": "run_a"})
        swapped = swapped.assign(value=-swapped["value"], ci_low=-swapped["ci_high"], ci_high=-swapped["ci_low"])
        return pd.concat([table[~difference], swapped[table.columns]])

    edit(tables, "geometry", other_way_round)
    found = verdicts.claims(tables).set_index("claim").filter(like="within", axis=0)[rows]
    pd.testing.assert_frame_equal(found, expected)


def test_a_nan_is_no_result(make_tables):
    tables = make_tables()
    edit(tables, "geometry", lambda t: t.assign(value=np.nan, ci_low=np.nan, ci_high=np.nan))
    edit(tables, "nearest", lambda t: t.assign(cosine=-np.inf))
    found = verdicts.claims(tables).set_index("claim")["verdict"]
    assert (found.filter(like="nearest cosine") == verdicts.UNTESTED).all()
    assert "no run with two alive features" in " ".join(texts(within_dictionary.draw(tables, WithinDictionaryFigure())).split())
    assert "No two runs" in texts(cross_seed.draw(tables, CrossSeedFigure()))


def test_selected_comparisons_leave_the_others_out(make_tables):
    tables = make_tables()
    other = "blocks.4.hook_resid_pre/local-c1-s0"
    edit(tables, "geometry", lambda t: pd.concat([t, t[t["comparison"] == "cross_objective"].assign(run_a=other)]))
    assert len(verdicts.geometry_table(tables, "cross_objective", selected=True)) == 9
    assert len(verdicts.geometry_table(tables, "cross_objective")) == 18


@pytest.mark.parametrize("settings", [{"objectives": ("local",)}, {"objectives": ("e2e", "e2e_ds"), "seeds": (0,)}])
def test_what_is_missing_cannot_be_tested(make_tables, settings):
    found = verdicts.claims(make_tables(**settings)).set_index("claim")
    assert found.loc["CE increase of e2e over local at equal L0", "verdict"] == verdicts.UNTESTED
    assert found.loc["within-dictionary nearest cosine, local − e2e", "verdict"] == verdicts.UNTESTED
    assert (found.loc[found["verdict"] == verdicts.UNTESTED, "note"] != "").all()
    assert not verdicts.readable(found.reset_index()).empty


def test_tables_for_the_reader(make_tables):
    tables = make_tables()
    runs = verdicts.run_table(tables)
    assert list(runs["objective"].unique()) == ["local", "e2e", "e2e+ds"]
    assert (runs["similar CE"] == "yes").sum() == len(read_selection(tables)) == 3
    assert list(verdicts.geometry_table(tables, "cross_seed")["direction"].unique()) == ["→", "←", "mean of → and ←"]
    assert verdicts.setting_table(tables)["runs"].sum() == len(runs)


def test_claims_compare_the_objectives_of_one_architecture(make_tables):
    relu = verdicts.claims(make_tables())
    mixed = make_tables("mixed", objectives=OBJECTIVES, architectures=("relu", "topk"))
    edit(mixed, "runs", lambda t: t[~((t["architecture"] == "topk") & (t["objective"] == "e2e_ds"))])
    found = verdicts.claims(mixed)
    assert found["note"].str.endswith("; ReLU SAEs").all()
    frontier = ["claim", "ours", "low", "high", "verdict"]
    pd.testing.assert_frame_equal(found.loc[:5, frontier], relu.loc[:5, frontier])
    edit(mixed, "runs", lambda t: t[~((t["architecture"] == "relu") & t["objective"].isin(["e2e", "e2e_ds"]))])
    found = verdicts.claims(mixed).set_index("claim")
    assert found["note"].str.endswith("; TopK SAEs").all()
    assert found.loc["CE increase of e2e over local at equal L0", "ours"] == pytest.approx(0.4)
    assert found.loc["CE increase of e2e+ds over local at equal L0", "verdict"] == verdicts.UNTESTED


def test_tables_for_the_reader_of_several_architectures(make_tables):
    tables = make_tables(objectives=OBJECTIVES, architectures=("relu", "topk"))
    runs = verdicts.run_table(tables)
    assert list(runs.columns[:7]) == ["hook point", "objective", "architecture", "group", "λ", "k", "seed"]
    assert runs.iloc[0, 4:6].tolist() == ["1", "–"]
    assert runs[runs["architecture"] == "TopK"].iloc[0, 4:6].tolist() == ["–", "16"]
    labels = set(verdicts.geometry_table(tables, "within")["run"])
    assert {"local, ReLU, λ = 6, seed 0", "fine-tuned, TopK, k = 32, seed 1"} <= labels
    only = verdicts.run_table(make_tables("only", objectives=("local",), architectures=("topk",)))
    assert list(only.columns[:5]) == ["hook point", "objective", "group", "k", "seed"]


@pytest.fixture
def workplace(make_tables, tmp_path, monkeypatch):
    """A working directory with tables and figures."""
    make_tables()
    for name, (module, _) in FIGURES.items():
        module.main('{"dpi": 60}', str(tmp_path / "tables"), str(tmp_path / "figures" / name))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_notebook_runs_to_equal_bytes_and_holds_no_trace_of_the_place(workplace):
    main = notebook.run_notebook
    main(str(NOTEBOOK), "tables", "figures", "made-up", "first/n.ipynb", "first/n.html")
    main(str(NOTEBOOK), str(workplace / "tables"), str(workplace / "figures"), "made-up", "second/n.ipynb", "second/n.html")
    for name in ("n.ipynb", "n.html"):
        first, second = (Path(folder, name).read_text() for folder in ("first", "second"))
        assert first == second
        assert str(workplace) not in first and str(NOTEBOOK.parent) not in first and os.path.expanduser("~/") not in first
    html = Path("first/n.html").read_text()
    assert len(re.findall('<img alt="[^"]{30,}" src="data:image/png;base64,', html)) == 4
    assert "<script" not in html and "<link" not in html
    assert "20 reproduced, 3 not reproduced, 2 cannot be tested" in html
    executed = nbformat.read("first/n.ipynb", 4)
    outputs = [output.get("data", {}) for cell in executed.cells for output in cell.get("outputs", [])]
    links = [re.search('src="([^"]*)"', data["text/html"])[1] for data in outputs if "<img" in data.get("text/html", "")]
    assert len(links) == 4 and all(Path("first", link).is_file() for link in links)
    assert "image/png" not in Path("first/n.ipynb").read_text()
    assert not any("papermill" in cell.metadata or "execution" in cell.metadata for cell in executed.cells)
    assert all(
        output.output_type != "error" and output.get("name") != "stderr"
        for c in executed.cells
        for output in c.get("outputs", [])
    )


def test_notebook_without_seed_pairs_or_e2e_ds(workplace, make_tables):
    make_tables("fewer", seeds=(0,), objectives=("local", "e2e"))
    notebook.run_notebook(str(NOTEBOOK), "fewer", "figures", "fewer", "n.ipynb", "n.html")
    assert "No such runs in this experiment" in Path("n.html").read_text()


def test_notebook_with_all_objectives_and_architectures(workplace, make_tables):
    make_tables("more", objectives=OBJECTIVES, architectures=tuple(ARCHITECTURES), hook_points=("blocks.4.hook_mlp_out",))
    notebook.run_notebook(str(NOTEBOOK), "more", "figures", "more", "n.ipynb", "n.html")
    html = Path("n.html").read_text()
    assert "fine-tuned, Matryoshka, k = 32, seed 1" in html and "λ = nan" not in html


def test_notebooks_that_run_at_once_do_not_meet(workplace):
    code = "import sys; from saeworks.figures.notebook import run_notebook; run_notebook(*sys.argv[1:])"
    paths = os.environ | {"PYTHONPATH": str(NOTEBOOK.parents[1])}
    jobs = []
    for folder in ("a", "b"):
        arguments = [str(NOTEBOOK), "tables", "figures", "made-up", f"{folder}/n.ipynb", f"{folder}/n.html"]
        jobs.append(subprocess.Popen([sys.executable, "-c", code, *arguments], env=paths))
    assert [job.wait() for job in jobs] == [0, 0]
    assert Path("a/n.html").read_bytes() == Path("b/n.html").read_bytes()
    assert sorted(path.name for path in Path().iterdir()) == ["a", "b", "figures", "tables"]


def test_notebook_runs_where_socket_files_cannot_be(workplace, monkeypatch):
    deep = workplace / ("deep" * 30)  # the path of a socket file has at most 107 characters
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    notebook.run_notebook(str(NOTEBOOK), "tables", "figures", "made-up", "n.ipynb", "n.html")
    assert Path("n.html").exists() and not list(deep.iterdir())


def test_a_failing_cell_is_one_sentence_and_leaves_nothing(workplace):
    cells = [
        new_code_cell("tables = ''", metadata={"tags": ["parameters"]}),
        new_code_cell("raise ValueError('no\\nsuch thing')"),
    ]
    nbformat.write(new_notebook(cells=cells), "bad.ipynb")
    with pytest.raises(UserError, match="notebook bad.ipynb failed in cell 3: ValueError: no such thing"):
        notebook.run_notebook("bad.ipynb", "tables", "figures", "made-up", "n.ipynb", "n.html")
    assert not Path("n.ipynb").exists() and not Path("n.html").exists()


def test_a_missing_folder_is_one_sentence(workplace):
    with pytest.raises(UserError, match="nowhere is missing"):
        notebook.run_notebook(str(NOTEBOOK), "nowhere", "figures", "made-up", "n.ipynb", "n.html")


def test_the_notebook_in_the_repository_has_no_outputs():
    source = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(source)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in source.cells)


def test_every_objective_and_architecture_has_its_colour_and_name():
    assert set(FigureStyle().colors) == set(OBJECTIVES) == set(get_args(ObjectiveName))
    assert set(ARCHITECTURES) == set(get_args(ArchitectureName))
