"""Train SAEs: the loop over one or several runs that read the same activations, and their output directories."""

from __future__ import annotations

import json
import shutil
import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..activations.cache import ActivationCache
from ..activations.stream import ActivationStream, open_activations
from ..config.activations import ActivationsConfig
from ..config.base import Json, parse
from ..config.training import RunSpec
from ..lm.bridge import BridgeModel
from ..lm.decoder import Decoder
from ..lm.prepare import load_model, read_record
from ..lm.sites import Site
from ..sae.base import SAE
from ..sae.build import build_sae
from ..sae.formats import load_into, save_sae
from ..sae.init import initialise
from ..store.errors import Interrupted, UserError
from ..store.files import content_hash, publish, read_json, sha256_file, write_json
from ..store.provenance import environment
from ..store.seeds import derive_seed
from .estimate import describe_run, out_of_memory
from .member import Member, RunFolder, StepResult
from .objective import CleanPass, downstream_hook_points


@dataclass
class Job:
    """A run to train: where it goes, where its state lives until then, and where it starts from (`finetune`)."""

    spec: RunSpec
    out: Path
    scratch: Path
    fingerprint: str | None = None
    start_from: Path | None = None


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
    start_from: Path | None = None,
) -> None:
    """Train one run: `train_together` with a single job."""
    job = Job(spec, out, scratch, fingerprint, start_from)
    train_together([job], activations, cache_folder, model_folder, corpus_folder, device, progress)


def train_together(
    jobs: list[Job],
    activations: ActivationsConfig,
    cache_folder: Path,
    model_folder: Path,
    corpus_folder: Path,
    device: str = "cpu",
    progress: bool = True,
) -> None:
    """Train runs of one hook point and publish `cfg.json`, `sae_weights.safetensors`, `log.jsonl` and `manifest.json` of each.

    The activations are read, and the model runs without an SAE, once for all runs of equal seed and batch. Each run ends
    with the same bytes as if it were trained alone. The state lives in the jobs' scratch folders until then; an
    interrupted run continues from its last checkpoint and ends with the same bytes as an uninterrupted one: batches are a
    function of the step, so the data position is the step itself. A run whose loss fails stops; the others finish, and are
    published with the next call that finds it mended or gone.

    Raises:
        UserError: bad settings or data, a loss that is no longer finite, or too little memory.
        Interrupted: a signal arrived; checkpoints were written.
    """
    data = _Data(jobs, activations, cache_folder, model_folder, corpus_folder, device)
    with out_of_memory(data.source, [job.spec for job in jobs], data.model):
        runs = [_prepare(job, data, device) for job in jobs]
    stop = _StopOnSignal()
    n_steps = max(run.member.n_steps for run in runs)
    first = min(run.first for run in runs)
    bar = tqdm(total=n_steps, initial=first, unit="step", disable=not progress, mininterval=1.0)
    with stop, bar, out_of_memory(data.source, [job.spec for job in jobs], data.model):
        for step in range(first, n_steps):
            data.forget()
            for run in runs:
                if run.first <= step < run.member.n_steps and run.fault is None:
                    _step(run, step, data, bar)
            bar.update()
            if all(run.fault for run in runs):
                break
            if stop.requested:
                for run in runs:
                    run.save(min(step + 1, run.member.n_steps))
                _raise_faults(runs)
                raise Interrupted(
                    f"{_names(jobs)} stopped at step {step + 1} of {n_steps}; the same command continues from there."
                )
        if any(run.fault for run in runs):
            for run in runs:
                run.save(run.member.n_steps)
            _raise_faults(runs)
    for run in runs:
        _publish(run, data)
    for run in runs:  # only now: if one could not be published, all can be again
        shutil.rmtree(run.job.scratch)


def _names(jobs: list[Job]) -> str:
    return f"run {jobs[0].spec.name}" if len(jobs) == 1 else f"{len(jobs)} runs ({jobs[0].spec.name}, …)"


