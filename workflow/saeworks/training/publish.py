"""The output directory of a trained run."""

from __future__ import annotations

import shutil

import torch

from ..sae.formats import save_sae
from ..store.files import publish, write_json
from ..store.provenance import environment
from .data import Data
from .prepare import Run


def publish_run(run: Run, data: Data) -> None:
    """Write `cfg.json`, `sae_weights.safetensors`, `log.jsonl` and `manifest.json` of a trained run, all or none."""
    spec, job, source, corpus = run.job.spec, run.job, data.source, data.corpus
    staging = job.scratch / "publish"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    model = corpus["model"]
    processing = model["processing"]
    metadata = {
        "model_name": model["name"],
        "hook_name": spec.hook_point,
        "context_size": source.context,
        "prepend_bos": corpus["corpus"]["source"] == "sampled" or corpus["corpus"]["row_bos"],
        "exclude_special_tokens": False,
        "model_from_pretrained_kwargs": {
            key: processing[key] for key in ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
        },
        "saeworks": {
            **{key: getattr(spec, key) for key in ("name", "objective", "sparsity_coeff", "k", "seed", "start_from")},
            "training_architecture": spec.training.architecture,
            "corpus_sha256": source.manifest["corpus_sha256"],
            "fingerprint": job.fingerprint,
        },
    }
    save_sae(run.member.final_sae(), staging, metadata, scale=run.member.objective.scale)
    shutil.copyfile(run.folder.log_path, staging / "log.jsonl")
    manifest = {
        "spec": spec.model_dump(),
        "data": source.manifest,
        "sources": corpus["sources"],
        "fingerprint": job.fingerprint,
        "n_steps": run.member.n_steps,
        "tokens_seen": run.member.n_steps * spec.training.batch_tokens,
        "activation_scale": run.member.objective.scale,
        "threads": torch.get_num_threads(),
        "device": _device_name(run.member.sae.W_enc.device),
        "triton_kernels": run.member.execution.uses_kernels,
        "environment": environment(),
    }
    write_json(staging / "manifest.json", manifest)
    publish(staging, job.out)


def _device_name(device: torch.device) -> str:
    """What bytes depend on beside the seed: `cpu`, or the model of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
