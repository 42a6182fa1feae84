"""The tables of an experiment name every run, and the runs of similar loss are found among all combinations."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from tests.tiny_pipeline import write_tokenizer

from saeworks.lm.sites import Site
from saeworks.studies.runs.measure import CRITERIA, run_record, select


def _write_run(folder, norms=((1, 9.0), (3, 8.0), (4, 2.0), (10, 5.0)), **changes):
    spec = {
        "name": folder.name,
        "group": "local",
        "hook_point": "blocks.1.hook_resid_pre",
        "objective": "local",
        "sparsity_coeff": 0.5,
        "k": None,
        "seed": 3,
        "start_from": None,
        "training": {"architecture": "relu", "lr": 5e-4, "d_sae": 9, "n_tokens": 1000, "warmup_fraction": 0.3},
    }
    spec |= changes | {"training": spec["training"] | changes.get("training", {})}
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(
        json.dumps({"spec": spec, "data": {"model": {"name": "small"}}, "tokens_seen": 960, "n_steps": 10})
    )
    log = [{"step": step, "grad_norm": norm} for step, norm in norms]
    (folder / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in log))
    (folder / "cfg.json").write_text(json.dumps({"d_in": 6, "d_sae": 9}))
    return run_record(folder.name, folder)


def test_a_run_s_record_comes_from_its_files(tmp_path):
    record = _write_run(tmp_path / "a")
    settings, family = record.pop("settings"), record.pop("family")
    record = {key: value for key, value in record.items() if not key.startswith("family_but_")}
    assert record == {
        "run": "a",
        "model": "small",
        "group": "local",
        "hook_point": "blocks.1.hook_resid_pre",
        "objective": "local",
        "architecture": "relu",
        "sparsity_coeff": 0.5,
        "k": None,
        "seed": 3,
        "layer": 1,
        "d_in": 6,
        "d_sae": 9,
        "n_tokens": 960,
        "lr": 5e-4,
        "reconstruction_coeff": 1.0,
        "downstream": "",
        "start_from": None,
        "grad_norm": 3.5,  # of the steps after the third, where the warm-up ends
    }
    assert len(settings) == len(family) == 12


def test_a_log_that_ends_in_the_warm_up_has_no_gradient_norm(tmp_path):
    assert np.isnan(_write_run(tmp_path / "a", norms=((1, 9.0), (3, 8.0)))["grad_norm"])


def test_the_layer_of_a_run_is_that_of_its_site(tmp_path):
    for case, kind in enumerate(["hook_resid_pre", "attn.hook_z", "hook_attn_out", "hook_mlp_out", "hook_resid_post"]):
        folder = tmp_path / str(case)
        folder.mkdir()
        hook_point = f"blocks.11.{kind}"
        arch = {"n_layers": 12, "d_model": 8, "n_heads": 2, "d_head": 4, "parallel": False}
        assert _write_run(folder / "a", hook_point=hook_point)["layer"] == Site.parse(hook_point, arch).layer


def test_runs_that_differ_in_their_seed_alone_have_equal_settings(tmp_path):
    first = _write_run(tmp_path / "a")["settings"]
    assert _write_run(tmp_path / "b", seed=4, group="again")["settings"] == first
    changes = [
        {"sparsity_coeff": 0.6},
        {"objective": "e2e"},
        {"hook_point": "blocks.2.hook_resid_pre"},
        {"training": {"architecture": "relu", "lr": 1.0}},
    ]
    others = [_write_run(tmp_path / f"c{i}", **change)["settings"] for i, change in enumerate(changes)]
    assert len({first, *others}) == 5


def test_a_family_differs_in_sparsity_seed_and_hook_point_alone(tmp_path):
    first = _write_run(tmp_path / "a")
    same = {"sparsity_coeff": 0.6, "seed": 4, "hook_point": "blocks.2.hook_resid_pre", "group": "again"}
    others = [{"training": {"architecture": "topk", "lr": 5e-4}}, {"objective": "e2e"}]
    second = _write_run(tmp_path / "b", **same)
    assert second["family"] == first["family"] and second["settings"] != first["settings"]
    assert first["family"] not in [_write_run(tmp_path / f"c{i}", **change)["family"] for i, change in enumerate(others)]


SWEPT_SETTINGS = {
    "lr": {"lr": 1.0},
    "d_sae": {"d_sae": 5},
    "n_tokens": {"n_tokens": 7},
    "downstream": {"downstream_next": 2},
    "reconstruction_coeff": {"reconstruction_coeff": 0.3},
}


def test_runs_of_a_sweep_differ_in_its_setting_sparsity_seed_and_hook_point_alone(tmp_path):
    for case, sweep in enumerate(SWEPT_SETTINGS):
        folder = tmp_path / str(case)
        folder.mkdir()
        base = {"objective": "e2e_ds"}
        first = _write_run(folder / "a", **base)
        free = {"sparsity_coeff": 0.6, "seed": 4, "hook_point": "blocks.2.hook_resid_pre", "group": "again"}
        second = _write_run(folder / "b", **base, **free, training=SWEPT_SETTINGS[sweep])
        own, others = f"family_but_{sweep}", [f"family_but_{key}" for key in SWEPT_SETTINGS if key != sweep]
        assert second[own] == first[own] and second["family"] != first["family"]
        assert all(second[other] != first[other] for other in others)
        third = _write_run(folder / "c", **base, training=SWEPT_SETTINGS[sweep] | {"adam_eps": 1.0})
        fourth = _write_run(folder / "d", objective="e2e", training=SWEPT_SETTINGS[sweep])
        assert len({first[own], third[own], fourth[own]}) == 3


def test_a_sweep_of_runs_that_continue_another_leaves_the_settings_of_that_one_fixed(tmp_path):
    for name, lr in {"a": 1e-3, "b": 1e-2}.items():
        _write_run(tmp_path / name, training={"lr": lr})
    same = [_write_run(tmp_path / f"a{lr}", objective="finetune", start_from="a", training={"lr": lr}) for lr in (1.0, 2.0)]
    other = _write_run(tmp_path / "b1", objective="finetune", start_from="b", training={"lr": 1.0})
    assert same[0]["family_but_lr"] == same[1]["family_but_lr"] != other["family_but_lr"]
    assert same[0]["start_from"] == "blocks.1.hook_resid_pre/a"


def test_what_is_reconstructed_and_with_what_weight(tmp_path):
    for case, (objective, training, downstream, reconstruction) in enumerate(
        [
            ("local", {"reconstruction_coeff": None}, "", 1.0),
            ("e2e", {"reconstruction_coeff": None}, "", 0.0),
            ("e2e", {"reconstruction_coeff": 0.2}, "", 0.2),
            ("e2e_ds", {"downstream_coeff": None}, "all", 0.0),
            ("e2e_ds", {"downstream_coeff": 0.0}, "", 0.0),
            ("e2e_ds", {"downstream_coeff": 5, "downstream_next": 3}, "next 3", 0.0),
            (
                "e2e_ds",
                {"downstream_hook_points": ["blocks.2.hook_mlp_out", "blocks.3.attn.hook_z"]},
                "blocks.2.hook_mlp_out, blocks.3.attn.hook_z",
                0.0,
            ),
            ("finetune", {"downstream_coeff": None}, "", 0.5),
            ("finetune", {"downstream_coeff": 1.0, "reconstruction_coeff": 0}, "all", 0.0),
        ]
    ):
        folder = tmp_path / str(case)
        folder.mkdir()
        record = _write_run(folder / "a", objective=objective, training=training)
        assert (record["downstream"], record["reconstruction_coeff"]) == (downstream, reconstruction)


def test_what_a_run_starts_from_counts_by_its_settings_and_not_by_its_seed_or_group(tmp_path):
    for name, changes in {
        "a": {},
        "b": {"seed": 4, "group": "more"},
        "c": {"sparsity_coeff": 0.6},
        "d": {"objective": "e2e"},
    }.items():
        _write_run(tmp_path / name, **changes)
    tuned = {start: _write_run(tmp_path / f"from-{start}", objective="finetune", start_from=start) for start in "abcd"}
    assert tuned["a"]["settings"] == tuned["b"]["settings"]
    assert len({tuned[start]["settings"] for start in "acd"}) == 3
    assert len({tuned[start]["family"] for start in "abc"}) == 1 != len({tuned[start]["family"] for start in "ad"})


def _runs(values: dict[tuple[str, str, str, int], float], metric: str = "ce_increase") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables `runs` and `fidelity` from (hook, objective, settings, seed) → value of `metric`; CE increases are −1 elsewhere."""
    keys = list(values)
    runs = pd.DataFrame(keys, columns=["hook_point", "objective", "settings", "seed"])
    runs["run"] = ["-".join(map(str, key)) for key in keys]
    runs["group"], runs["sparsity_coeff"], runs["architecture"] = runs["objective"], 1.0, "relu"
    runs["family"] = runs["objective"]
    rows = []
    for run, value in zip(runs["run"], values.values(), strict=True):
        rows += [(run, metric, "all", value), (run, metric, "first", 0.5), (run, "ce", "all", 0.5)]
        rows += [(run, "ce_increase", "all", -1.0)] if metric != "ce_increase" else []
    return runs, pd.DataFrame(rows, columns=["run", "metric", "positions", "value"])


