"""Several SAEs at once, against a pass written out block by block."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from tests.studies.tiny_experiment import LATER
from tests.tiny_pipeline import HOOK, tiny_decoder

from saeworks.lm.corpus import load_rows
from saeworks.lm.prepare import load_model
from saeworks.lm.several import in_order
from saeworks.sae.formats import load_sae
from saeworks.store.errors import UserError
from saeworks.store.files import write_json
from saeworks.studies.place import Place
from saeworks.studies.spliced.measure import _trained, evaluate_set


class Scaled:
    """In the place of an SAE: a multiple of its input."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, x):
        return x * self.factor, x


def nats(model, resid, tokens) -> float:
    logits = model.logits(resid[:, :-1]).double().log_softmax(-1)
    return -logits.gather(-1, tokens[:, 1:, None]).mean().item()


def test_a_set_is_the_pass_with_each_output_in_its_place(experiment):
    model, rows = load_model(experiment.model), np.asarray(load_rows(experiment.corpus, "eval"))
    saes = [load_sae(experiment.root / "results" / "tiny" / "saes" / at / "e2e") for at in (HOOK, LATER)]
    tokens = torch.from_numpy(rows.astype(np.int64))

    @torch.no_grad()
    def run(*spliced: int) -> float:
        resid = model.embed(tokens)
        for layer in range(model.arch.n_layers):
            for index, at in enumerate((1, 2)):
                if layer == at and index in spliced:
                    resid = saes[index](resid)[0]
            resid, _ = model.blocks(resid, layer, layer + 1)
        return nats(model, resid, tokens)

    clean, both, singles = run(), run(0, 1), [run(0), run(1)]
    found = pd.read_parquet(experiment.tables / "spliced.parquet").iloc[0]
    assert found["hook_points"] == f"{HOOK} + {LATER}" and (found["name"], found["n_saes"]) == ("e2e", 2)
    assert found["ce_increase"] == pytest.approx(both - clean, abs=1e-5)
    assert found["sum_of_single"] == pytest.approx(sum(singles) - 2 * clean, abs=1e-5)
    assert found["trained"] == "alone"
    with torch.no_grad():
        values = model.hook_values(tokens, [HOOK, LATER])
        after, _ = model.blocks(saes[0](values[HOOK])[0], 1, 2)
        read = zip(saes * 2, [*values.values(), values[HOOK], after], strict=True)
        l0 = [(sae.encode(x) > 0).sum().item() / tokens.numel() for sae, x in read]
    each = pd.read_parquet(experiment.tables / "spliced_saes.parquet")
    assert each["l0_alone"].tolist() == pytest.approx(l0[:2]) and each["l0_set"].tolist() == pytest.approx(l0[2:])
    assert each["hook_point"].tolist() == [HOOK, LATER] and l0[1] != l0[3]
    assert found["ratio"] == pytest.approx(found["ce_increase"] / found["sum_of_single"])


def test_any_hook_points_can_be_set_together_and_ones_that_change_nothing_cost_nothing():
    model = tiny_decoder(0)
    rows = np.arange(24).reshape(2, 12) % 29
    for names in (
        ["blocks.1.hook_attn_out", "blocks.1.hook_mlp_out", "blocks.2.attn.hook_z"],
        ["blocks.0.hook_resid_post", "blocks.2.hook_resid_pre", "blocks.3.hook_resid_post"],
    ):
        sites = in_order(names, model.arch, "sets.0")
        same, _ = evaluate_set(model, sites, [Scaled(1.0)] * 3, rows, 1)
        assert same["ce_increase"] == pytest.approx(0, abs=1e-6) and same["kl"] == pytest.approx(0, abs=1e-6)
        one, each = evaluate_set(model, sites, [Scaled(1.0), Scaled(0.3), Scaled(1.0)], rows, 2)
        assert [sae["ce_increase_alone"] for sae in each] == pytest.approx([0, one["sum_of_single"], 0], abs=1e-6)
        assert one["ce_increase"] == pytest.approx(one["sum_of_single"], abs=1e-5) and one["kl"] > 1e-3


def test_a_set_in_another_order_is_one_sentence():
    for names in ([LATER, HOOK], [HOOK, HOOK]):
        with pytest.raises(UserError, match=r"`sets.0` has .* which does not change it"):
            in_order(names, tiny_decoder(0).arch, "sets.0")


def test_a_set_at_which_no_run_is_is_one_sentence(experiment, tmp_path):
    from saeworks.studies import studies

    with pytest.raises(UserError, match=r"`studies.spliced.sets.0` names hook points at which no run of the same name is"):
        experiment.measure(studies()["spliced"], "", tmp_path, sets=[[HOOK, "blocks.3.hook_resid_pre"]])


def test_how_a_set_was_trained_is_read_from_its_runs(tmp_path):
    place = Place(tmp_path)
    for number, (joint, expected) in enumerate(
        [(None, "alone"), ([HOOK, LATER], "together"), ([HOOK, LATER, "blocks.3.hook_resid_pre"], "another set")]
    ):
        spec = {"name": "e2e"} | ({"spliced": dict.fromkeys(joint, 1.0)} if joint else {})
        write_json(place.folder(f"{HOOK}/{number}") / "manifest.json", {"spec": spec})
        assert _trained(place, f"{HOOK}/{number}", [LATER, HOOK]) == expected
