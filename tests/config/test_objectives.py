"""Objectives, penalties and errors as data: their weights, and that what they name exists."""

from __future__ import annotations

from inspect import signature

from tests.each import each
from tests.tiny_pipeline import run_spec

from saeworks import losses
from saeworks.config.objectives import (
    OBJECTIVES,
    PENALTIES,
    RECONSTRUCTION_ERRORS,
    coefficients,
    loss_functions,
    penalty_of,
    term_weights,
)
from saeworks.config.training import TrainingConfig


@each(
    "objective, changes, expected",
    [
        ("local", {}, {"out_to_in": 1.0}),
        ("local", {"reconstruction_coeff": 0.3}, {"out_to_in": 1.0}),
        ("e2e", {}, {"logits_kl": 1.0, "out_to_in": 0.0}),
        ("e2e_ds", {}, {"logits_kl": 0.5, "in_to_orig": 2.5, "out_to_in": 0.0}),
        ("finetune", {}, {"logits_kl": 0.5, "in_to_orig": 0.0, "out_to_in": 0.5}),
        ("continued", {"reconstruction_coeff": 0.3, "kl_coeff": 0.1}, {"out_to_in": 1.0}),
        ("e2e", {"kl_coeff": 0.3, "reconstruction_coeff": 0.2}, {"logits_kl": 0.3, "out_to_in": 0.2}),
        ("e2e_ds", {"kl_coeff": 0.0, "downstream_coeff": 0.05}, {"logits_kl": 0.0, "in_to_orig": 0.05, "out_to_in": 0.0}),
        (
            "finetune",
            {"kl_coeff": 0.1, "reconstruction_coeff": 0.0, "downstream_coeff": 0.05},
            {"logits_kl": 0.1, "in_to_orig": 0.05, "out_to_in": 0.0},
        ),
    ],
)
def test_weights_are_the_paper_s_unless_set(objective, changes, expected):
    spec = run_spec(objective, sparsity_coeff=4.0, auxk_coeff=0.5, **changes)
    assert coefficients(spec) == expected | {"sparsity": 4.0, "auxk": 0.5}
    assert term_weights(objective, changes) == expected  # a setting that is not there is one that is not set


def test_everything_that_is_named_exists():
    names = [term.loss for objective in OBJECTIVES.values() for term in objective.terms if term.loss]
    names += [*RECONSTRUCTION_ERRORS.values(), *(penalty.loss for penalty in PENALTIES.values())]
    assert all(callable(getattr(losses, name)) for name in names)
    for objective in OBJECTIVES.values():
        assert objective.settings <= TrainingConfig.model_fields.keys()
        assert len({term.name for term in objective.terms}) == len(objective.terms)
        assert "out_to_in" in {term.name for term in objective.terms}  # tables and logs have it for every run
    for penalty in PENALTIES.values():
        assert penalty.settings.keys() <= signature(getattr(losses, penalty.loss)).parameters.keys()
        assert set(penalty.settings.values()) <= TrainingConfig.model_fields.keys()


def test_which_objectives_need_the_model_and_which_a_run():
    assert {name for name, objective in OBJECTIVES.items() if not objective.needs_model} == {"local", "continued"}
    assert {name for name, objective in OBJECTIVES.items() if objective.starts_from_run} == {"finetune", "continued"}


def test_a_run_names_the_losses_that_it_looks_up():
    for objective, changes, expected in [
        ("local", {}, {"reconstruction_mse", "l1"}),
        ("local", {"mse_norm": "variance", "penalty": "tanh"}, {"mse_by_variance", "tanh_sparsity"}),
        ("local", {"architecture": "jumprelu"}, {"reconstruction_mse", "l0"}),
        ("e2e", {"architecture": "topk"}, {"reconstruction_mse", "logits_kl"}),
        ("e2e_ds", {"penalty": "lp"}, {"reconstruction_mse", "lp", "logits_kl", "downstream_mse"}),
    ]:
        assert set(loss_functions(run_spec(objective, **changes))) == expected


def test_the_penalty_is_the_architecture_s_default_unless_set():
    assert [penalty_of(*pair) for pair in (("relu", None), ("jumprelu", None), ("jumprelu", "l1"), ("topk", "l1"))] == [
        "l1",
        "l0",
        "l1",
        None,
    ]
