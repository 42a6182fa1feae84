"""Figures of sweeps: which runs share a panel and a curve, and what is drawn of them."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import rgb_to_hsv, to_rgb
from matplotlib.figure import Figure
from tests.studies.drawing import edit, legend, texts
from tests.studies.made_up import sweep_tables

from saeworks.store.errors import UserError
from saeworks.studies.sweeps import dictionary_sweep, downstream_ablation, finetune_budget, lr_sweep, mixtures, samples_sweep
from saeworks.studies.sweeps import settings as blocks
from saeworks.studies.sweeps import sweep as sweeps

SWEEPS = {
    "lr_sweep": (lr_sweep, blocks.LrSweepFigure, "lr", [1e-4, 5e-4, 1e-2], None),
    "dictionary_sweep": (dictionary_sweep, blocks.DictionarySweepFigure, "d_sae", [512, 1024, 2048], None),
    "samples_sweep": (samples_sweep, blocks.SamplesSweepFigure, "n_tokens", [102_400, 204_800], None),
    "mixtures": (mixtures, blocks.MixturesFigure, "reconstruction_coeff", [0.0, 0.1, 1.0], ["e2e", "e2e_ds"]),
    "downstream_ablation": (
        downstream_ablation,
        blocks.DownstreamAblationFigure,
        "downstream",
        ["all", "next 1", "next 10", "next 2", "blocks.7.hook_resid_pre"],
        ["e2e_ds"],
    ),
    "finetune_budget": (finetune_budget, blocks.FinetuneBudgetFigure, "n_tokens", [25_600, 51_200, 102_400], ["finetune"]),
}
TWO_LAYERS = {"hook_points": ("blocks.2.hook_resid_pre", "blocks.4.hook_resid_pre")}
ALL = ("local", "e2e", "e2e_ds", "finetune")


@pytest.fixture
def swept(make_tables):
    """A function that writes the tables of a sweep for the figure `name`."""

    def make(name: str, folder: str = "tables", **settings):
        _, _, column, values, objectives = SWEEPS[name]
        return sweep_tables(make_tables(folder, **{"objectives": ALL} | settings), column, values, objectives)

    return make


def draw(name: str, tables, **settings) -> Figure:
    module, block, *_ = SWEEPS[name]
    return module.draw(tables, block(**settings))


def test_without_a_sweep_a_message(make_tables):
    tables = make_tables(objectives=("local", "e2e", "e2e_ds"))
    for name in SWEEPS:
        assert texts(draw(name, tables)).startswith("No ")


def test_tables_without_the_columns_of_sweeps_are_one_sentence(swept):
    for name in SWEEPS:
        tables = swept(name, name)
        edit(tables, "runs", lambda t: t.drop(columns=[c for c in t.columns if c.startswith("family_but")]))
        with pytest.raises(UserError, match="no column `family_but_.*run snakemake"):
            draw(name, tables)


def test_a_row_has_a_curve_per_value_through_the_first_seed_in_the_order_of_l0(swept):
    figure = draw("lr_sweep", swept("lr_sweep", objectives=("local",), seeds=(0, 1)))
    l0, alive = figure.axes
    joined, further = l0.lines[:3], l0.lines[3:]
    for rank, (line, more) in enumerate(zip(joined, further, strict=True)):
        expected = np.array([19.44, 32.4, 54, 90])  # 90 · 0.6ⁿ
        assert line.get_xdata() == pytest.approx(expected * 1.1**rank)
        assert line.get_ydata() == pytest.approx(3 / expected * 0.8**rank)
        assert len(more.get_xdata()) == 1 and more.get_linestyle() == "None"
    assert alive.lines[0].get_xdata() == pytest.approx([540, 660, 780, 900])
    assert alive.lines[0].get_ydata() == pytest.approx(l0.lines[0].get_ydata())
    for panel in figure.axes:
        bottom, top = panel.get_ylim()
        assert bottom > top  # better is up
    assert legend(figure) == ["0.0001", "0.0005", "0.01"]
    assert figure.legends[0].get_title().get_text() == "learning rate"


def test_values_differ_in_lightness_and_marker(swept):
    figure = draw("dictionary_sweep", swept("dictionary_sweep", objectives=("e2e",), seeds=(0,)))
    lines = figure.axes[0].lines
    value = [np.mean(to_rgb(line.get_color())) for line in lines]
    assert value == sorted(value, reverse=True) and value[0] - value[-1] > 0.3
    assert len({line.get_marker() for line in lines}) == 3
    assert legend(figure) == ["512", "1,024", "2,048"]
    hues = [rgb_to_hsv(to_rgb(line.get_color()))[0] for line in lines]
    assert hues == pytest.approx([rgb_to_hsv(to_rgb("#D55E00"))[0]] * 3)


def test_only_runs_that_differ_in_nothing_else_share_a_row(swept):
    tables = swept("lr_sweep", objectives=("local", "e2e"), seeds=(0,))
    assert len(draw("lr_sweep", tables).axes) == 4
    # the highest rate of e2e has another dictionary size besides: two values stay in its row
    other = {"family_but_lr": "apart", "d_sae": 7}
    edit(
        tables,
        "runs",
        lambda t: t.assign(**{k: t[k].where((t["objective"] != "e2e") | (t["lr"] < 1e-3), v) for k, v in other.items()}),
    )
    figure = draw("lr_sweep", tables)
    assert [len(panel.lines) for panel in figure.axes] == [3, 3, 2, 2]
    # all of them do: no row
    edit(tables, "runs", lambda t: t.assign(family_but_lr=t["family_but_lr"].where(t["objective"] != "e2e", t["lr"].astype(str))))
    assert len(draw("lr_sweep", tables).axes) == 2


def test_rows_of_one_kind_at_one_place_are_named_after_their_groups(swept):
    tables = swept("lr_sweep", objectives=("local",), seeds=(0,))
    second = pd.read_parquet(tables / "runs.parquet").assign(family_but_lr="second", group="wide")
    second["run"] += "-wide"
    fidelity = pd.read_parquet(tables / "fidelity.parquet")
    edit(tables, "runs", lambda t: pd.concat([t, second], ignore_index=True))
    edit(tables, "fidelity", lambda t: pd.concat([t, fidelity.assign(run=fidelity["run"] + "-wide")], ignore_index=True))
    figure = draw("lr_sweep", tables)
    assert [panel.get_title(loc="left") for panel in figure.axes[::2]] == ["local (local)", "local (wide)"]


def test_fine_tuned_runs_are_no_sweep_of_training_tokens(make_tables):
    tables = sweep_tables(make_tables(objectives=ALL), "n_tokens", [1000, 2000], ["finetune"])
    assert texts(draw("samples_sweep", tables)).startswith("No runs differ")


def test_numbers_of_tokens_are_in_millions():
    assert [sweeps.million(n) for n in (25_600, 409_600, 409_600_000)] == ["0.0256M", "0.41M", "410M"]


def test_mixtures_show_loss_and_explained_variance_against_l0(swept):
    tables = swept("mixtures", objectives=("local", "e2e"), seeds=(0,))
    loss, explained = draw("mixtures", tables).axes
    assert [len(panel.lines) for panel in (loss, explained)] == [3, 3]
    assert loss.lines[2].get_ydata() == pytest.approx(0.4 * 3 / np.array([32.4, 54, 90]) * 0.8**2)
    assert explained.lines[0].get_ydata() == pytest.approx([0.9] * 3)
    bottom, top = explained.get_ylim()
    assert bottom < top
    assert legend(draw("mixtures", tables)) == ["0", "0.1", "1"]


def test_downstream_layers_come_in_order_and_one_run_of_each_has_its_errors(swept):
    tables = swept("downstream_ablation", objectives=("local", "e2e_ds"), seeds=(0,))
    figure = draw("downstream_ablation", tables)
    assert legend(figure) == ["next 1", "next 2", "next 10", "all later", "blocks.7.hook_resid_pre"]
    left, right = figure.axes
    assert len(right.lines) == 5 and all(list(line.get_xdata()) == [4, 5, 6, 7, 8] for line in right.lines)
    chosen = [line for line in left.lines if line.get_markeredgecolor() == "black"]
    group = sweeps.read_sweep(tables, downstream_ablation.SWEEP, ["ce_increase", "l0"])[0]
    by_value = [group.loc[group["downstream"] == value, "ce_increase"] for value in
                ["next 1", "next 2", "next 10", "all", "blocks.7.hook_resid_pre"]]  # fmt: skip
    drawn = [line.get_ydata()[0] for line in chosen]
    assert all(value in set(here) for value, here in zip(drawn, by_value, strict=True))
    assert np.ptp(drawn) == pytest.approx(min(np.ptp(combination) for combination in product(*by_value)))
    run = group[group["ce_increase"] == chosen[0].get_ydata()[0]].query("downstream == 'next 1'")["run"].item()
    errors = pd.read_parquet(tables / "fidelity.parquet").query(f"run == {run!r} and metric == 'mse' and positions == 'rest'")
    assert right.lines[0].get_ydata() == pytest.approx(errors.sort_values("layer")["value"].to_numpy())


def test_downstream_errors_that_were_not_measured_have_a_message(swept):
    tables = swept("downstream_ablation", seeds=(0,))
    edit(tables, "fidelity", lambda t: t[t["metric"] != "mse"])
    assert "not measured" in texts(draw("downstream_ablation", tables))


def test_a_budget_curve_starts_at_the_run_that_is_continued(swept):
    tables = swept("finetune_budget", objectives=("local", "e2e_ds", "finetune"), seeds=(0,))
    edit(tables, "runs", lambda t: t.assign(start_from=t["start_from"].where(~t["run"].str.contains("finetune-c[13]-"))))
    # λ = 6 alone is left, which continues local-c6-s0: its L0 is 90 · 0.6²
    figure = draw("finetune_budget", tables)
    loss, kl, mse, l0 = figure.axes
    line, start, reference = loss.lines
    assert line.get_xdata() == pytest.approx([0, 0.0256, 0.0512, 0.1024])
    tuned = 0.5 * 3 / 32.4
    assert line.get_ydata() == pytest.approx([3 / 32.4, tuned, 0.8 * tuned, 0.64 * tuned])
    assert (list(start.get_xdata()), start.get_ydata()) == ([0], pytest.approx([3 / 32.4]))
    assert reference.get_ydata() == pytest.approx([0.42 * 3 / 32.4] * 2)  # the e2e_ds run with the same L0
    assert kl.lines[0].get_ydata()[0] == pytest.approx(1.1 * 3 / 32.4)
    assert mse.lines[0].get_ydata()[0] == pytest.approx(0.05 * 1.4)  # at the SAE, all positions
    assert l0.lines[0].get_ydata() == pytest.approx(32.4 * np.array([1, 1, 1.1, 1.21]))
    assert legend(figure) == ["local, 1M tokens", "fine-tuned", "e2e+ds, 1M tokens"]


def test_a_budget_has_its_control_where_there_is_one(swept):
    tables = swept("finetune_budget", objectives=("local", "finetune", "continued"), seeds=(0,))
    edit(tables, "runs", lambda t: t[~t["run"].str.contains("finetune-c[13]-|continued-c[13]-")])
    edit(tables, "runs", lambda t: t.assign(family_but_n_tokens=t["objective"]))
    figure = draw("finetune_budget", tables)
    tuned, control, _ = figure.axes[0].lines
    assert control.get_linestyle() == ":" and control.get_ydata() == pytest.approx([3 / 32.4, 0.9 * 3 / 32.4])
    assert tuned.get_ydata()[:2] == pytest.approx([3 / 32.4, 0.5 * 3 / 32.4])
    assert legend(figure) == ["local, 1M tokens", "fine-tuned", "local continued"]


def test_the_end_to_end_run_beside_a_budget_is_the_paper_s_and_nearest_in_l0(swept):
    tables = swept("finetune_budget", seeds=(0,))
    runs = finetune_budget.read_budgets(tables)
    start = runs[runs["run"].str.endswith("local-c9-s0")].iloc[0]  # L0 = 90 · 0.6³
    assert finetune_budget.end_to_end_of(start, runs)["run"].item().endswith("e2e_ds-c50-s0")
    for change in ({"downstream": "next 1"}, {"reconstruction_coeff": 0.3}, {"d_sae": 7}, {"seed": 3}, {"architecture": "topk"}):
        other = runs.copy()
        for column, value in change.items():
            other.loc[other["run"].str.endswith("e2e_ds-c50-s0"), column] = value
        assert finetune_budget.end_to_end_of(start, other)["run"].item().endswith("e2e_ds-c20-s0")


def test_a_budget_without_its_start_or_without_e2e_ds(swept):
    tables = swept("finetune_budget", objectives=("local", "finetune"), seeds=(0,))
    assert len(draw("finetune_budget", tables).axes[0].lines) == 2 * 3
    edit(tables, "runs", lambda t: t[t["objective"] == "finetune"])
    assert texts(draw("finetune_budget", tables)).startswith("No fine-tuned run")
