"""The papers' recipes by name, and which settings of a run have an effect.

What an architecture or an objective brings along is read from its declarations; the rest is listed here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .architectures import ARCHITECTURES
from .objectives import OBJECTIVES, PENALTIES, penalty_of, weight_at

# Recipes of the papers, as far as they differ from the defaults of `TrainingConfig`, which are those of Braun et al.
# Sources: the papers and the code released with them.
PRESETS: dict[str, dict[str, Any]] = {
    "braun2024": {},  # arXiv 2405.12241
    "bloom2024": {  # GPT-2 small residual SAEs, February 2024, with the corrected ghost gradients
        "decoder": "renormalised",
        "pre_bias": True,
        "mse_norm": "input_norm",
        "encoder_init": "kaiming_d_sae",
        "decoder_init": "kaiming",
        "encoder_bias_init": "zero",
        "decoder_bias_init": "geometric_median",
        "statistics_tokens": 262_144,
        "dead_features": "ghost_grads",
        "dead_window_tokens": 5000 * 4096,
        "lr": 4e-4,
        "warmup_fraction": 0.068,  # 5,000 of 73,242 steps
        "schedule": "constant",
        "grad_clip": None,
    },
    "gao2024": {  # arXiv 2406.04093
        "architecture": "topk",
        "decoder": "renormalised",
        "pre_bias": True,
        "mse_norm": "variance",
        "encoder_init": "transpose",
        "decoder_init": "kaiming",
        "encoder_bias_init": "zero",
        "decoder_bias_init": "geometric_median",
        "activation_scale": "layer_norm",
        "dead_features": "auxk",
        "dead_window_tokens": 10_000_000,
        "lr": 1e-4,
        "adam_eps": 6.25e-10,
        "warmup_fraction": 0.0,
        "schedule": "constant",
        "grad_clip": 1.0,
        "weight_ema": 0.999,
    },
    "gated2024": {  # arXiv 2404.16014
        "architecture": "gated",
        "decoder": "renormalised",
        "pre_bias": True,
        "encoder_init": "transpose",
        "decoder_init": "gaussian",
        "encoder_bias_init": "zero",
        "decoder_bias_init": "zero",
        "activation_scale": "norm",
        "dead_features": "resample",
        "dead_window_tokens": 12_500 * 4096,
        "resample_warmup_tokens": 1000 * 4096,
        "lr": 3e-4,
        "adam_beta1": 0.0,
        "warmup_fraction": 0.003,  # 1,000 of 300,000 to 400,000 steps
        "schedule": "constant",
        "grad_clip": None,
    },
    "anthropic-april2024": {  # transformer-circuits.pub, April 2024 update
        "decoder": "free",
        "penalty": "l1_decoder_norm",
        "encoder_init": "transpose",
        "decoder_init": "gaussian",
        "decoder_init_norm": 0.1,
        "encoder_bias_init": "zero",
        "decoder_bias_init": "zero",
        "activation_scale": "norm",
        "dead_window_tokens": 10_000_000,
        "lr": 5e-5,
        "warmup_fraction": 0.0,
        "schedule": "linear_tail",
        "tail_fraction": 0.2,
        "final_lr_fraction": 0.0,
        "sparsity_warmup_fraction": 0.05,
        "grad_clip": 1.0,
    },
    "batchtopk2024": {  # arXiv 2412.06410
        "architecture": "batch_topk",
        "decoder": "renormalised",
        "pre_bias": True,
        "encoder_init": "transpose",
        "decoder_init": "kaiming",
        "encoder_bias_init": "zero",
        "decoder_bias_init": "zero",
        "activation_scale": "layer_norm",
        "dead_features": "auxk",
        "auxk_k": 512,
        "auxk_normalised": False,
        "dead_window_tokens": 5 * 4096,
        "lr": 3e-4,
        "adam_beta2": 0.99,
        "warmup_fraction": 0.0,
        "schedule": "constant",
        "grad_clip": None,
    },
}


# `run` maps setting to value, `objective` included.


def _penalty(run: dict[str, Any]) -> str | None:
    return penalty_of(run["architecture"], run["penalty"])


def _reconstructs_downstream(run: dict[str, Any]) -> bool:
    return bool(weight_at(run["objective"], run, "downstream"))


def _uses_mse_norm(run: dict[str, Any]) -> bool:
    """Whether an error or a penalty counts; without either, the reconstruction is only tracked."""
    return (
        bool(weight_at(run["objective"], run, "sae"))
        or OBJECTIVES[run["objective"]].balances_kl
        or _penalty(run) is not None
        or any(run[option] for option in ARCHITECTURES[run["architecture"]].adds_error)
        or run["dead_features"].startswith("ghost_grads")
    )


def _starts_afresh(run: dict[str, Any]) -> bool:
    return not OBJECTIVES[run["objective"]].starts_from_run


# When a setting has an effect; settings that are not listed always have.
_USED_IF: dict[str, Callable[[dict[str, Any]], bool]] = {
    "preset": lambda run: False,  # resolved before
    "downstream_hook_points": _reconstructs_downstream,
    "downstream_next": _reconstructs_downstream,
    "penalty": lambda run: _penalty(run) is not None,
    "sparsity_warmup_fraction": lambda run: _penalty(run) is not None,
    "mse_norm": _uses_mse_norm,
    "auxk_k": lambda run: run["dead_features"] == "auxk",
    "auxk_normalised": lambda run: run["dead_features"] == "auxk",
    "auxk_coeff": lambda run: run["dead_features"] == "auxk",
    "resample_tokens": lambda run: run["dead_features"] == "resample",
    "resample_warmup_tokens": lambda run: run["dead_features"] == "resample",
    "order": lambda run: not OBJECTIVES[run["objective"]].needs_model,  # the others read rows
    "tail_fraction": lambda run: run["schedule"] == "linear_tail",
    "final_lr_fraction": lambda run: run["schedule"] != "constant",
    "statistics_tokens": lambda run: (
        (run["decoder_bias_init"] in ("mean", "geometric_median") and _starts_afresh(run))
        or run["activation_scale"] in ("norm", "mean_square")
        or (run["mse_norm"] == "variance" and _uses_mse_norm(run))
        or run["dead_features"] == "resample"
    ),
    **dict.fromkeys(
        (
            "encoder_init",
            "decoder_init",
            "decoder_init_norm",
            "encoder_bias_init",
            "decoder_bias_init",
            "d_sae",
            "activation_scale",
        ),
        _starts_afresh,  # else given by the run that it starts from
    ),
}


# of a run that starts from another, without effect but needed to build what it loads
SIZES = {"d_sae", "activation_scale"}
# how a run gets to its result, not what that is
WITHOUT_TRACE = {"checkpoint_every"}


def settings_without_effect(objective: str, settings: dict[str, Any]) -> set[str]:
    """Keys of `settings` that a run of this objective and these settings does not use."""
    run = {"objective": objective, **settings}
    unused = {key for key, used in _USED_IF.items() if not used(run)}
    weighing = {key for other in OBJECTIVES.values() for key in other.settings}
    unused |= weighing - OBJECTIVES[objective].settings
    for kind, penalty in PENALTIES.items():
        unused |= set(penalty.settings.values()) if kind != _penalty(run) else set()
    for name, architecture in ARCHITECTURES.items():
        if name != run["architecture"]:
            unused |= architecture.options.model_fields.keys()
        elif not _starts_afresh(run):
            unused |= set(architecture.initial)
    return unused
