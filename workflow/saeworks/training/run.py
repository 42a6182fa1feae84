"""Train one SAE: the loop, its checkpoints and its output directory."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..activations.stream import open_activations
from ..config.activations import ActivationsConfig
from ..config.base import parse
from ..config.training import RunSpec
from ..lm.prepare import load_model, read_record, resid_layer
from ..sae.formats import save_sae
from ..sae.init import init_braun2024
from ..sae.relu import ReluSAE
from ..store.checkpoint import load_checkpoint, save_checkpoint
from ..store.errors import Interrupted, UserError
from ..store.files import content_hash, publish, read_json, write_json
from ..store.provenance import environment
from ..store.seeds import derive_seed
from .objective import coefficients, downstream_layers, e2e_terms, local_terms, total
from .schedule import warmup_cosine


def train(
    spec: RunSpec,
    activations: ActivationsConfig,
    cache_folder: Path,
    model_folder: Path,
    corpus_folder: Path,
    out: Path,
    scratch: Path,
    device: str = "cpu",
    progress: bool = True,
    fingerprint: str | None = None,
) -> None:
    """Train the run and publish `cfg.json`, `sae_weights.safetensors`, `log.jsonl` and `manifest.json` under `out`.

    The state lives in `scratch` until then. An interrupted run continues from its last checkpoint and ends with the same
    bytes as an uninterrupted one: batches are a function of the step, so the data position is the step itself.

    Raises:
        UserError: bad settings or data, or a loss that is no longer finite.
        Interrupted: a signal arrived; a checkpoint was written.
    """
    settings = spec.training
    source = open_activations(activations, spec.hook_point, cache_folder, model_folder, corpus_folder, device)
    record, corpus = read_record(model_folder), read_json(corpus_folder / "manifest.json")
    n_layers = record["arch"]["n_layers"]
    layer = resid_layer(spec.hook_point, n_layers)
    downstream = downstream_layers(spec, layer, n_layers)
    model = None if spec.objective == "local" else load_model(model_folder, device)
    weights = coefficients(spec)

    n_steps = settings.n_tokens // settings.batch_tokens
    if n_steps == 0 or (model is not None and settings.batch_tokens % source.context):
        raise UserError(
            f"run {spec.name} cannot train on {settings.n_tokens} tokens in batches of {settings.batch_tokens}: there must be one batch at "
            f"least, and end-to-end batches hold whole rows of {source.context} tokens."
        )
    warmup_steps = round(settings.warmup_fraction * n_steps)
    rows = settings.batch_tokens // source.context
    # runs of different seeds start at different places of the stored shuffle
    offset = derive_seed("data", spec.seed) % (source.n_rows * source.context)

    sae = ReluSAE(source.d_in, settings.d_sae)
    # objectives draw different initialisations from one seed: sharing them would raise the cosines between their dictionaries
    init_braun2024(sae, torch.Generator().manual_seed(derive_seed("init", spec.seed, spec.objective)))
    sae = sae.to(device)
    optimizer = torch.optim.Adam(sae.parameters(), lr=settings.lr, fused=True)
    silent = torch.zeros(settings.d_sae, dtype=torch.long, device=device)  # tokens since a feature last fired

    state = _State(
        scratch, {"spec": spec.model_dump(), "data": source.manifest, "fingerprint": fingerprint}, sae, optimizer, silent
    )
    first = state.restore()
    bar = tqdm(total=n_steps, initial=first, unit="tok", unit_scale=settings.batch_tokens, disable=not progress, mininterval=1.0)
    with state.signals(), bar, state.log() as log:
        for step in range(first, n_steps):
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * warmup_cosine(step, n_steps, warmup_steps, settings.final_lr_fraction)
            if model is None:
                terms, codes = local_terms(sae, source.tokens(offset + step * settings.batch_tokens, settings.batch_tokens))
            else:
                x = source.sequences(offset // source.context + step * rows, rows)
                terms, codes = e2e_terms(sae, model, layer, x, downstream)
            loss = total(terms, weights)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(sae.parameters(), settings.grad_clip or math.inf)
            optimizer.step()

            firing = codes.detach().flatten(0, -2) > 0
            silent.add_(settings.batch_tokens).masked_fill_(firing.any(dim=0), 0)
            done = step + 1
            if done % settings.log_every == 0 or done == n_steps:
                _check_finite(done, loss, norm, spec, state)
                line = _log_line(done, settings, optimizer, terms, loss, norm, firing, silent)
                log.write(json.dumps(line) + "\n")
                bar.set_postfix(loss=f"{line['loss']:.4g}", L0=f"{line['l0']:.1f}", dead=line["dead_features"])
            bar.update()
            if state.stop_requested or (done % settings.checkpoint_every == 0 and done < n_steps):
                _check_finite(done, loss, norm, spec, state)  # a checkpoint must be one to go back to
                log.flush()
                state.save(done)
                if state.stop_requested:
                    raise Interrupted(
                        f"run {spec.name} stopped at step {done} of {n_steps}; the same command continues from there."
                    )
    _publish(sae, spec, source, corpus, n_steps, out, scratch, fingerprint)


class _State:
    """The part of a run that outlives an interruption."""

    def __init__(self, scratch: Path, identity: dict, sae: ReluSAE, optimizer: torch.optim.Adam, silent: Tensor) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self.checkpoint, self.log_path = scratch / "checkpoint.safetensors", scratch / "log.jsonl"
        self.identity = content_hash(identity)
        self.sae, self.optimizer, self.silent = sae, optimizer, silent
        self.stop_requested = False

    def save(self, step: int) -> None:
        tensors = {"silent": self.silent}
        for name, parameter in self.sae.named_parameters():
            tensors[f"sae.{name}"] = parameter
            tensors |= {f"adam.{key}.{name}": value for key, value in self.optimizer.state[parameter].items()}
        log_bytes = os.path.getsize(self.log_path)
        save_checkpoint(self.checkpoint, tensors, {"step": step, "identity": self.identity, "log_bytes": log_bytes})

    def restore(self) -> int:
        """Load the checkpoint of this very run, if any, cut the log to it and return the step to continue from."""
        loaded = load_checkpoint(self.checkpoint) if self.log_path.exists() else None
        if loaded is None or loaded[1]["identity"] != self.identity:  # none, or of other settings under the same name
            self.log_path.write_text("")
            return 0
        tensors, state = loaded
        with torch.no_grad():
            self.silent.copy_(tensors["silent"])
            for name, parameter in self.sae.named_parameters():
                parameter.copy_(tensors[f"sae.{name}"])
                moments = {key: tensors[f"adam.{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
                self.optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in moments.items()}
        os.truncate(self.log_path, state["log_bytes"])
        print(f"resuming at step {state['step']}", flush=True)
        return state["step"]

    def log(self):
        return self.log_path.open("a")

    def signals(self):
        return _StopOnSignal(self)


class _StopOnSignal:
    """While active, SIGTERM and SIGINT ask for a checkpoint at the end of the step instead of killing the process."""

    def __init__(self, state: _State) -> None:
        self.state = state

    def __enter__(self) -> None:
        self.previous = {number: signal.signal(number, self._request) for number in (signal.SIGTERM, signal.SIGINT)}

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _request(self, *_: object) -> None:
        self.state.stop_requested = True


def _log_line(step, settings, optimizer, terms, loss, norm, firing, silent) -> dict:
    """One line of log.jsonl: values of this step's batch, nothing that depends on the clock."""
    return {
        "step": step,
        "tokens": step * settings.batch_tokens,
        "lr": optimizer.param_groups[0]["lr"],
        "loss": loss.item(),
        **{name: value.item() for name, value in terms.items()},
        "grad_norm": norm.item(),
        "l0": firing.sum().item() / len(firing),
        "dead_features": int((silent >= settings.dead_window_tokens).sum()),
    }


