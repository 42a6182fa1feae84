"""Which figures an experiment has something to show for."""

from __future__ import annotations

from pathlib import Path

import yaml
from tests.each import each

from saeworks.config.experiment import parse_experiment

CONFIGS = Path(__file__).resolve().parents[2] / "config"
OF_SWEEPS = {
    "lr_sweep",
    "dictionary_sweep",
    "samples_sweep",
    "downstream_ablation",
    "finetune_budget",
    "mixtures",
}
OF_RUNS = OF_SWEEPS | {"cross_objective", "within_by_run", "seed_pairs", "wall_clock"}


def wanted(*groups: dict, training: dict | None = None) -> set[str]:
    """Those of the figures that show runs for an experiment of run groups, `sparsity_coeffs: [1]` at one hook point by default."""
    usual = {"objective": "local", "hook_points": ["blocks.1.hook_resid_pre"], "sparsity_coeffs": [1]}
    runs = {f"group{i}": usual | group for i, group in enumerate(groups)}
    model = {"source": "own", "name": "novels-1m"}
    experiment = parse_experiment({"experiment": "test", "model": model, "training": training or {}, "runs": runs})
    return OF_RUNS & set(experiment.figure_names())


@each(
    "groups, more",
    [
        ([{"sparsity_coeffs": [1, 2]}], set()),
        ([{}, {"objective": "e2e"}], {"cross_objective"}),
        ([{}, {"objective": "e2e", "hook_points": ["blocks.2.hook_resid_pre"]}], set()),
        ([{"objective": "e2e"}, {"objective": "e2e_ds"}], set()),
        ([{"seeds": [0, 1]}], {"seed_pairs"}),
        ([{"sparsity_coeffs": [1, 2]}, {"sparsity_coeffs": [2], "seeds": [3]}], {"seed_pairs"}),
        ([{"sparsity_coeffs": [1]}, {"sparsity_coeffs": [2], "seeds": [3]}], set()),
        ([{}, {"training": {"lr": 1.0e-2}}], {"lr_sweep"}),
        ([{}, {"sparsity_coeffs": [2], "seeds": [1], "training": {"lr": 1.0e-2}}], {"lr_sweep"}),
        ([{}, {"training": {"lr": 1.0e-2, "adam_beta1": 0.5}}], set()),
        ([{}, {"objective": "e2e", "training": {"lr": 1.0e-2}}], {"cross_objective"}),
        ([{}, {"hook_points": ["blocks.2.hook_resid_pre"], "training": {"lr": 1.0e-2}}], set()),
        ([{}, {"training": {"d_sae": 512}}], {"dictionary_sweep"}),
        ([{}, {"training": {"n_tokens": 20_480}}], {"samples_sweep"}),
        ([{}, {"objective": "finetune", "start_from": "group0"}], {"cross_objective", "finetune_budget"}),
        (
            [{}, *({"objective": "finetune", "start_from": "group0", "training": {"n_tokens": n}} for n in (2048, 4096))],
            {"cross_objective", "finetune_budget"},
        ),
        ([{"objective": "e2e_ds"}, {"objective": "e2e_ds", "training": {"downstream_next": 1}}], {"downstream_ablation"}),
        (
            [
                {"objective": "e2e_ds", "training": {"downstream_hook_points": ["blocks.4.hook_resid_pre"]}},
                {"objective": "e2e_ds", "training": {"downstream_next": 1}},
            ],
            {"downstream_ablation"},
        ),
        ([{"objective": "e2e"}, {"objective": "e2e", "training": {"reconstruction_coeff": 0.5}}], {"mixtures"}),
    ],
)
def test_a_figure_is_drawn_where_its_runs_exist(groups, more):
    assert wanted(*groups) == {"within_by_run", "wall_clock"} | more


def test_the_sweeps_have_every_figure_of_sweeps():
    experiment = parse_experiment(yaml.safe_load((CONFIGS / "sweeps.yaml").read_text()))
    assert set(experiment.figure_names()) == OF_SWEEPS | {"seed_pairs"}
    default = parse_experiment(yaml.safe_load((CONFIGS / "config.yaml").read_text()))
    assert not OF_SWEEPS & set(default.figure_names())
    assert (experiment.model, experiment.corpus, experiment.activations) == (default.model, default.corpus, default.activations)
