"""Which language model is studied, and how its weights are processed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from .base import Frozen
from .names import FilePath, HubName, Name, Revision


class Processing(Frozen):
    """TransformerLens weight processing, all of it on by default because the papers' numbers were measured so."""

    fold_ln: bool = Field(True, description="Fold the normalisation weights into the matrices that read from them.")
    center_writing_weights: bool = Field(
        True, description="Centre the matrices that write to the residual stream (LayerNorm models only; RMSNorm ones ignore it)."
    )
    center_unembed: bool = Field(True, description="Centre the unembedding: logits shift by a constant per position.")
    fold_value_biases: bool = Field(True, description="Fold the value biases into the output bias of each attention layer.")


class HubModel(Frozen):
    """A model of the Hugging Face hub."""

    source: Literal["hub"] = Field("hub", description="A model of the Hugging Face hub.")
    name: HubName = Field(description="Repository on the hub, such as `gpt2` or `roneneldan/TinyStories-1M`.")
    revision: Revision = Field("main", description="Branch, tag or commit; give a commit for a run that can be repeated.")
    processing: Processing = Field(
        default_factory=Processing, description="Weight processing; part of every artefact's identity."
    )


class PathModel(Frozen):
    """A local Hugging Face directory."""

    source: Literal["path"] = Field("path", description="Any local directory with a Hugging Face causal language model.")
    name: Name = Field(description="The name used in paths and figures.")
    path: FilePath = Field(
        description="Directory with config.json, the weights and the tokenizer; a relative path begins in the working directory."
    )
    processing: Processing = Field(
        default_factory=Processing, description="Weight processing; part of every artefact's identity."
    )


class OwnModel(Frozen):
    """A model that this project trained: the directory data/models/<name>, fetched by `dvc pull`."""

    source: Literal["own"] = Field("own", description="A model trained by `saeworks pretrain`, in data/models/<name>.")
    name: Name = Field(description="Directory under data/models.")
    processing: Processing = Field(
        default_factory=Processing, description="Weight processing; part of every artefact's identity."
    )


ModelConfig = Annotated[HubModel | PathModel | OwnModel, Field(discriminator="source")]


def local_files(folder: Path) -> list[Path]:
    """Files of a Hugging Face directory that determine the model: configuration, tokenizer, weights."""
    if not folder.is_dir():
        return []
    return sorted(
        p
        for p in folder.iterdir()
        if p.suffix in (".json", ".safetensors", ".bin", ".model") and p.name not in ("manifest.json", "identity.json")
    )


def model_sizes(folder: Path) -> dict[str, int]:
    """`n_layers` and `n_ctx` of a Hugging Face directory, or of a prepared model, as far as its configuration is at hand and says so."""
    sizes: dict[str, int] = {}
    names = {
        "n_layers": ("num_hidden_layers", "n_layer", "num_layers"),
        "n_ctx": ("max_position_embeddings", "n_positions", "n_ctx"),
    }
    for file, blocks in (("manifest.json", ("arch",)), ("config.json", ())):
        try:
            found = json.loads((folder / file).read_text(encoding="utf-8"))
            for block in blocks:
                found = found[block]
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            continue
        for name, theirs in names.items() if isinstance(found, dict) else ():
            values = [value for key in (name, *theirs) if type(value := found.get(key)) is int and value > 0]
            if values:
                sizes.setdefault(name, values[0])
    return sizes


def model_label(model: HubModel | PathModel | OwnModel) -> str:
    """The model's name as a path component."""
    return model.name.replace("/", "--")