class _Data:
    """Activations at the hook point, and the clean pass on them, computed once per step and place."""

    def __init__(
        self, jobs: list[Job], activations: ActivationsConfig, cache: Path, model_folder: Path, corpus_folder: Path, device: str
    ) -> None:
        hook_points = {job.spec.hook_point for job in jobs}
        if len(hook_points) > 1:
            raise UserError(
                f"runs that train together share a hook point, but these have {', '.join(sorted(hook_points))}; train them apart."
            )
        (hook_point,) = hook_points
        self.record, self.corpus = read_record(model_folder), read_json(corpus_folder / "manifest.json")
        self.site = Site.parse(hook_point, self.record["arch"])
        # a cache is read on the CPU, a step ahead of a GPU
        reading = "cpu" if activations.source == "cache" else device
        self._open = partial(open_activations, activations, hook_point, cache, model_folder, corpus_folder, reading)
        self.source: ActivationCache | ActivationStream = self._open()
        self._streams: dict[tuple[int, int], ActivationStream] = {}
        self._device = torch.device(device)
        self._reader = ThreadPoolExecutor(1) if reading != device else None
        self._ahead: dict[tuple, Future] = {}
        end_to_end = [job.spec for job in jobs if job.spec.objective != "local"]
        self.model: Decoder | BridgeModel | None = load_model(model_folder, device) if end_to_end else None
        self.capture = list(dict.fromkeys(name for spec in end_to_end for name in self.downstream(spec)))
        self._held: dict[tuple, Any] = {}
        self._statistics: dict[int, Tensor] = {}

    def forget(self) -> None:
        """Drop what was computed for the last step."""
        self._held.clear()

    def downstream(self, spec: RunSpec) -> list[str]:
        """Hook points that the run reconstructs downstream."""
        return downstream_hook_points(spec, self.site, self.record["arch"])

    def offset(self, spec: RunSpec) -> int:
        """Runs of different seeds start at different places of the stored shuffle; so does a run that continues another."""
        purpose = ("data", spec.seed, "finetune") if spec.objective == "finetune" else ("data", spec.seed)
        return derive_seed(*purpose) % (self.source.n_rows * self.source.context)

    def batch(self, spec: RunSpec, step: int) -> tuple[Tensor, CleanPass | None]:
        """Values at the hook point (tokens, d_in), and for the end-to-end objectives the clean pass on them."""
        place = (spec.objective == "local", self.offset(spec), spec.training.batch_tokens)
        key = (*place, spec.training.tf32)  # which the clean pass depends on
        if key not in self._held:
            values = self._read(*place, step)
            x = values[self.site.name]
            clean = None
            if spec.objective != "local":
                clean = CleanPass(self.model, self.site, x, values[self.site.stream], self.capture)
            self._held[key] = x.flatten(0, -2), clean
        return self._held[key]

    def _read(self, local: bool, offset: int, size: int, step: int) -> dict[str, Tensor]:
        if self._reader is None:
            return self._values(local, offset, size, step)
        waiting = self._ahead.pop((local, offset, size, step), None)
        values = waiting.result() if waiting else self._values(local, offset, size, step)
        self._ahead[local, offset, size, step + 1] = self._reader.submit(self._values, local, offset, size, step + 1)
        return {name: value.pin_memory().to(self._device, non_blocking=True) for name, value in values.items()}

    def _values(self, local: bool, offset: int, size: int, step: int) -> dict[str, Tensor]:
        """Values at the hook point, tokens for a local run and whole rows otherwise, and what the model continues from."""
        if local:
            return {self.site.name: self._reader_at(offset, size).tokens(offset + step * size, size)}
        rows = size // self.source.context
        start = offset // self.source.context + step * rows
        return self.source.sequences_at(start, rows, dict.fromkeys([self.site.name, self.site.stream]))

    def _reader_at(self, offset: int, size: int) -> ActivationCache | ActivationStream:
        """A stream holds one block of activations; runs at different places of the corpus would drive out each other's."""
        if isinstance(self.source, ActivationCache):
            return self.source
        if (offset, size) not in self._streams:
            self._streams[offset, size] = self._open() if self._streams else self.source
        return self._streams[offset, size]

    def sample(self, n_tokens: int) -> Tensor:
        """The first activations of the stored shuffle, for statistics."""
        n_tokens = min(n_tokens, self.source.n_rows * self.source.context)
        if n_tokens not in self._statistics:
            self._statistics[n_tokens] = self.source.tokens(0, n_tokens).to(self._device)
        return self._statistics[n_tokens]


