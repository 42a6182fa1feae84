"""An experiment in which every training setting has an effect on some run, and every figure something to show."""

from __future__ import annotations

import copy
from typing import Any

HOOK = "blocks.1.hook_resid_pre"
SOURCES = {"model/config.json": "{}", "model/model.safetensors": "weights", "items.jsonl": "{}", "text.txt": "text"}
_GROUPS = {
    "local": {
        "objective": "local",
        "sparsity_coeffs": [0.5],
        "seeds": [0, 1],
        "training": {"penalty": "lp", "schedule": "linear_tail", "dead_features": "resample", "activation_scale": "norm"},
    },
    "gated": {"objective": "local", "sparsity_coeffs": [0.5], "training": {"architecture": "gated", "penalty": "tanh"}},
    "jumprelu": {"objective": "local", "sparsity_coeffs": [0.5], "training": {"architecture": "jumprelu"}},
    "topk": {"objective": "e2e", "k": [4], "training": {"architecture": "topk", "dead_features": "auxk"}},
    "matryoshka": {"objective": "local", "k": [4], "training": {"architecture": "matryoshka_batch_topk"}},
    "e2e_ds": {"objective": "e2e_ds", "sparsity_coeffs": [0.1]},
    "fast": {"objective": "e2e_ds", "sparsity_coeffs": [0.1], "training": {"lr": 0.01}},
    "wide": {"objective": "e2e_ds", "sparsity_coeffs": [0.1], "training": {"d_sae": 96}},
    "short": {"objective": "e2e_ds", "sparsity_coeffs": [0.1], "training": {"n_tokens": 2048}},
    "near": {"objective": "e2e_ds", "sparsity_coeffs": [0.1], "training": {"downstream_next": 1}},
    "mixed": {"objective": "e2e_ds", "sparsity_coeffs": [0.1], "training": {"reconstruction_coeff": 0.5}},
    "finetune": {"objective": "finetune", "start_from": "local", "sparsity_coeffs": [0.5], "training": {"n_tokens": 2048}},
}


def experiment(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """The experiment file, with the dotted keys of `changes` set to other values."""
    values = {
        "experiment": "every",
        "model": {"source": "path", "name": "tiny-gpt2", "path": "model"},
        "corpus": {"source": "sampled", "n_tokens": 8192, "eval_tokens": 1024, "context": 16, "batch_rows": 256},
        "training": {"d_sae": 64, "n_tokens": 4096, "batch_tokens": 256, "lr": 3e-3, "dead_window_tokens": 1024},
        "runs": {name: {"hook_points": [HOOK], **copy.deepcopy(group)} for name, group in _GROUPS.items()},
        "studies": {
            "agreement": {"files": {"simple": "items.jsonl"}},
            "texts": {"files": {"text": "text.txt"}},
            "rates": {"choose": True},
            "spliced": {"sets": [[HOOK, "blocks.2.hook_resid_pre"]]},
            "errors": {"n_tokens": 512},
        },
    }
    for path, value in (changes or {}).items():
        *parents, last = path.split(".")
        block = values
        for key in parents:
            block = block.setdefault(key, {})
        block[last] = value
    return values
