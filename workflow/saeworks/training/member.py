"""One run in training: its SAE, optimiser, counters and checkpoints; a step at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..config.training import RunSpec
from ..sae.base import SAE, Forward
from ..sae.dead import resample
from ..sae.execution.choice import choose
from ..store.seeds import derive_seed
from .clean import CleanPass
from .objective import Objective
from .schedule import lr_factor, rewarm_factor, sparsity_factor


@dataclass
class StepResult:
    """What one step leaves for the log."""

    terms: dict[str, Tensor]
    loss: Tensor
    grad_norm: Tensor
    l0: Tensor | None


class Member:
    """A run in training. All that outlives an interruption is in `tensors` and `execution.entries`; batches are a function of the step.

    Args:
        sae: on its device, with its first values.
        sample: yields activations (n, d_in) by step, for resampling.
    """

    def __init__(
        self, spec: RunSpec, sae: SAE, objective: Objective, n_steps: int, sample: Callable[[int], Float[Tensor, "n d_in"]]
    ) -> None:
        self.spec, self.sae, self.objective, self.n_steps, self._sample = spec, sae, objective, n_steps, sample
        settings = spec.training
        tensor_cores = settings.tf32 or settings.precision == "bf16"
        self.execution = choose(sae, auxk=settings.dead_features == "auxk", tensor_cores=tensor_cores)
        self.optimizer = torch.optim.Adam(
            sae.parameters(), lr=settings.lr, betas=(settings.adam_beta1, settings.adam_beta2), eps=settings.adam_eps, fused=True
        )
        self.silent = torch.zeros(sae.d_sae, dtype=torch.long, device=sae.W_enc.device)  # tokens since a feature last fired
        self.average = [torch.zeros_like(p) for p in sae.parameters()] if settings.weight_ema else []
        self._resample_at = _resample_steps(spec, n_steps)

    def step(self, step: int, x: Float[Tensor, "B d_in"], clean: CleanPass | None) -> StepResult:
        """One optimiser step on the values `x` at the hook point. L0 is counted in steps that are logged."""
        settings, sae = self.spec.training, self.sae
        for group in self.optimizer.param_groups:
            factor = lr_factor(settings, step, self.n_steps) * rewarm_factor(settings, step, self._resample_at)
            group["lr"] = settings.lr * factor
        dead = self._dead()

        def attempt() -> tuple[dict[str, Tensor], Tensor, Forward]:
            terms, forward = self.objective.terms(sae, self.execution, x, clean, dead)
            loss = self.objective.total(terms, sparsity_factor(settings, step, self.n_steps))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            return terms, loss, forward

        terms, loss, forward = self.execution.until_complete(attempt)
        sae.before_step()
        grad_norm = torch.nn.utils.clip_grad_norm_(sae.parameters(), settings.grad_clip or torch.inf)
        self.optimizer.step()
        sae.after_step()
        if self.average:
            torch._foreach_lerp_(self.average, [p.detach() for p in sae.parameters()], 1 - settings.weight_ema)
        with torch.no_grad():
            self.silent.add_(len(x)).masked_fill_(forward.codes.fired(), 0)
        if step + 1 in self._resample_at:
            self._resample(step)
        l0 = forward.codes.l0() if self.logs(step + 1) else None
        return StepResult({name: value.detach() for name, value in terms.items()}, loss.detach(), grad_norm, l0)

    def _dead(self) -> Bool[Tensor, " d_sae"] | None:
        """The dead features, if the loss has a term about them and there may be any."""
        settings = self.spec.training
        if settings.dead_features in ("none", "resample"):
            return None
        dead = self.silent >= settings.dead_window_tokens
        # asking a GPU whether there is any would stall it
        return dead if dead.is_cuda or dead.any() else None

    def _resample(self, step: int) -> None:
        dead = self.silent >= self.spec.training.dead_window_tokens
        generator = torch.Generator().manual_seed(derive_seed("resample", self.spec.seed, step))
        inputs = self.sae.normalise(self._sample(step) * self.objective.scale)[0]
        resample(self.sae, self.optimizer, dead, inputs, generator)
        self.silent[dead] = 0  # they get a whole window to fire in

    def logs(self, done: int) -> bool:
        """Whether there is a line in the log after `done` steps."""
        return done % self.spec.training.log_every == 0 or done == self.n_steps

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


def _resample_steps(spec: RunSpec, n_steps: int) -> set[int]:
    settings = spec.training
    if settings.dead_features != "resample":
        return set()
    if settings.resample_tokens is None:
        return {n_steps * i // 8 for i in (1, 2, 3, 4)} - {0}
    return {max(1, round(tokens / settings.batch_tokens)) for tokens in settings.resample_tokens}
