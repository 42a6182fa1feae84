"""The training loop, over one or several runs that read the same activations."""

from __future__ import annotations

import shutil
import time

import torch
from tqdm import tqdm

from ..store.errors import Interrupted, UserError
from .data import Data
from .prepare import Run
from .publish import publish_run
from .signals import StopOnSignal


def train_runs(runs: list[Run], data: Data, progress: bool = True) -> None:
    """Train prepared runs to their ends and publish them.

    Raises:
        UserError: a run's loss failed; the others have their checkpoints.
        Interrupted: a signal arrived; checkpoints were written.
    """
    n_steps = max(run.member.n_steps for run in runs)
    first = min(run.first for run in runs)
    bar = tqdm(total=n_steps, initial=first, unit="step", disable=not progress, mininterval=1.0)
    with StopOnSignal() as stop, bar:
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
                    f"{_names(runs)} stopped at step {step + 1} of {n_steps}; the same command continues from there."
                )
        if any(run.fault for run in runs):
            for run in runs:
                run.save(run.member.n_steps)
            _raise_faults(runs)
    for run in runs:
        publish_run(run, data)
    for run in runs:  # only now: if one could not be published, all can be again
        shutil.rmtree(run.job.scratch)


def _step(run: Run, step: int, data: Data, bar: tqdm) -> None:
    """One step of one run, with its line in the log and its checkpoint."""
    spec, member, folder = run.job.spec, run.member, run.folder
    settings = spec.training
    torch.backends.cuda.matmul.allow_tf32 = settings.tf32
    x, clean = data.batch(spec, step)
    run.result = member.step(step, x, clean)
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


def _raise_faults(runs: list[Run]) -> None:
    """Raise what stopped runs, if any did; the others have their checkpoints."""
    faults = [run.fault for run in runs if run.fault is not None]
    if faults:
        kept = len(runs) - len(faults)
        others = f" The {kept} other(s) of this job lost nothing." if kept else ""
        raise UserError(" ".join(str(fault) for fault in faults) + others)


def _names(runs: list[Run]) -> str:
    first = runs[0].job.spec.name
    return f"run {first}" if len(runs) == 1 else f"{len(runs)} runs ({first}, …)"
