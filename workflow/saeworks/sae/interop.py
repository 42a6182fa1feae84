"""SAEs of other libraries: finding out a file's layout and reading it safely, and writing sparsify's layout.

Formulas and layouts: eai-sparsify 1.3, dictionary_learning 0.1 and its repository, the code released with Braun et al. 2024
(e2e_sae). SAELens' layout is that of `formats`.
"""

from __future__ import annotations

import pickle
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..store.errors import UserError, did_you_mean
from ..store.files import read_json, write_json, write_tensors
from .base import SAE, fold_decoder_norms
from .build import sae_class
from .formats import check_numbers, expected_shapes, load_sae, read_config, read_tensors, refetch

IN_SAELENS = ("relu", "topk", "gated", "jumprelu")  # the architectures that SAELens computes as we do
_PICKLES = (".pt", ".pth", ".bin")
_MARKERS = ("sae_weights.safetensors", "sae.safetensors", "ae.pt")  # one of them is in every folder that holds one SAE
_LISTED = 6  # names in an error message


@dataclass(frozen=True)
class _Layout:
    """A class of another library: SAELens' names of its tensors to the library's, and what it computes.

    `nn.Linear` stores (out, in), so tensors whose key ends in `.weight` are transposed.
    """

    architecture: str
    keys: dict[str, str]
    pre_bias: bool
    unit_rows: bool = False  # the library's own reader folds the decoder's norms into the encoder
    other_keys: tuple[str, ...] = ()  # in the file, but not needed


_LINEAR = {"W_enc": "encoder.weight", "W_dec": "decoder.weight"}
_PLAIN = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")}
_TOPK = {**_LINEAR, "b_enc": "encoder.bias", "b_dec": "b_dec"}
_DICTIONARY_LEARNING = {
    "AutoEncoder": _Layout("relu", {**_LINEAR, "b_enc": "encoder.bias", "b_dec": "bias"}, True, unit_rows=True),
    "AutoEncoderNew": _Layout("relu", {**_LINEAR, "b_enc": "encoder.bias", "b_dec": "decoder.bias"}, False),
    "AutoEncoderTopK": _Layout("topk", _TOPK, True, other_keys=("k", "threshold")),
    "BatchTopKSAE": _Layout("jumprelu", {**_TOPK, "threshold": "threshold"}, True, other_keys=("k",)),
    "MatryoshkaBatchTopKSAE": _Layout("jumprelu", _PLAIN, True, other_keys=("k", "group_sizes")),
    "GatedAutoEncoder": _Layout(
        "gated", {**_LINEAR, "b_dec": "decoder_bias", "b_gate": "gate_bias", "b_mag": "mag_bias", "r_mag": "r_mag"}, True
    ),
    "JumpReluAutoEncoder": _Layout("jumprelu", _PLAIN, False),
}
_SPARSIFY = _Layout("topk", {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "W_dec", "b_dec": "b_dec"}, True)
_E2E = _Layout(
    "relu",
    {"W_enc": "encoder.0.weight", "b_enc": "encoder.0.bias", "W_dec": "decoder.weight", "b_dec": "decoder.bias"},
    False,
)


def load(path: Path, device: str = "cpu", hook_point: str | None = None) -> SAE:
    """The SAE in a folder or file of any layout that is known, frozen, in float32.

    Layouts: saeworks and SAELens, sparsify, dictionary_learning, and the state dicts of e2e_sae. Files of `torch.save` are read
    with `weights_only=True`: what is no tensor is refused, never run. The decoder is `free`, even where it was normalised.

    Args:
        hook_point: which SAE, where there are several: a hook point in an e2e_sae file, or a subfolder.

    Raises:
        UserError: there is no SAE, several and no choice, damage, or one that no class here computes.
    """
    path = Path(path)
    if path.is_dir():
        return _load_folder(path, hook_point).to(device)
    if not path.exists():
        raise UserError(
            f"there is no SAE at {path}; correct the path, or fetch it with `dvc pull --force {path}` if it is a stored run."
        )
    if path.name in _MARKERS:
        return _load_folder(path.parent, hook_point).to(device)
    if path.suffix not in (*_PICKLES, ".safetensors"):
        raise UserError(
            f"{path} is not a file of SAE weights ({', '.join(_PICKLES)}, .safetensors); name one, or the folder it is in."
        )
    return _load_state_dict(path, hook_point).to(device)


