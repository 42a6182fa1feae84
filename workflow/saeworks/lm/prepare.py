"""The language model as every later stage uses it: processed weights in one file, checked against TransformerBridge."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, PositiveInt

from ..config.base import Json, parse
from ..config.model import HubModel, ModelConfig, OwnModel, PathModel, local_files
from ..store.errors import UserError
from ..store.files import publish, read_json, sha256_file, write_json
from .bridge import BridgeModel, boot, extract_decoder, model_location
from .decoder import Decoder

# the two run the same formulas in another order; a wrong formula is off by orders of magnitude more
_LOGIT_TOLERANCE = 1e-3


def prepare(model: HubModel | PathModel | OwnModel, out: Path) -> None:
    """Boot the model, process its weights and publish them with the tokenizer under `out`.

    A family that `Decoder` does not know, or on which it disagrees with the bridge, is marked to run through the bridge
    itself: slower, the same results.

    Raises:
        UserError: the model cannot be loaded, or has no tokenizer.
    """
    bridge = boot(model)
    if bridge.tokenizer is None or _is_made_up(bridge.tokenizer):
        where = "its directory" if not isinstance(model, HubModel) else "a copy of it, with `source: path`"
        raise UserError(f"model {model_location(model)} has no tokenizer; add its tokenizer.json to {where}.")
    _check_weights(bridge, model_location(model))
    staging = out.with_name(f".{out.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    record = {"model": model.model_dump(), "special_tokens": _special_tokens(bridge.tokenizer), "sources": _sources(model)}
    try:
        decoder = extract_decoder(bridge)
        difference = _largest_difference(bridge, decoder)
        if difference > _LOGIT_TOLERANCE:
            raise NotImplementedError(f"the fast path differs from TransformerBridge by {difference:.2g}")
        decoder.save(staging / "decoder.safetensors")
        record |= {"engine": "decoder", **decoder.describe(), "largest_logit_difference": difference}
        record["sha256"] = sha256_file(staging / "decoder.safetensors")
    except NotImplementedError as reason:
        print(f"{model.name}: {reason}; running through TransformerBridge itself", flush=True)
        reference = BridgeModel(bridge)
        record |= {"engine": "bridge", "arch": vars(reference.arch)}
    bridge.tokenizer.save_pretrained(staging)
    write_json(staging / "manifest.json", record)
    publish(staging, out)


def _check_weights(bridge: Any, location: str) -> None:
    for name, weight in bridge.named_parameters():
        if not weight.isfinite().all():
            raise UserError(
                f"weight {name.replace('._original_component', '')} of model {location} is not finite; use whole files, with `source: path`."
            )


def _is_made_up(tokenizer: Any) -> bool:
    """Whether the tokenizer was read from no file: the library then makes one that knows nothing but special tokens."""
    return set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens)


def load_model(folder: Path, device: str = "cpu") -> Decoder | BridgeModel:
    """The prepared model in `folder`, frozen, in float32.

    Raises:
        UserError: it is incomplete or damaged.
    """
    record = read_record(folder)
    if record["engine"] == "bridge":
        return BridgeModel(boot(parse(ModelConfig, record["model"], "model"), device=device))
    weights = folder / "decoder.safetensors"
    if not weights.is_file() or sha256_file(weights) != record.get("sha256"):
        raise UserError(f"{weights} is missing or damaged; {_mend(folder)}.")
    return Decoder.load(weights, record["arch"], record["rope_scale"], device)


def read_record(folder: Path) -> dict[str, Any]:
    """The manifest of the prepared model in `folder`.

    Raises:
        UserError: it is not there. A forced or failed job can ask for it before it was made again.
    """
    if not (folder / "manifest.json").exists():
        raise UserError(f"the prepared model {folder} is missing; run the same snakemake command again, which makes it first.")
    return read_json(folder / "manifest.json", ModelRecord, _mend(folder))


def _mend(folder: Path) -> str:
    return f"delete {folder} and run the same snakemake command again, which prepares the model anew"


class _Arch(BaseModel):
    n_layers: PositiveInt
    d_model: PositiveInt
    n_heads: PositiveInt
    d_head: PositiveInt
    d_vocab: PositiveInt
    n_ctx: PositiveInt
    parallel: bool


class ModelRecord(BaseModel):
    """What must be in the manifest of a prepared model."""

    engine: Literal["decoder", "bridge"]
    model: dict[str, Any]
    special_tokens: dict[str, int | None]
    sources: dict[str, str]
    arch: _Arch


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of the prepared model in `folder`."""
    from transformers import AutoTokenizer  # slow import

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _largest_difference(bridge: Any, decoder: Decoder) -> float:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(decoder.arch.d_vocab, (2, min(32, decoder.arch.n_ctx)), generator=generator)
    with torch.no_grad():
        try:
            reference = bridge(tokens)
        except Exception as error:  # of any kind, if the numbers in its configuration do not fit each other
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise UserError(
                f"model {bridge.cfg.model_name} cannot be run ({reason}); correct its config.json, with `source: path`."
            ) from error
        if not reference.isfinite().all():
            raise UserError(
                f"model {bridge.cfg.model_name} overflows: its logits are not finite; use whole files, with `source: path`."
            )
        ours = decoder.forward(tokens)
    return (reference - ours).abs().max().item() / max(1.0, reference.abs().max().item())


def _special_tokens(tokenizer: Any) -> dict[str, int | None]:
    return {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id}


def _sources(model: HubModel | PathModel | OwnModel) -> dict[str, str]:
    """Hashes of the files of a local model; a hub model is identified by its revision."""
    if isinstance(model, HubModel):
        return {}
    return {str(path): sha256_file(path) for path in local_files(Path(model_location(model)))}


def main(spec: Json, out: str) -> None:
    """Load and process the language model.

    Args:
        spec: the `model` block of the configuration.
        out: folder of the prepared model.
    """
    prepare(parse(ModelConfig, json.loads(spec), "model"), Path(out))
