"""Saving and loading SAEs in SAELens' layout: `cfg.json` and `sae_weights.safetensors` (format notes: SAELens 6)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..config.architectures import ARCHITECTURES
from ..store.errors import UserError
from ..store.files import read_json, write_json, write_tensors
from .base import SAE
from .build import sae_class

_SAELENS = {"relu": "standard"}  # architectures that SAELens has under another name
_LOADABLE = {
    "reshape_activations": ("none", "hook_z"),
    "normalize_activations": ("none", "layer_norm"),
    "activation_fn": ("relu", "topk"),
    "finetuning_scaling_factor": (False,),
}


def saved_weights(sae: SAE, scale: float = 1.0) -> dict[str, Tensor]:
    """The tensors to save, by SAELens' names: a plain decoder, in float32.

    An SAE trained on `scale · x` becomes one for x by dividing its biases and thresholds by the scale. Its codes are then
    those of the training divided by the scale, and its dictionary is unchanged.
    """
    weights = {"W_enc": sae.W_enc, "W_dec": sae.dictionary(), "b_dec": sae.b_dec / scale}
    for name, role in sae.per_feature.items():
        value = getattr(sae, name).expand(sae.d_sae)  # one number may stand for all features
        weights[role.saved] = value / scale if role.scaled else value
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in weights.items()}


def save_sae(sae: SAE, folder: Path, metadata: dict[str, Any], scale: float = 1.0) -> None:
    """Write the SAE with its decoder normalised where the forward pass does that, its activation scale folded in, and `metadata`.

    `metadata` takes provenance and SAELens' own keys such as `hook_name` and `prepend_bos`. The architecture that is saved is
    the one that the SAE is at inference (`SAE.saved_as`).
    """
    config = {
        "architecture": _SAELENS.get(sae.saved_as, sae.saved_as),
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": sae.pre_bias,
        "normalize_activations": "layer_norm" if sae.layer_norm else "none",
        "reshape_activations": "hook_z" if (metadata.get("hook_name") or "").endswith("hook_z") else "none",
        # without a version of at least 6.0.0 here SAELens reads the file as an old one and loses the rest
        "metadata": {"sae_lens_version": "6.0.0", **metadata},
    }
    write_tensors(folder / "sae_weights.safetensors", saved_weights(sae, scale))
    write_json(folder / "cfg.json", config | sae.saved_config())


def load_sae(folder: Path, device: str = "cpu") -> SAE:
    """The SAE saved in `folder`, frozen.

    Raises:
        UserError: a file is missing or damaged, or the SAE computes something that no class here does.
    """
    config = read_config(folder)
    named = _classes()
    if (architecture := config.get("architecture")) not in named:
        raise UserError(
            f"{folder}/cfg.json has `architecture` {architecture!r}, which this version does not load; it loads {', '.join(named)}."
        )
    for key, known in _LOADABLE.items():
        if (value := config.get(key, known[0])) not in known:
            raise UserError(
                f"{folder}/cfg.json has `{key}` {value!r}, which this version does not load; it loads {', '.join(map(str, known))}."
            )
    cls = named[architecture]
    for key in ("d_in", "d_sae", *(["k"] if ARCHITECTURES[cls.architecture].by_k else [])):
        if not isinstance(config.get(key), int):
            raise UserError(f"{folder}/cfg.json has no whole number `{key}`; fetch it again with `dvc pull {folder}`.")
    path = folder / "sae_weights.safetensors"
    weights = read_tensors(path)
    for name, shape in expected_shapes(cls, config["d_in"], config["d_sae"]).items():
        if name not in weights or tuple(weights[name].shape) != shape:
            raise UserError(f"{path} does not fit its cfg.json: {name} should have shape {shape}; fetch the folder again.")
    own, weights = cls.loaded(config, weights)
    sae = cls.from_saved(
        weights,
        pre_bias=bool(config.get("apply_b_dec_to_input", True)),  # SAELens' own default
        layer_norm=config.get("normalize_activations") == "layer_norm",
        **own,
    )
    return sae.to(device)


def _classes() -> dict[str, type[SAE]]:
    """The class of each architecture that a file may name."""
    found = (sae_class(name) for name in ARCHITECTURES)
    return {_SAELENS.get(name, name): cls for cls in found for name in cls.loads}


def expected_shapes(cls: type[SAE], d_in: int, d_sae: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors in a file of an architecture, by their names there."""
    shapes: dict[str, tuple[int, ...]] = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    return shapes | {role.saved: (d_sae,) for role in cls.per_feature.values()}


def read_config(folder: Path) -> dict[str, Any]:
    """`cfg.json` of a SAELens folder; one of before SAELens 6 with today's keys.

    Raises:
        UserError: it is missing, or no JSON object.
    """
    config = read_json(folder / "cfg.json")
    if not isinstance(config, dict):
        raise UserError(f"{folder}/cfg.json holds no configuration; fetch it again with `dvc pull {folder}`.")
    metadata = config.get("metadata")
    if isinstance(metadata, dict):
        return config
    config = {"architecture": "standard", **config}
    config["activation_fn"] = config.get("activation_fn_str", config.get("activation_fn", "relu"))
    if config["activation_fn"] == "topk" and config["architecture"] == "standard":
        config |= {"architecture": "topk", "k": (config.get("activation_fn_kwargs") or {}).get("k")}
    hook_name = config.get("hook_name", config.get("hook_point"))
    config["metadata"] = {key: config[key] for key in ("model_name", "context_size", "prepend_bos") if key in config}
    config["metadata"] |= {"hook_name": hook_name} if hook_name else {}
    scale = {None: "none", False: "none", True: "expected_average_only_in"}
    config["normalize_activations"] = scale.get(config.get("normalize_activations"), config.get("normalize_activations"))
    return config


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; fetch it with `dvc pull {path.parent}` or train the run.") from None
    except SafetensorError as error:
        raise UserError(f"{path} cannot be read ({error}); fetch it again with `dvc pull {path.parent}`.") from None


@torch.no_grad()
def load_into(sae: SAE, folder: Path) -> None:
    """Copy the weights saved in `folder` into `sae`, an SAE of the architecture that they were trained as.

    Raises:
        UserError: they do not fit.
    """
    saved = load_sae(folder)
    if (saved.d_in, saved.d_sae, saved.saved_as) != (sae.d_in, sae.d_sae, sae.saved_as):
        raise UserError(
            f"{folder} holds a {saved.saved_as} SAE of {saved.d_sae} features on {saved.d_in} inputs, but the run continues a "
            f"{sae.saved_as} SAE of {sae.d_sae} on {sae.d_in}; name another run in `start_from`."
        )
    for setting in ("pre_bias", "layer_norm"):
        if getattr(saved, setting) != getattr(sae, setting):
            raise UserError(
                f"{folder} holds an SAE {'with' if getattr(saved, setting) else 'without'} `{setting}`, unlike the run that continues it; "
                "let both have the same."
            )
    sae.continue_from(saved)
