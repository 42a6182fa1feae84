"""Runs from their jobs: the SAE's first values, the statistics of the data, and what an interruption left."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..config.objectives import OBJECTIVES
from ..config.training import RunSpec
from ..sae.build import build_sae
from ..sae.formats import load_into
from ..sae.init import initialise
from ..store.errors import UserError
from ..store.files import content_hash, sha256_file
from ..store.seeds import derive_seed
from .data import Data
from .member import Member, StepResult
from .objective import Objective
from .scratch import RunFolder


@dataclass
class Job:
    """A run to train: where it goes, where its state lives until then, and the run that it continues, if any."""

    spec: RunSpec
    out: Path
    scratch: Path
    fingerprint: str | None = None
    start_from: Path | None = None


@dataclass
class Run:
    """A run on its way. A run with a `fault` takes no further step."""

    job: Job
    member: Member
    folder: RunFolder
    first: int
    result: StepResult | None = None
    fault: UserError | None = None
    started: float = field(default_factory=time.monotonic)

    def save(self, done: int) -> None:
        """A checkpoint after `done` steps, unless the run failed or made no step since its last one."""
        if self.fault is None and self.result is not None and self.check(done):
            self.folder.save(done)

    def check(self, done: int) -> bool:
        """Whether the run is sound after `done` steps; if not, it takes no further step."""
        try:
            self.folder.check(done, self.result)
        except UserError as fault:
            self.fault = fault
        return self.fault is None


def prepare(job: Job, data: Data, device: str) -> Run:
    """A run with its first values, or those of its last checkpoint.

    Raises:
        UserError: the settings do not fit each other, the data or the device.
    """
    spec, settings, source = job.spec, job.spec.training, data.source
    objective = OBJECTIVES[spec.objective]
    n_steps = settings.n_tokens // settings.batch_tokens
    if n_steps == 0 or (spec.whole_rows and settings.batch_tokens % source.context):
        raise UserError(
            f"run {spec.name} cannot train on {settings.n_tokens} tokens in batches of {settings.batch_tokens}: there must be one batch at "
            f"least, and batches of whole rows (end to end, or `order: rows`) a multiple of {source.context} tokens."
        )
    if settings.precision == "bf16" and device == "cpu":
        raise UserError(f"run {spec.name} asks for `precision: bf16`, which is for CUDA devices; set it to float32 here.")
    if objective.starts_from_run != (job.start_from is not None):
        mend = "which needs --start-from" if objective.starts_from_run else "which takes no --start-from"
        raise UserError(f"run {spec.name} has objective `{spec.objective}`, {mend}; correct the command.")
    sae = build_sae(source.d_in, settings, spec.k)
    scale, variance = _statistics(spec, data)
    if job.start_from is not None:
        load_into(sae, job.start_from)
        sae.rescale(scale)  # back to that of the training, where the coefficients, the rate and the loss have their meaning
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

    member = Member(spec, sae, Objective(spec, data.downstream(spec), scale, variance), n_steps, more)
    start = job.start_from and sha256_file(job.start_from / "sae_weights.safetensors")
    identity = content_hash({"spec": spec.model_dump(), "data": source.manifest, "fingerprint": job.fingerprint, "start": start})
    folder = RunFolder(job.scratch, identity, member)
    return Run(job, member, folder, folder.restore())


def _statistics(spec: RunSpec, data: Data) -> tuple[float, Tensor | None]:
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
