"""One run in training: its SAE, optimiser, counters and checkpoints; a step at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from ..config.training import RunSpec
from ..sae.base import SAE, Forward
from ..sae.compact import LateNumber, capacity_for, usable
from ..sae.dead import resample
from ..store.checkpoint import load_checkpoint, save_checkpoint
from ..store.errors import UserError
from ..store.seeds import derive_seed
from .objective import CleanPass, coefficients, loss_terms, total
from .schedule import lr_factor, rewarm_factor, sparsity_factor

_EXPLODED = 1e4  # times the first loss that was logged
# share of active entries above which dense products are faster on a CUDA device, in float32 and with products on tensor cores;
# estimated from the rates of an H200, `tests/benchmarks/gpu.py --parts density` measures it
_DENSE_ABOVE = {"float32": 0.05, "tensor cores": 0.01}


@dataclass
class StepResult:
    """What one step leaves for the log."""

    terms: dict[str, Tensor]
    loss: Tensor
    grad_norm: Tensor
    l0: Tensor | None


class Member:
    """A run in training. All that outlives an interruption is in `tensors` and `entries`; batches are a function of the step.

    Args:
        sample: yields activations (n, d_in) by place, for resampling.
    """

    def __init__(
        self,
        spec: RunSpec,
        sae: SAE,
        downstream: list[str],
        n_steps: int,
        scale: float,
        variance: Tensor | None,
        sample: Callable[[int], Float[Tensor, "n d_in"]],
    ) -> None:
        self.spec, self.sae, self.downstream, self.n_steps = spec, sae, downstream, n_steps
        self.scale, self.variance, self._sample = scale, variance, sample
        settings = spec.training
        self.weights = coefficients(spec)
        self.optimizer = torch.optim.Adam(
            sae.parameters(), lr=settings.lr, betas=(settings.adam_beta1, settings.adam_beta2), eps=settings.adam_eps, fused=True
        )
        self.silent = torch.zeros(sae.d_sae, dtype=torch.long, device=sae.W_enc.device)  # tokens since a feature last fired
        self.average = [torch.zeros_like(p) for p in sae.parameters()] if settings.weight_ema else []
        self._resample_at = _resample_steps(spec, n_steps)
        self.compacts = sae.elementwise and settings.dead_features != "auxk" and usable(sae.W_enc.device)
        self.entries: int | None = None  # that were active in the last step, where it `compacts`
        self.dense_above = _DENSE_ABOVE["tensor cores" if settings.tf32 or settings.precision == "bf16" else "float32"]

    def step(self, step: int, x: Float[Tensor, "B d_in"], clean: CleanPass | None) -> StepResult:
        """One optimiser step on the values `x` at the hook point. L0 is counted in steps that are logged."""
        settings = self.spec.training
        for group in self.optimizer.param_groups:
            factor = lr_factor(settings, step, self.n_steps) * rewarm_factor(settings, step, self._resample_at)
            group["lr"] = settings.lr * factor
        dead = self._dead() if settings.dead_features not in ("none", "resample") else None
        terms, forward, loss = self._gradients(step, x, clean, dead)
        self.sae.before_step()
        grad_norm = torch.nn.utils.clip_grad_norm_(self.sae.parameters(), settings.grad_clip or torch.inf)
        self.optimizer.step()
        self.sae.after_step()
        if self.average:
            torch._foreach_lerp_(self.average, [p.detach() for p in self.sae.parameters()], 1 - settings.weight_ema)
        self._count(forward, len(x))
        if step + 1 in self._resample_at:
            generator = torch.Generator().manual_seed(derive_seed("resample", self.spec.seed, step))
            inputs = self.sae.normalise(self._sample(step) * self.scale)[0]
            resample(self.sae, self.optimizer, self.silent >= settings.dead_window_tokens, inputs, generator)
            self.silent[self.silent >= settings.dead_window_tokens] = 0  # they get a whole window to fire in
        l0 = forward.codes.l0() if self.logs(step + 1) else None
        return StepResult({name: value.detach() for name, value in terms.items()}, loss.detach(), grad_norm, l0)

    def _gradients(
        self, step: int, x: Tensor, clean: CleanPass | None, dead: Tensor | None
    ) -> tuple[dict[str, Tensor], Forward, Tensor]:
        """`(terms, forward pass, loss)` of a batch; the gradients are left at the parameters."""
        capacity = self.capacity(len(x))
        terms, forward = loss_terms(self.sae, x, self.spec, clean, self.downstream, dead, self.scale, self.variance, capacity)
        # sent before the device gets the backward pass, during which the host then reads it
        count = LateNumber(self.sae.count_selected(forward.pre)) if self.compacts else None
        factor = sparsity_factor(self.spec.training, step, self.n_steps)
        loss = total(terms, self.weights, factor, self.spec.objective == "finetune")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if count is not None:
            self.entries = count.read()
            if capacity is not None and self.entries > capacity:
                self.entries = None
                return self._gradients(step, x, clean, dead)
        return terms, forward, loss

    def capacity(self, n_tokens: int) -> int | None:
        """Places for the active entries of the next step; None if its products are dense."""
        return capacity_for(self.entries, (n_tokens, self.sae.d_sae), self.dense_above) if self.compacts else None

    def logs(self, done: int) -> bool:
        """Whether there is a line in the log after `done` steps."""
        return done % self.spec.training.log_every == 0 or done == self.n_steps

    def _dead(self) -> Tensor | None:
        dead = self.silent >= self.spec.training.dead_window_tokens
        # asking a GPU whether there is any would stall it
        return dead if dead.is_cuda or dead.any() else None

    @torch.no_grad()
    def _count(self, forward: Forward, n_tokens: int) -> None:
        self.silent.add_(n_tokens).masked_fill_(forward.codes.fired(), 0)

    def log_line(self, step: int, result: StepResult) -> dict:
        """One line of log.jsonl: values of this step's batch, nothing that depends on the clock."""
        settings = self.spec.training
        return {
            "step": step,
            "tokens": step * settings.batch_tokens,
            "lr": self.optimizer.param_groups[0]["lr"],
            "loss": result.loss.item(),
            **{name: value.item() for name, value in result.terms.items()},
            "grad_norm": result.grad_norm.item(),
            "l0": result.l0.item(),
            "dead_features": int((self.silent >= settings.dead_window_tokens).sum()),
        }

    def final_sae(self) -> SAE:
        """The SAE to save: with averaged weights, where there are such."""
        if self.average:
            weight = 1 - self.spec.training.weight_ema**self.n_steps  # the average started from zeros
            with torch.no_grad():
                for parameter, average in zip(self.sae.parameters(), self.average, strict=True):
                    parameter.copy_(average / weight)
            self.sae.after_step()
        return self.sae.eval()

    # what outlives an interruption

    def tensors(self) -> dict[str, Tensor]:
        """All state, by name, to be read or written in place."""
        state = {"silent": self.silent}
        state |= {f"buffer.{name}": buffer for name, buffer in self.sae.named_buffers()}
        for i, (name, parameter) in enumerate(self.sae.named_parameters()):
            state[f"sae.{name}"] = parameter
            state |= {f"adam.{key}.{name}": value for key, value in self._moments(parameter).items()}
            if self.average:
                state[f"ema.{name}"] = self.average[i]
        return state

    def _moments(self, parameter: Tensor) -> dict[str, Tensor]:
        state = self.optimizer.state[parameter]
        if not state:  # as Adam itself makes it at the first step
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state


