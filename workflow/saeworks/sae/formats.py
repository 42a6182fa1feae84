"""Saving and loading SAEs in SAELens' layout: `cfg.json` and `sae_weights.safetensors` (format notes: SAELens 6)."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..config.architectures import ARCHITECTURES
from ..store.errors import UserError
from ..store.files import read_json, write_json, write_tensors
from .base import SAE
from .build import sae_class

_SAELENS = {"relu": "standard"}  # architectures that SAELens has under another name
_ONES = "scaling_factor"  # a tensor that SAELens once wrote; its reader passes over it where all are 1


class Config(BaseModel):
    """What counts of a `cfg.json`, for those SAEs that are computed here."""

    model_config = ConfigDict(strict=True, frozen=True)

    architecture: str
    d_in: PositiveInt
    d_sae: PositiveInt
    k: PositiveInt | None = None
    apply_b_dec_to_input: bool = True  # SAELens' own default
    rescale_acts_by_decoder_norm: bool = False
    reshape_activations: Literal["none", "hook_z"] = "none"
    normalize_activations: Literal["none", "layer_norm"] = "none"
    activation_fn: Literal["relu", "topk"] = "relu"
    finetuning_scaling_factor: Literal[False] = False
    metadata: dict[str, Any]


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
    path, content, named = folder / "sae_weights.safetensors", read_config(folder), _classes()
    try:
        config = Config.model_validate(content)
    except ValidationError as error:
        raise UserError(_sentence(folder, error.errors()[0])) from None
    if config.architecture not in named:
        raise UserError(
            f"{folder}/cfg.json has `architecture` {config.architecture!r}, which this version does not load; it loads {', '.join(named)}."
        )
    cls = named[config.architecture]
    if ARCHITECTURES[cls.architecture].by_k and not 1 <= (config.k or 0) <= config.d_sae:
        raise UserError(
            f"{folder}/cfg.json has `k` {config.k}, which must be a whole number from 1 to `d_sae` ({config.d_sae}); {refetch(folder)}."
        )
    if config.k is not None and not ARCHITECTURES[cls.architecture].by_k:  # its `architecture` was lost, if it is an old file
        raise UserError(
            f"{folder}/cfg.json has `k` {config.k}, which a {config.architecture} SAE does not have; {refetch(folder)}."
        )
    weights = read_tensors(path)
    shapes = expected_shapes(cls, config.d_in, config.d_sae)
    if _ONES in weights and bool((weights[_ONES] == 1).all()):
        del weights[_ONES]
    if unknown := sorted(weights.keys() - shapes.keys()):
        raise UserError(
            f"{path} has a tensor {unknown[0]}, which a {config.architecture} SAE does not compute with, so that it cannot be loaded; "
            f"{refetch(folder)}."
        )
    for name, shape in shapes.items():
        if name not in weights or tuple(weights[name].shape) != shape:
            raise UserError(f"{path} does not fit its cfg.json: {name} should have shape {shape}; {refetch(folder)}.")
        check_numbers(weights[name], name, path)
    own, weights = cls.loaded(content, weights)
    sae = cls.from_saved(
        weights, pre_bias=config.apply_b_dec_to_input, layer_norm=config.normalize_activations == "layer_norm", **own
    )
    return sae.to(device)


def _sentence(folder: Path, fault: Any) -> str:
    key, given = fault["loc"][0], fault["input"]
    if fault["type"] == "missing":
        return f"{folder}/cfg.json has no `{key}`; {refetch(folder)}."
    if fault["type"] == "literal_error":
        known = fault["ctx"]["expected"]
        return f"{folder}/cfg.json has `{key}` {given!r}, which this version does not load; it loads {known}."
    what = fault["msg"].removeprefix("Input should be ")
    return f"{folder}/cfg.json has `{key}` {reprlib.repr(given)}, which should be {what}; {refetch(folder)}."


def refetch(folder: Path) -> str:
    """What mends a damaged run, in words."""
    return f"fetch it again (`dvc pull --force {folder}`, where it is stored) or train the run again"


def check_numbers(tensor: Tensor, name: str, path: Path) -> None:
    """Refuse what is no dense array of finite floating-point numbers, each stored.

    Raises:
        UserError: naming the tensor.
    """
    odd = {
        "nested ": tensor.is_nested,
        "sparse ": tensor.layout != torch.strided and not tensor.is_nested,
        "empty ": tensor.is_meta,  # without values
    }
    kind = "".join(word for word, holds in odd.items() if holds) + str(tensor.dtype).removeprefix("torch.")
    if any(odd.values()) or tensor.is_quantized or not tensor.is_floating_point():
        raise UserError(
            f"{path} has a tensor {name} of type {kind}, where dense floating-point numbers belong; {refetch(path.parent)}."
        )
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():  # of any size in a small file
        raise UserError(f"{path} has a tensor {name} that repeats its numbers; save it `.contiguous()`.")
    if not tensor.float().isfinite().all():
        raise UserError(f"{path} has a tensor {name} with values that are not finite in float32; {refetch(path.parent)}.")


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
    config = read_json(folder / "cfg.json", mend=refetch(folder))
    if not isinstance(config, dict):
        raise UserError(f"{folder}/cfg.json holds no configuration; {refetch(folder)}.")
    if "metadata" in config:
        return config
    config = {"architecture": "standard", **config}
    config["activation_fn"] = config.get("activation_fn_str", config.get("activation_fn", "relu"))
    if config["activation_fn"] == "topk" and config["architecture"] == "standard":
        options = config.get("activation_fn_kwargs")
        config |= {"architecture": "topk", "k": options.get("k") if isinstance(options, dict) else None}
    hook_name = config.get("hook_name", config.get("hook_point"))
    config["metadata"] = {key: config[key] for key in ("model_name", "context_size", "prepend_bos") if key in config}
    config["metadata"] |= {"hook_name": hook_name} if hook_name else {}
    scale = config.get("normalize_activations")
    if scale is None or isinstance(scale, bool):
        config["normalize_activations"] = "expected_average_only_in" if scale else "none"
    return config


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {refetch(path.parent)}.") from None
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({error}); {refetch(path.parent)}.") from None


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
