"""The scratch folder of a run: what outlives an interruption, and whether it is worth keeping."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch

from ..config.objectives import penalty_of
from ..config.training import TrainingConfig
from ..store.checkpoint import load_checkpoint, restore, save_checkpoint
from ..store.errors import UserError
from ..store.files import sync
from .member import Member, StepResult

_EXPLODED = 1e4  # times the first loss that was logged


class RunFolder:
    """The scratch folder of a run: its checkpoint and its log, cut back to the checkpoint when the run continues."""

    def __init__(self, scratch: Path, identity: str, member: Member) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self.scratch, self.identity, self.member = scratch, identity, member
        self.checkpoint, self.log_path = scratch / "checkpoint.safetensors", scratch / "log.jsonl"
        self._first_loss: float | None = None

    def save(self, step: int) -> None:
        """Write a checkpoint of the state after `step` steps."""
        sync(self.log_path)  # the checkpoint counts its bytes
        state = {"step": step, "identity": self.identity, "log_bytes": os.path.getsize(self.log_path)}
        if self.member.execution.entries is not None:
            state["entries"] = self.member.execution.entries
        save_checkpoint(self.checkpoint, self.member.tensors(), state)

    def restore(self) -> int:
        """Load the checkpoint of this very run, if any, cut the log to it and return the step to continue from."""
        loaded = load_checkpoint(self.checkpoint, "step", "identity", "log_bytes") if self.log_path.exists() else None
        if (
            loaded is None
            or loaded[1]["identity"] != self.identity  # of other settings under the same name
            or os.path.getsize(self.log_path) < loaded[1]["log_bytes"]  # of another log
        ):
            self.log_path.write_text("")
            return 0
        tensors, state = loaded
        with torch.no_grad():
            restore(self.checkpoint, tensors, self.member.tensors())
        self.member.execution.entries = state.get("entries")
        os.truncate(self.log_path, state["log_bytes"])
        return state["step"]

    def write(self, line: dict) -> None:
        """Append a line to the log."""
        with self.log_path.open("a") as log:
            log.write(json.dumps(line) + "\n")

    def check(self, step: int, result: StepResult) -> None:
        """Stop a run whose loss is no longer finite, or has exploded.

        Raises:
            UserError: with the step, the last good checkpoint and what to change.
        """
        if self._first_loss is None:
            with self.log_path.open() as log:
                first = log.readline()
            self._first_loss = json.loads(first)["loss"] if first else None
        loss = result.loss.item()
        exploded = self._first_loss is not None and loss > _EXPLODED * abs(self._first_loss)
        if result.loss.isfinite() and result.grad_norm.isfinite() and not exploded:
            return
        kept = f"the last good checkpoint is {self.checkpoint}" if self.checkpoint.exists() else "there is no checkpoint yet"
        raise UserError(
            f"the loss of run {self.member.spec.name} is {loss:g} with gradient norm {result.grad_norm.item():g} at step {step} ({kept}); "
            f"{_mend(self.member.spec.training)}, then run again: with other settings the run starts over."
        )


def _mend(settings: TrainingConfig) -> str:
    """What to change about a loss that grew without bound."""
    if penalty_of(settings.architecture, settings.penalty) == "lp" and settings.lp_p > 1:  # it punishes large activations
        return f"lower `lp_p` (now {settings.lp_p:g}) to 1 or below"
    clip = " or set `grad_clip`" if settings.grad_clip is None else f" or `grad_clip` (now {settings.grad_clip:g})"
    return f"lower `lr` (now {settings.lr:g}){clip}"