class RunFolder:
    """The scratch folder of a run: its checkpoint and its log, cut back to the checkpoint when the run continues."""

    def __init__(self, scratch: Path, identity: str, member: Member) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self.scratch, self.identity, self.member = scratch, identity, member
        self.checkpoint, self.log_path = scratch / "checkpoint.safetensors", scratch / "log.jsonl"
        self._first_loss: float | None = None

    def save(self, step: int) -> None:
        """Write a checkpoint of the state after `step` steps."""
        state = {"step": step, "identity": self.identity, "log_bytes": os.path.getsize(self.log_path)}
        if self.member.entries is not None:
            state["entries"] = self.member.entries
        save_checkpoint(self.checkpoint, self.member.tensors(), state)

    def restore(self) -> int:
        """Load the checkpoint of this very run, if any, cut the log to it and return the step to continue from."""
        loaded = load_checkpoint(self.checkpoint) if self.log_path.exists() else None
        if loaded is None or loaded[1]["identity"] != self.identity:  # none, or of other settings under the same name
            self.log_path.write_text("")
            return 0
        tensors, state = loaded
        with torch.no_grad():
            for name, tensor in self.member.tensors().items():
                tensor.copy_(tensors[name])
        self.member.entries = state.get("entries")
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
        settings = self.member.spec.training
        clip = " or set `grad_clip`" if settings.grad_clip is None else f" or `grad_clip` (now {settings.grad_clip:g})"
        raise UserError(
            f"the loss of run {self.member.spec.name} is {loss:g} with gradient norm {result.grad_norm.item():g} at step {step} ({kept}); "
            f"lower `lr` (now {settings.lr:g}){clip}, then run again: with other settings the run starts over."
        )


def _resample_steps(spec: RunSpec, n_steps: int) -> set[int]:
    settings = spec.training
    if settings.dead_features != "resample":
        return set()
    if settings.resample_tokens is None:
        return {n_steps * i // 8 for i in (1, 2, 3, 4)} - {0}
    return {max(1, round(tokens / settings.batch_tokens)) for tokens in settings.resample_tokens}
