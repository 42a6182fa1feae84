"""The training stage: jobs from the command line, and what is said about them."""

from __future__ import annotations

import json
from pathlib import Path

from ..config.activations import ActivationsConfig
from ..config.base import Json, parse
from ..config.training import RunSpec
from ..store.determinism import deterministic
from ..store.errors import UserError
from .data import Data
from .estimate import describe_run, out_of_memory
from .joint import train_spliced
from .loop import train_runs
from .prepare import Job, Run, prepare


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
    """Train one run: `train_together` with a single job.

    Raises:
        UserError: the run is of a set that trains together, or as `train_together`.
    """
    if spec.spliced:
        raise UserError(
            f"run {spec.name} trains together with those of its name at {', '.join(spec.spliced)}; give all of them to "
            "`training.joint.train_spliced`."
        )
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
    specs = [job.spec for job in jobs]
    with deterministic(device):
        data = Data(specs, activations, cache_folder, model_folder, corpus_folder, device)
        with out_of_memory(data.source, specs, data.model):
            runs = []
            for job in jobs:
                runs.append(prepare(job, data, device))
                print(_beginning(runs[-1], data), flush=True)
            train_runs(runs, data, progress)


def _beginning(run: Run, data: Data) -> str:
    if run.first:
        return f"resuming {run.job.spec.name} at step {run.first}"
    return describe_run(run.job.spec, run.member.sae, data.source, data.model, run.member.n_steps)


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
    """Train one SAE, several of one hook point together, or a set that is spliced in together.

    Args:
        spec: the run, a `RunSpec`; several train together. Those of a set are given in the order of the model.
        activations: the `activations` block of the configuration.
        cache: folder of the activation cache.
        model: folder of the prepared model.
        corpus: folder of the corpus.
        out: folder of the run, one for each spec.
        scratch: folder for checkpoints, one for each spec; the same command continues from the last.
        device: where to compute: cpu or cuda.
        fingerprint: what stands for the identity of the run, kept in its manifest; one for each spec.
        start_from: folder of the run that is continued, for an objective that starts from one.

    Raises:
        UserError: there are not as many folders as specs, or as `train_together`.
    """
    fingerprints = fingerprint or [None] * len(spec)
    if not len(spec) == len(out) == len(scratch) == len(fingerprints):
        raise UserError(
            f"{len(spec)} --spec need as many --out, --scratch and --identity; {len(out)}, {len(scratch)} and {len(fingerprints)} are given."
        )
    specs = [parse(RunSpec, json.loads(one), "runs") for one in spec]
    if start_from and len(specs) > 1:
        raise UserError(f"--start-from is given for {len(specs)} --spec; runs that start from another train one at a time.")
    jobs = [
        Job(one, Path(o), Path(s), f, Path(start_from) if start_from else None)
        for one, o, s, f in zip(specs, out, scratch, fingerprints, strict=True)
    ]
    together = train_spliced if any(one.spliced for one in specs) else train_together
    together(
        jobs, parse(ActivationsConfig, json.loads(activations), "activations"), Path(cache), Path(model), Path(corpus), device
    )