def test_runs_that_differ_in_more_than_sparsity_are_not_selected():
    values = {
        ("b", "local", "x", 0): 0.2,
        ("b", "local", "small", 0): 0.25,
        ("b", "e2e", "y", 0): 0.18,
        ("b", "e2e", "mix", 0): 0.2501,
    }
    runs, fidelity = _runs(values)
    assert set(select(runs, fidelity).query("criterion == 'similar_ce'")["run"]) == {"b-local-small-0", "b-e2e-mix-0"}
    runs["family"] = runs["objective"] + (runs["settings"].isin(["small", "mix"])).astype(str)
    assert set(select(runs, fidelity).query("criterion == 'similar_ce'")["run"]) == {"b-local-x-0", "b-e2e-y-0"}


def test_the_selected_runs_are_the_closest_of_all_combinations():
    for criterion, seed in itertools.product(CRITERIA, range(5)):
        rng = np.random.default_rng(seed)
        values = {
            (hook, objective, f"{objective}{i}", s): float(rng.lognormal(-2, 1)) * (-1 if rng.random() < 0.15 else 1)
            for hook in ("blocks.1", "blocks.2")
            for objective in ("local", "e2e", "e2e_ds")
            for i in range(4)
            for s in (2, 1)
        }
        selection = select(*_runs(values, CRITERIA[criterion]))
        of_combination = ["spread", "value", "tolerance"]
        assert list(selection.columns) == [
            "criterion", "hook_point", "objective", "architecture", "run", "ce_increase", *of_combination,
        ]  # fmt: skip
        assert set(selection["criterion"]) == {criterion}
        for hook in ("blocks.1", "blocks.2"):
            usable = [
                [(key, v) for key, v in values.items() if key[0] == hook and key[1] == objective and key[3] == 1 and v > 0]
                for objective in ("local", "e2e", "e2e_ds")
            ]
            best = min(itertools.product(*usable), key=lambda c: max(v for _, v in c) / min(v for _, v in c))
            chosen = selection[selection["hook_point"] == hook]
            assert dict(zip(chosen["objective"], chosen["run"], strict=True)) == {k[1]: "-".join(map(str, k)) for k, _ in best}
            found = [v for _, v in best]
            assert sorted(chosen["value"]) == sorted(found)
            assert set(chosen["spread"]) == {max(found) - min(found)} and set(chosen["tolerance"]) == {max(found) / min(found)}
            assert (chosen["ce_increase"] == (chosen["value"] if criterion == "similar_ce" else -1)).all()