def _check_finite(step: int, loss: Tensor, norm: Tensor, spec: RunSpec, state: _State) -> None:
    if loss.isfinite() and norm.isfinite():
        return
    kept = f"the last good checkpoint is {state.checkpoint}" if state.checkpoint.exists() else "there is no checkpoint yet"
    raise UserError(
        f"the loss of run {spec.name} is {loss.item()} with gradient norm {norm.item()} at step {step} ({kept}); lower `lr` (now "
        f"{spec.training.lr:g}) or set `grad_clip`, then run again."
    )


def _publish(sae: ReluSAE, spec: RunSpec, source, corpus: dict, n_steps: int, out: Path, scratch: Path, fingerprint) -> None:
    staging = scratch / "publish"
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
        "model_from_pretrained_kwargs": {key: processing[key] for key in ("fold_ln", "center_writing_weights", "center_unembed")},
        "saeworks": {
            **{key: getattr(spec, key) for key in ("name", "objective", "sparsity_coeff", "seed")},
            "corpus_sha256": source.manifest["corpus_sha256"],
            "fingerprint": fingerprint,
        },
    }
    save_sae(sae, staging, metadata)
    shutil.copyfile(scratch / "log.jsonl", staging / "log.jsonl")
    manifest = {
        "spec": spec.model_dump(),
        "data": source.manifest,
        "sources": corpus["sources"],
        "fingerprint": fingerprint,
        "n_steps": n_steps,
        "tokens_seen": n_steps * spec.training.batch_tokens,
        "threads": torch.get_num_threads(),
        "environment": environment(),
    }
    write_json(staging / "manifest.json", manifest)
    publish(staging, out)
    shutil.rmtree(scratch)


def main(
    spec: str,
    activations: str,
    cache: str,
    model: str,
    corpus: str,
    out: str,
    scratch: str,
    device: str,
    fingerprint: str | None = None,
) -> None:
    """Entry point of the stage: `spec` is a `RunSpec`, `activations` an activations block, both as JSON."""
    train(
        parse(RunSpec, json.loads(spec), "runs"),
        parse(ActivationsConfig, json.loads(activations), "activations"),
        Path(cache),
        Path(model),
        Path(corpus),
        Path(out),
        Path(scratch),
        device,
        fingerprint=fingerprint,
    )
