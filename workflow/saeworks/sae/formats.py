"""Saving and loading SAEs in SAELens' layout: `cfg.json` and `sae_weights.safetensors` (format notes: SAELens 6)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..store.errors import UserError
from ..store.files import read_json, write_json, write_tensors
from .relu import ReluSAE

_LAYOUT = {
    "architecture": ReluSAE.architecture,
    "apply_b_dec_to_input": False,
    "normalize_activations": "none",
    "reshape_activations": "none",
}
_NORM_TOLERANCE = 1e-2  # rows normalised in 16 bit are off by less
_SHAPES = {"W_enc": ("d_in", "d_sae"), "b_enc": ("d_sae",), "W_dec": ("d_sae", "d_in"), "b_dec": ("d_in",)}


def save_sae(sae: ReluSAE, folder: Path, metadata: dict[str, Any]) -> None:
    """Write the SAE with its decoder normalised (which the forward pass does anyway) and `metadata` in `cfg.json`.

    `metadata` takes provenance and SAELens' own keys such as `hook_name` and `prepend_bos`.
    """
    weights = {name: getattr(sae, name).detach().float().cpu().contiguous() for name in _SHAPES}
    weights["W_dec"] = sae.dictionary().detach().float().cpu().contiguous()
    write_tensors(folder / "sae_weights.safetensors", weights)
    config = {
        **_LAYOUT,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        # without a version of at least 6.0.0 here SAELens reads the file as an old one and loses the rest
        "metadata": {"sae_lens_version": "6.0.0", **metadata},
    }
    write_json(folder / "cfg.json", config)


def load_sae(folder: Path, device: str = "cpu") -> ReluSAE:
    """The SAE saved in `folder`.

    Raises:
        UserError: a file is missing or damaged, or the SAE computes something else than `ReluSAE`.
    """
    config = read_json(folder / "cfg.json")
    for key, expected in _LAYOUT.items():
        if (value := config.get(key, expected)) != expected:
            raise UserError(f"{folder}/cfg.json has `{key}` {value!r}, which this version does not load; it loads {expected!r}.")
    for key in ("d_in", "d_sae"):
        if not isinstance(config.get(key), int):
            raise UserError(f"{folder}/cfg.json has no whole number `{key}`; fetch it again with `dvc pull {folder}`.")
    path = folder / "sae_weights.safetensors"
    try:
        weights = load_file(path, device=device)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; fetch it with `dvc pull {folder}` or train the run.") from None
    except SafetensorError as error:
        raise UserError(f"{path} cannot be read ({error}); fetch it again with `dvc pull {folder}`.") from None
    sae = ReluSAE(config["d_in"], config["d_sae"]).to(device)
    for name, axes in _SHAPES.items():
        shape = tuple(config[axis] for axis in axes)
        if name not in weights or tuple(weights[name].shape) != shape:
            raise UserError(f"{path} does not fit its cfg.json: {name} should have shape {shape}; fetch the folder again.")
        with torch.no_grad():
            getattr(sae, name).copy_(weights[name])
    if (sae.W_dec.norm(dim=1) - 1).abs().max() > _NORM_TOLERANCE:  # `ReluSAE` would normalise it and compute something else
        raise UserError(
            f"{path} has rows of W_dec that are not of unit norm, which this version does not load; fold their norms first."
        )
    return sae.requires_grad_(False)
