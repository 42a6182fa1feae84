"""The export stage: a run as other libraries read it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Literal

import torch

from .config.model import HubModel, ModelConfig
from .lm.bridge import model_location
from .sae.formats import read_config, save_sae
from .sae.interop import IN_SAELENS, load, save_sparsify
from .session import model_settings, read_run, tables_folder
from .store.errors import UserError
from .store.files import write_tensors
from .studies.tables import read_table

_BLOCKS = {"gpt2": "h", "gpt_neo": "h", "gptj": "h", "bloom": "h", "falcon": "h"}  # of the rest: layers
_ATTENTION = {"gpt2": "attn", "gpt_neo": "attn", "gptj": "attn", "gpt_neox": "attention"}  # of the rest: self_attn
_NEVER = 1e-10  # added to a firing rate before its logarithm, as in SAELens


def export_saelens(run: Path, out: Path) -> None:
    """Write the SAE in `run` under `out` for SAELens; with `sparsity.safetensors` if the run has been evaluated.

    Raises:
        UserError: SAELens has no such SAE.
    """
    sae = load(run)
    if sae.saved_as not in IN_SAELENS:
        raise UserError(f"{run} cannot be exported to SAELens, which has no {sae.saved_as} SAE; it has {', '.join(IN_SAELENS)}.")
    metadata = read_config(run)["metadata"] if (run / "cfg.json").exists() else {}
    rates = _firing_rates(run)
    if rates is not None:
        write_tensors(out / "sparsity.safetensors", {"sparsity": (rates + _NEVER).log10().float()})
    save_sae(sae, out, metadata)
    print(f"{out}: SAELens reads it with SAE.load_from_disk", flush=True)


def _firing_rates(run: Path) -> torch.Tensor | None:
    """Share of held-out tokens on which each feature fires; None if the run has not been evaluated."""
    tables, run = tables_folder(run), run.resolve()
    if not (tables / "features.parquet").exists():
        return None
    features = read_table(tables, "features", ["run", "feature", "firing_rate"])
    features = features[features["run"] == f"{run.parent.name}/{run.name}"].sort_values("feature")
    return torch.tensor(features["firing_rate"].to_numpy()) if len(features) else None


def export_sparsify(run: Path, out: Path, module: str | None) -> None:
    """Write the TopK SAE of `run` under `out`/<Hugging Face module> for sparsify, which names SAEs by the module whose output they read.

    Raises:
        UserError: sparsify has no such SAE, or no module outputs what it reads.
    """
    sae, manifest = load(run), read_run(run)
    hook_point, model = manifest["spec"]["hook_point"], model_settings(manifest)
    module = module or module_path(hook_point, _family(model))
    notes = {"hook_name": hook_point, "model": model.name, "model_processing": model.processing.model_dump()}
    save_sparsify(sae, out / module, notes)
    print(f"{out / module}: sparsify reads it with SparseCoder.load_from_disk", flush=True)
    if model.processing.center_writing_weights:
        print(
            "note: it was trained on a model with `center_writing_weights`; subtract its mean from each activation first",
            flush=True,
        )


def module_path(hook_point: str, family: str) -> str:
    """The module, within the base model of a Hugging Face family, whose output is the value at `hook_point`.

    Raises:
        UserError: there is none.
    """
    block, name = re.fullmatch(r"blocks\.(\d+)\.(.+)", hook_point).groups()
    layers = _BLOCKS.get(family, "layers")
    paths = {
        "hook_resid_post": f"{layers}.{block}",
        "hook_mlp_out": f"{layers}.{block}.mlp",
        "hook_attn_out": f"{layers}.{block}.{_ATTENTION.get(family, 'self_attn')}",
    }
    if int(block) > 0:
        paths["hook_resid_pre"] = f"{layers}.{int(block) - 1}"
    if name not in paths:
        raise UserError(f"no Hugging Face module outputs the value at {hook_point}, so sparsify cannot use this SAE there.")
    return paths[name]


def _family(model: ModelConfig) -> str:
    """The model type in the configuration of the run's language model."""
    mend = "name the module whose output the SAE reads with `--module`, such as h.5 or layers.5"
    try:
        if isinstance(model, HubModel):
            from transformers import AutoConfig  # slow import

            return AutoConfig.from_pretrained(model_location(model), revision=model.revision).model_type
        return json.loads((Path(model_location(model)) / "config.json").read_text())["model_type"]
    except UserError as error:
        raise UserError(f"{str(error).split(';')[0]}; {mend}.") from None
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(f"the configuration of model {model.name} cannot be read ({reason}); {mend}.") from None


def main(run: str, /, to: Literal["saelens", "sparsify"], out: str, module: str | None = None) -> None:
    """Write a trained SAE for another library.

    Args:
        run: folder of a run, or any SAE that saeworks loads.
        to: the library.
        out: folder to write to.
        module: for sparsify, the Hugging Face module whose output the SAE reads; by default that of the run's hook point.

    Raises:
        UserError: the library has no such SAE, or `out` is a run.
    """
    if (Path(out) / "manifest.json").exists() or Path(out).resolve() == Path(run).resolve():
        raise UserError(f"--out is {out}, where an SAE lies that would be lost; name another folder.")
    if to == "saelens":
        export_saelens(Path(run), Path(out))
    else:
        export_sparsify(Path(run), Path(out), module)