def test_each_architecture_of_an_objective_has_its_run_also_where_there_are_many():
    ce = {("b", objective, f"{i}", 0): 0.1 * (1 + i) for objective in ("local", "e2e") for i in range(60)}
    runs, fidelity = _runs(ce)
    runs["architecture"] = ["relu", "topk", "gated", "jumprelu", "batch_topk", "matryoshka_batch_topk"] * 20
    chosen = select(runs, fidelity)  # among 10¹² combinations
    assert chosen.groupby("objective")["architecture"].nunique().tolist() == [6, 6] and len(chosen) == 12
    assert (
        chosen["spread"].iloc[0] == pytest.approx(chosen["ce_increase"].max() - chosen["ce_increase"].min()) == pytest.approx(0.5)
    )
    assert chosen["ce_increase"].max() == pytest.approx(6.0)


def test_a_run_that_lowers_the_loss_or_has_none_is_left_out():
    ce = {
        ("b", "local", "l0", 0): -0.1,
        ("b", "local", "l1", 0): 9.0,
        ("b", "e2e", "e0", 0): 0.1,
        ("b", "e2e", "e1", 0): float("nan"),
    }
    assert select(*_runs(ce))["run"].tolist() == ["b-e2e-e0-0", "b-local-l1-0"]


def test_without_usable_runs_the_selection_is_empty_with_its_columns():
    selection = select(*_runs({("b", "local", "l0", 0): -0.1}))
    assert len(selection) == 0 and {"spread", "value", "tolerance"} < set(selection.columns)


def _hugging_face_model(folder):
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=64, n_positions=24, n_embd=16, n_layer=3, n_head=2, bos_token_id=0, eos_token_id=0, initializer_range=0.3
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    write_tokenizer(folder)
    return folder