@dataclass
class _Run:
    job: Job
    member: Member
    folder: RunFolder
    first: int
    result: StepResult | None = None
    fault: UserError | None = None
    started: float = field(default_factory=time.monotonic)

    def save(self, done: int) -> None:
        """A checkpoint after `done` steps, unless the run failed or its checkpoint is already further."""
        if self.fault is None and self.result is not None and self.check(done):
            self.folder.save(done)

    def check(self, done: int) -> bool:
        """Whether the run is sound after `done` steps; if not, it takes no further step."""
        try:
            self.folder.check(done, self.result)
        except UserError as fault:
            self.fault = fault
        return self.fault is None


def _raise_faults(runs: list[_Run]) -> None:
    """Raise what stopped runs, if any did; the others have their checkpoints."""
    faults = [run.fault for run in runs if run.fault is not None]
    if faults:
        kept = len(runs) - len(faults)
        others = f" The {kept} other(s) of this job lost nothing." if kept else ""
        raise UserError(" ".join(str(fault) for fault in faults) + others)


def _prepare(job: Job, data: _Data, device: str) -> _Run:
    spec, settings, source = job.spec, job.spec.training, data.source
    n_steps = settings.n_tokens // settings.batch_tokens
    if n_steps == 0 or (spec.objective != "local" and settings.batch_tokens % source.context):
        raise UserError(
            f"run {spec.name} cannot train on {settings.n_tokens} tokens in batches of {settings.batch_tokens}: there must be one batch at "
            f"least, and end-to-end batches hold whole rows of {source.context} tokens."
        )
    if settings.precision == "bf16" and device == "cpu":
        raise UserError(f"run {spec.name} asks for `precision: bf16`, which is for CUDA devices; set it to float32 here.")
    if (spec.objective == "finetune") != (job.start_from is not None):
        raise UserError(f"run {spec.name} has objective `{spec.objective}`: --start-from belongs to `finetune`, which needs it.")
    sae = build_sae(source.d_in, settings, spec.k)
    scale, variance = _statistics(spec, data)
    if job.start_from is not None:
        load_into(sae, job.start_from)
        _unfold(sae, scale)
    else:
        # objectives draw different initialisations from one seed: sharing them would raise the cosines between dictionaries
        generator = torch.Generator().manual_seed(derive_seed("init", spec.seed, spec.objective))
        sample = None
        if settings.decoder_bias_init in ("mean", "geometric_median"):
            sample = sae.normalise(data.sample(settings.statistics_tokens).cpu() * scale)[0]
        initialise(sae, settings, generator, sample)
    sae = sae.to(device).train()
    offset = data.offset(spec)

    def more(step: int) -> Tensor:
        return source.tokens(offset + (step + 1) * settings.batch_tokens, settings.statistics_tokens).to(device)

    member = Member(spec, sae, data.downstream(spec), n_steps, scale, variance, more)
    start = job.start_from and sha256_file(job.start_from / "sae_weights.safetensors")
    identity = content_hash({"spec": spec.model_dump(), "data": source.manifest, "fingerprint": job.fingerprint, "start": start})
    folder = RunFolder(job.scratch, identity, member)
    first = folder.restore()
    print(f"resuming {spec.name} at step {first}" if first else describe_run(spec, sae, source, data.model, n_steps), flush=True)
    return _Run(job, member, folder, first)


@torch.no_grad()
def _unfold(sae: SAE, scale: float) -> None:
    """Saved weights back in the scale of their training, where the coefficients, the rate and the loss have their meaning."""
    for name, tensor in [*sae.named_parameters(), *sae.named_buffers()]:
        if name in ("b_enc", "b_dec", "b_mag", "threshold", "threshold_sum"):
            tensor.mul_(scale)


def _statistics(spec: RunSpec, data: _Data) -> tuple[float, Tensor | None]:
    """Activation scale, and variance of the scaled and normalised data where the loss needs it."""
    settings, d_in = spec.training, data.source.d_in
    scale, variance = 1.0, None
    if settings.activation_scale in ("norm", "mean_square"):
        sample = data.sample(settings.statistics_tokens)
        if settings.activation_scale == "norm":
            scale = (d_in**0.5 / sample.norm(dim=1).double().mean()).item()
        else:
            scale = sample.double().square().mean().rsqrt().item()
    if settings.mse_norm == "variance":
        sample = build_sae(d_in, settings, spec.k).normalise(data.sample(settings.statistics_tokens) * scale)[0]
        variance = (sample - sample.mean(dim=0)).square().mean()
    return scale, variance