def _check_regular(path: Path) -> None:
    """Refuse a pipe or a device, from which reading may never end."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is not a regular file; {refetch(path.parent)}.")


def _load_folder(folder: Path, hook_point: str | None) -> SAE:
    for name in ("cfg.json", *_MARKERS):
        _check_regular(folder / name)
    if (folder / "ae.pt").exists():
        return _load_state_dict(folder / "ae.pt", hook_point)
    if (folder / "sae_weights.safetensors").exists():
        return _load_saelens(folder, hook_point)
    config = read_json(folder / "cfg.json", mend=refetch(folder)) if (folder / "cfg.json").exists() else None
    if (folder / "sae.safetensors").exists() or (
        isinstance(config, dict) and {"num_latents", "expansion_factor"} & config.keys()
    ):
        _check_only(folder, None, hook_point)
        return _load_sparsify(folder)
    if config is not None:
        return _load_saelens(folder, hook_point)
    inner = sorted({str(found.parent.relative_to(folder)) for name in _MARKERS for found in folder.glob(f"**/{name}")})
    if inner:
        return _load_folder(folder / _chosen(inner, hook_point, folder), None)
    files = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLES)
    if len(files) == 1:
        return _load_state_dict(folder / files[0], hook_point)
    if files:
        raise UserError(f"{folder} holds several files of weights; name one of {_list(files)}.")
    raise UserError(
        f"{folder} holds no SAE in a layout that saeworks knows: SAELens (cfg.json, sae_weights.safetensors), sparsify (cfg.json, "
        "sae.safetensors), dictionary_learning (ae.pt, config.json) or e2e_sae (one .pt file)."
    )


def _load_saelens(folder: Path, hook_point: str | None) -> SAE:
    metadata = read_config(folder)["metadata"]
    _check_only(folder, metadata.get("hook_name") if isinstance(metadata, dict) else None, hook_point)
    return load_sae(folder)


def _check_only(path: Path, hook_point: Any, wanted: str | None) -> None:
    """Refuse to be asked for another hook point than that of the only SAE in a file or folder; None: it does not say which.

    Raises:
        UserError: naming the hook point that is there.
    """
    if wanted is not None and wanted != hook_point:
        there = f"one of {hook_point}" if hook_point else "one SAE, which does not say of which hook point it is"
        raise UserError(f"{path} holds no SAE of {wanted!r} but {there}; leave `hook_point` out.")


def _chosen(names: list[str], wanted: str | None, where: Path) -> str:
    """The one of `names` that is wanted, or the only one."""
    if wanted in names or (wanted is None and len(names) == 1):
        return wanted or names[0]
    if wanted is None:
        raise UserError(f"{where} holds {len(names)} SAEs; choose one with `hook_point`: {_list(names)}.")
    raise UserError(f"{where} holds no SAE of {wanted!r}{did_you_mean(wanted, names)}; it holds {_list(names)}.")


def _list(names: list[str]) -> str:
    return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")


# sparsify


def _load_sparsify(folder: Path) -> SAE:
    path, config = folder / "sae.safetensors", read_json(folder / "cfg.json", dict[str, Any], "fetch it again")
    for key, only in {"activation": "topk", "transcode": False, "skip_connection": False, "signed": False}.items():
        if type(value := config.get(key, only)) is not type(only) or value != only:
            raise UserError(f"{folder}/cfg.json has `{key}` {value!r}, which no class of saeworks computes; it loads {only!r}.")
    if type(config.get("k")) is not int:  # a bool is none
        raise UserError(f"{folder}/cfg.json has no whole number `k`; fetch it again.")
    return _read(_SPARSIFY, read_tensors(path), path, k=config["k"])


def save_sparsify(sae: SAE, folder: Path, notes: dict[str, Any]) -> None:
    """Write `cfg.json` and `sae.safetensors` as sparsify's `SparseCoder.load_from_disk` reads them; `notes` go into cfg.json too.

    sparsify always subtracts b_dec from the input: where the SAE does not, the encoder's bias makes up for it.

    Raises:
        UserError: sparsify has no such SAE.
    """
    reason = None
    if sae.architecture != "topk":
        reason = f"it has TopK SAEs only, and this is a {sae.architecture} SAE"
    elif not sae.options.topk_relu:
        reason = "its TopK sets negative values to 0, and this SAE keeps them"
    elif sae.layer_norm:
        reason = "it does not standardise inputs, and this SAE does"
    if reason:
        raise UserError(f"the SAE cannot be written for sparsify: {reason}; export it with `--to saelens`.")
    b_enc = sae.b_enc if sae.pre_bias else sae.b_enc + sae.b_dec @ sae.W_enc
    weights = {"encoder.weight": sae.W_enc.T, "encoder.bias": b_enc, "W_dec": sae.dictionary(), "b_dec": sae.b_dec}
    config = {
        "activation": "topk",
        "expansion_factor": -(-sae.d_sae // sae.d_in),
        "normalize_decoder": True,
        "num_latents": sae.d_sae,
        "k": sae.k,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": sae.d_in,
    }
    write_tensors(
        folder / "sae.safetensors", {name: value.detach().float().cpu().contiguous() for name, value in weights.items()}
    )
    write_json(folder / "cfg.json", notes | config)


# files of torch.save


def _load_state_dict(path: Path, hook_point: str | None) -> SAE:
    for read in (path, path.with_name("config.json")):
        _check_regular(read)
    tensors = read_tensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    several = {match[1] for key in tensors if (match := re.fullmatch(r"(?:saes\.)?([^.]+)\.encoder\.0\.weight", key))}
    if several:
        return _load_e2e(path, tensors, sorted(several), hook_point)
    _check_only(path, None, hook_point)
    name = _dict_class(path, tensors)
    layout = _DICTIONARY_LEARNING[name]
    options = {}
    if layout.architecture == "topk":
        k = tensors.get("k", _trainer(path).get("k"))
        k = k.item() if isinstance(k, Tensor) and not k.is_meta and k.layout == torch.strided and k.numel() == 1 else k
        if type(k) is not int:
            raise UserError(
                f"{path} does not say how many features are active (`k`), and there is no config.json that does in a whole number; add it."
            )
        options["k"] = k
    return _read(layout, tensors, path, **options)


def _load_e2e(path: Path, tensors: dict[str, Tensor], names: list[str], hook_point: str | None) -> SAE:
    """One SAE of a state dict: no pre-bias, the decoder normalised in the forward pass."""
    dotted = {name.replace("-", "."): name for name in names}
    wanted = hook_point and hook_point.replace("-", ".")
    name = dotted[_chosen(sorted(dotted), wanted, path)]
    prefix = f"saes.{name}." if f"saes.{name}.encoder.0.weight" in tensors else f"{name}."
    own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    if "decoder.weight" in own:
        check_numbers(own["decoder.weight"], f"{prefix}decoder.weight", path)
        own["decoder.weight"] = F.normalize(own["decoder.weight"].float(), dim=0)
    return _read(_E2E, own, path)


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about types that are refused below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} was refused: it holds Python objects other than tensors, and reading those can run code; saeworks only "
            "loads safely, so save the module's `state_dict()` or a safetensors file where you trust it, and load that."
        ) from None
    except Exception as error:  # whatever the parser stumbles over in bytes that are no such file
        reason = str(error).strip().split("\n")[0].split(". ")[0].rstrip(".")
        raise UserError(f"{path} cannot be read ({reason or type(error).__name__}); fetch it again.") from None
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    named = isinstance(content, dict) and all(isinstance(name, str) for name in content)
    if not named or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(
            f"{path} holds no state dict (names and tensors), so saeworks does not know its layout; save `state_dict()`."
        )
    return content


def _trainer(path: Path) -> dict[str, Any]:
    """The `trainer` block of the dictionary_learning config.json that belongs to `ae.pt` or `checkpoints/ae_<step>.pt`."""
    for folder in (path.parent, path.parent.parent):
        if (folder / "config.json").exists():
            config = read_json(folder / "config.json", mend="fetch it again, or remove it")
            trainer = config.get("trainer") if isinstance(config, dict) else None
            return trainer if isinstance(trainer, dict) else {}
    return {}


def _dict_class(path: Path, tensors: dict[str, Tensor]) -> str:
    """The dictionary_learning class of a state dict: by its config.json, else by the names of its tensors."""
    name = _trainer(path).get("dict_class")
    if name is not None:
        if not isinstance(name, str) or name not in _DICTIONARY_LEARNING:
            raise UserError(
                f"{path} is a {name} of dictionary_learning, which saeworks does not load; it loads {_all_classes()}."
            )
        return name
    fits = [
        name
        for name, layout in _DICTIONARY_LEARNING.items()
        if set(layout.keys.values()) <= tensors.keys() <= {*layout.keys.values(), *layout.other_keys}
        and ("group_sizes" in tensors) == ("group_sizes" in layout.other_keys)
    ]
    if not fits:
        raise UserError(
            f"{path} has tensors {_list(sorted(map(str, tensors)))}, which are those of no SAE that saeworks knows: neither e2e_sae's nor "
            f"dictionary_learning's {_all_classes()}."
        )
    if len(fits) > 1:
        raise UserError(
            f"{path} could be an SAE of class {' or '.join(fits)}; put its config.json with `trainer.dict_class` beside it."
        )
    return fits[0]


def _all_classes() -> str:
    return ", ".join(_DICTIONARY_LEARNING)


# all


def _read(layout: _Layout, tensors: dict[str, Tensor], path: Path, **options: Any) -> SAE:
    """The SAE that `tensors` of a layout make.

    Raises:
        UserError: a tensor is missing, has the wrong shape, or should not be there.
    """
    if missing := [key for key in layout.keys.values() if key not in tensors]:
        raise UserError(f"{path} has no tensor {missing[0]}; fetch it again.")
    if unknown := sorted(tensors.keys() - {*layout.keys.values(), *layout.other_keys}):
        raise UserError(f"{path} has a tensor {unknown[0]}, which no class of saeworks computes with; this SAE cannot be loaded.")
    for key in layout.keys.values():
        check_numbers(tensors[key], key, path)
    encoder = _untransposed(layout.keys["W_enc"], tensors)
    if encoder.ndim != 2 or not encoder.numel():
        raise UserError(
            f"{path} does not fit its layout: {layout.keys['W_enc']} should be a matrix with rows and columns, but has shape "
            f"{_shape(encoder)}; fetch it again."
        )
    weights = {}
    for name, shape in expected_shapes(sae_class(layout.architecture), *encoder.shape).items():
        value, key = _untransposed(layout.keys[name], tensors), layout.keys[name]
        if name == "threshold" and value.ndim == 0:
            value = value.expand(shape)
        if tuple(value.shape) != shape:
            wanted = shape[::-1] if key.endswith(".weight") else shape
            raise UserError(
                f"{path} does not fit its layout: {key} should have shape {wanted}, as {layout.keys['W_enc']} has shape "
                f"{_shape(tensors[layout.keys['W_enc']])}, but it has {_shape(tensors[key])}; fetch it again."
            )
        weights[name] = value.float()
    if layout.unit_rows:
        weights = fold_decoder_norms(weights)
    k = options.get("k", 1)
    if not 1 <= k <= encoder.shape[1]:
        raise UserError(f"{path} has {encoder.shape[1]} features, of which k = {k} cannot be active; correct its configuration.")
    return sae_class(layout.architecture).from_saved(weights, pre_bias=layout.pre_bias, **options)


def _untransposed(key: str, tensors: dict[str, Tensor]) -> Tensor:
    value = tensors[key]
    return value.T if key.endswith(".weight") and value.ndim == 2 else value


def _shape(value: Tensor) -> tuple[int, ...]:
    return tuple(value.shape)