def _step(run: _Run, step: int, data: _Data, bar: tqdm) -> None:
    spec, member, folder = run.job.spec, run.member, run.folder
    settings = spec.training
    torch.backends.cuda.matmul.allow_tf32 = settings.tf32
    run.result = member.step(step, *data.batch(spec, step))
    done = step + 1
    at_checkpoint = done % settings.checkpoint_every == 0 and done < member.n_steps
    if (member.logs(done) or at_checkpoint) and not run.check(done):  # a checkpoint must be one to go back to
        return
    if member.logs(done):
        line = member.log_line(done, run.result)
        folder.write(line)
        rate = settings.batch_tokens * (done - run.first) / (time.monotonic() - run.started)
        bar.set_postfix_str(
            f"{spec.name}: loss {line['loss']:.4g}, L0 {line['l0']:.1f}, dead {line['dead_features']}, {rate:,.0f} tokens/s",
            refresh=False,
        )
    if at_checkpoint:
        folder.save(done)


class _StopOnSignal:
    """While active, SIGTERM and SIGINT ask for a checkpoint at the end of the step instead of killing the process."""

    requested = False

    def __enter__(self) -> None:
        self._previous = {number: signal.signal(number, self._request) for number in (signal.SIGTERM, signal.SIGINT)}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, *_: object) -> None:
        self.requested = True


def _publish(run: _Run, data: _Data) -> None:
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
    sae: SAE = run.member.final_sae()
    save_sae(sae, staging, metadata, scale=run.member.scale)
    shutil.copyfile(run.folder.log_path, staging / "log.jsonl")
    manifest = {
        "spec": spec.model_dump(),
        "data": source.manifest,
        "sources": corpus["sources"],
        "fingerprint": job.fingerprint,
        "n_steps": run.member.n_steps,
        "tokens_seen": run.member.n_steps * spec.training.batch_tokens,
        "activation_scale": run.member.scale,
        "threads": torch.get_num_threads(),
        "device": _device_name(run.member.sae.W_enc.device),
        "triton_kernels": run.member.compacts,
        "environment": environment(),
    }
    write_json(staging / "manifest.json", manifest)
    publish(staging, job.out)


def _device_name(device: torch.device) -> str:
    """What bytes depend on beside the seed: `cpu`, or the model of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def main(
    spec: list[Json],
    activations: Json,
    cache: str,
    model: str,
    corpus: str,
    out: list[str],
    scratch: list[str],
    device: str,
    fingerprint: list[str] | None = None,
    start_from: str | None = None,
) -> None:
    """Train one SAE, or several of one hook point together.

    Args:
        spec: the run, a `RunSpec`; several train together.
        activations: the `activations` block of the configuration.
        cache: folder of the activation cache.
        model: folder of the prepared model.
        corpus: folder of the corpus.
        out: folder of the run, one for each spec.
        scratch: folder for checkpoints, one for each spec; the same command continues from the last.
        device: where to compute: cpu or cuda.
        fingerprint: identity of the step, kept in its record; one for each spec.
        start_from: folder of the run that a `finetune` run continues.

    Raises:
        UserError: there are not as many folders as specs, or as `train_together`.
    """
    fingerprints = fingerprint or [None] * len(spec)
    if not len(spec) == len(out) == len(scratch) == len(fingerprints):
        raise UserError(
            f"{len(spec)} --spec need as many --out, --scratch and --fingerprint; {len(out)}, {len(scratch)} and {len(fingerprints)} are given."
        )
    specs = [parse(RunSpec, json.loads(one), "runs") for one in spec]
    if start_from and len(specs) > 1:
        raise UserError(f"--start-from is given for {len(specs)} --spec; runs that start from another train one at a time.")
    jobs = [
        Job(one, Path(o), Path(s), f, Path(start_from) if start_from else None)
        for one, o, s, f in zip(specs, out, scratch, fingerprints, strict=True)
    ]
    train_together(
        jobs, parse(ActivationsConfig, json.loads(activations), "activations"), Path(cache), Path(model), Path(corpus), device
    )
