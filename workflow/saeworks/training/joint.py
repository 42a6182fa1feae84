"""SAEs at several hook points trained together: all are in the model at once, and minimise one loss.

The first reads the activations of the model, each later one what the model makes of the outputs of those before it. The loss is

    what the objective compares behind the SAEs, once, at the output of the model with all of them and, for `e2e_ds`, at the hook points
    downstream of any of them (where another SAE sits: at its input), against the model without SAEs;
    and for each SAE what a run has at the SAE itself, on the values that it reads: λ times its penalty and, if they have weight, its
    reconstruction error and what is done about its dead features.

Its gradient is taken in full: it reaches an SAE through all that is made of its output. It is clipped by its norm over all SAEs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from tqdm import tqdm

from ..activations.stream import ActivationStream
from ..config.activations import ActivationsConfig
from ..config.objectives import OBJECTIVES
from ..config.training import RunSpec
from ..lm.several import continue_through, in_order
from ..lm.sites import Site
from ..sae.base import SAE, Forward
from ..sae.execution.interface import Execution, Result
from ..sae.execution.through import Through
from ..store.determinism import deterministic
from ..store.errors import Interrupted, UserError
from ..store.files import content_hash
from .clean import CleanPass
from .data import Data
from .estimate import describe_run, out_of_memory
from .loop import _step as take_step
from .member import Member, StepResult
from .prepare import Job, Run, prepare
from .publish import publish_run
from .scratch import RunFolder
from .signals import StopOnSignal


def train_spliced(
    jobs: list[Job],
    activations: ActivationsConfig,
    cache_folder: Path,
    model_folder: Path,
    corpus_folder: Path,
    device: str = "cpu",
    progress: bool = True,
) -> None:
    """Train the runs of a set, in the order of the model, and publish each as `train_together` does.

    They start from the values, and at the place of the corpus, that each would start from alone. Statistics (activation scale, decoder
    bias, the inputs that are resampled) are those of the model without SAEs. The state of the set lies in the first job's scratch
    folder; with it an interrupted set continues, and ends with the same bytes as an uninterrupted one.

    Raises:
        UserError: the runs are not a whole set, bad settings or data, a loss that is no longer finite, or too little memory.
        Interrupted: a signal arrived; a checkpoint was written.
    """
    specs = [job.spec for job in jobs]
    _check_whole(specs)
    where = (activations, cache_folder, model_folder, corpus_folder, device)
    scratch = jobs[0].scratch
    with deterministic(device):
        first = Data(specs[:1], *where)
        sites = in_order([spec.hook_point for spec in specs], first.record["arch"], f"runs.{specs[0].group}.hook_points")
        data = [first, *(_OfLater(spec, *where) for spec in specs[1:])]
        with out_of_memory(first.source, specs, first.model):
            runs = []
            for number, (job, its) in enumerate(zip(jobs, data, strict=True)):
                runs.append(prepare(replace(job, scratch=scratch / str(number)), its, device))
                its.forget()
                print(describe_run(job.spec, runs[-1].member.sae, its.source, its.model, runs[-1].member.n_steps), flush=True)
            first.capture = _downstream(runs[0].member.objective.downstream, specs[0], sites, first)
            runs[0].member.objective.downstream = first.capture
            joint = JointMember([run.member for run in runs], sites)
            folder = RunFolder(scratch, content_hash([run.folder.identity for run in runs]), joint)
            whole = Run(jobs[0], joint, folder, folder.restore())
            if whole.first:
                print(f"resuming {specs[0].name} at step {whole.first}", flush=True)
            _train(whole, first, progress)
    joint.final_sae()
    lines = [json.loads(line) for line in folder.log_path.read_text().splitlines()]
    for number, (run, its) in enumerate(zip(runs, data, strict=True)):
        for line in lines:
            run.folder.write(line["runs"][number])
        publish_run(run, its)
    shutil.rmtree(scratch)  # only now: if one could not be published, all can be again


def _train(run: Run, data: Data, progress: bool) -> None:
    """Train a set to its end."""
    n_steps = run.member.n_steps
    bar = tqdm(total=n_steps, initial=run.first, unit="step", disable=not progress, mininterval=1.0)
    with StopOnSignal() as stop, bar:
        for step in range(run.first, n_steps):
            data.forget()
            take_step(run, step, data, bar)
            bar.update()
            if stop.requested:
                run.save(step + 1)
            if run.fault is not None:
                raise run.fault
            if stop.requested:
                raise Interrupted(
                    f"set {run.job.spec.name} stopped at step {step + 1} of {n_steps}; the same command continues from there."
                )


def _check_whole(specs: list[RunSpec]) -> None:
    first = next((spec for spec in specs if spec.spliced), specs[0])
    wanted = list(first.spliced or {})
    others = [spec for spec in specs if (spec.name, spec.spliced) != (first.name, first.spliced)]
    if others or sorted(wanted) != sorted(spec.hook_point for spec in specs):
        raise UserError(
            f"run {first.name} trains together with those of its name at {', '.join(wanted)}, and with no others; give one --spec for each "
            "of them, in the order of the model."
        )


class _OfLater(Data):
    """The activations that an SAE behind the first of a set is prepared from, without a model to train in: that is the first's.

    A stream, which computes the activations with a model, has one of its own.
    """

    def __init__(self, spec: RunSpec, *where: object) -> None:
        super().__init__([spec.model_copy(update={"objective": "local"})], *where)

    def downstream(self, spec: RunSpec) -> list[str]:
        """None: the set compares once."""
        return []

    def forget(self) -> None:
        """Drop what was computed; a stream computes its block again if inputs are resampled."""
        super().forget()
        if isinstance(self.source, ActivationStream):
            self.source._held = None


def _downstream(of_first: list[str], spec: RunSpec, sites: list[Site], data: Data) -> list[str]:
    """Hook points that the set reconstructs downstream: those of the first SAE, and where these are the next N, the next N of each."""
    if not of_first or spec.training.downstream_next is None:
        return of_first
    possible = [name for name in sites[0].downstream(data.record["arch"]) if name.endswith("hook_resid_pre")]
    chosen = set(of_first)
    for site in sites[1:]:
        later = [name for name in site.downstream(data.record["arch"]) if name.endswith("hook_resid_pre")]
        chosen.update(later[: spec.training.downstream_next])
    return [name for name in possible if name in chosen]


Term = tuple[int, str]


def terms_of(number: int, terms: dict[Term, Tensor]) -> dict[str, Tensor]:
    """The terms of one SAE, by name."""
    return {name: value for (its, name), value in terms.items() if its == number}


class JointSAE(nn.Module):
    """The SAEs of a set, as one thing to be optimised. Their features are counted one SAE after the other."""

    def __init__(self, saes: list[SAE]) -> None:
        super().__init__()
        self.saes = nn.ModuleList(saes)
        self.d_sae = sum(sae.d_sae for sae in saes)
        self.elementwise = all(sae.elementwise for sae in saes)

    @property
    def W_enc(self) -> Tensor:
        """That of the first, by which the device is known."""
        return self.saes[0].W_enc

    def before_step(self) -> None:
        """That of each."""
        for sae in self.saes:
            sae.before_step()

    def after_step(self) -> None:
        """That of each."""
        for sae in self.saes:
            sae.after_step()


class _Executions(Execution):
    """Those of the SAEs of a set."""

    def __init__(self, members: list[Member]) -> None:
        self._each = [member.execution for member in members]

    @property
    def entries(self) -> list[int | None] | None:
        """Those of each, or None if nothing depends on them."""
        found = [execution.entries for execution in self._each]
        return found if any(entries is not None for entries in found) else None

    @entries.setter
    def entries(self, entries: list[int | None] | None) -> None:
        for execution, its in zip(self._each, entries or [None] * len(self._each), strict=True):
            execution.entries = its

    def encode(self, *_: object) -> None:
        """Each SAE has its own."""
        raise NotImplementedError

    def until_complete(self, attempt: Callable[[], Result]) -> Result:
        """What left out nothing of any SAE."""
        for execution in self._each:
            attempt = partial(execution.until_complete, attempt)
        return attempt()


@dataclass
class JointForward:
    """The forward passes of the SAEs of a set."""

    steps: list[Forward]

    @property
    def codes(self) -> JointForward:
        """As `Forward.codes`, of which `fired` and `l0` are asked."""
        return self

    def fired(self) -> Bool[Tensor, " d_sae"]:
        """Features with a non-zero activation on some token."""
        return torch.cat([step.codes.fired() for step in self.steps])

    def l0(self) -> Float[Tensor, " saes"]:
        """Mean number of non-zero activations of a token, of each SAE."""
        return torch.stack([step.codes.l0() for step in self.steps])


class _ModelWithLater:
    """The clean pass of a set's first SAE, behind which the model goes on with the later SAEs in their places."""

    def __init__(self, clean: CleanPass, sites: list[Site], later: list[Member], dead: list[Tensor | None]) -> None:
        self.model, self.x, self.hidden, self.values = clean.model, clean.x, clean.hidden, clean.values
        self._clean, self._sites, self._later, self._dead = clean, sites, later, dead
        self.terms: list[dict[str, Tensor]] = []
        self.steps: list[Forward] = []

    def run(self, replacement: Tensor, capture: list[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """As `CleanPass.run`."""

        def output(number: int, value: Tensor) -> Tensor:
            if number == 0:
                return replacement
            member = self._later[number - 1]
            terms, step = member.objective.terms(member.sae, member.execution, value.flatten(0, -2), None, self._dead[number - 1])
            self.terms.append(terms)
            self.steps.append(step)
            return (step.denormalise(step.output) / member.objective.scale).view_as(value)

        return continue_through(self.model, self._sites, output, self.x, self._clean.stream, capture)


class JointObjective:
    """What a set minimises; in the place of a run's `Objective`. Its terms have the number of their SAE before their name."""

    def __init__(self, members: list[Member], sites: list[Site]) -> None:
        self._members, self._sites = members, sites

    def terms(
        self,
        sae: JointSAE,
        execution: Execution,
        x: Float[Tensor, "B d_in"],
        clean: CleanPass,
        dead: Bool[Tensor, " d_sae"] | None = None,
    ) -> tuple[dict[Term, Float[Tensor, ""]], JointForward]:
        """`(terms, forward pass)` on values `x` at the first hook point; the shared terms are among those of the first SAE."""
        first, *later = self._members
        of_first, *of_later = self._dead(dead)
        behind = _ModelWithLater(clean, self._sites, later, of_later)
        terms, step = first.objective.terms(first.sae, first.execution, x, behind, of_first)
        each = enumerate([terms, *behind.terms])
        return {(number, name): value for number, its in each for name, value in its.items()}, JointForward([step, *behind.steps])

    def total(self, terms: dict[Term, Float[Tensor, ""]], sparsity_factor: float = 1.0) -> Float[Tensor, ""]:
        """The sum of the weighted terms of all."""
        parts = []
        for number, objective in enumerate(member.objective for member in self._members):
            weighted = {name: value for name, value in terms_of(number, terms).items() if objective.weights.get(name, 1.0)}
            if weighted:
                parts.append(objective.total(weighted, sparsity_factor))
        return torch.stack(parts).sum()

    def _dead(self, dead: Tensor | None) -> list[Tensor | None]:
        """The dead features of each, None where there is none."""
        if dead is None:
            return [None] * len(self._members)
        parts = dead.split([member.sae.d_sae for member in self._members])
        return [part if part.is_cuda or part.any() else None for part in parts]


class JointMember(Member):
    """A set in training: one optimiser, one state and one checkpoint for all its SAEs.

    Args:
        members: its runs, in the order of the model. They keep their SAEs, objectives and executions; their optimisers, counters and
            averages are those of the set from here on.
    """

    def __init__(self, members: list[Member], sites: list[Site]) -> None:
        first = members[0]
        joint = JointSAE([member.sae for member in members])
        super().__init__(first.spec, joint, JointObjective(members, sites), first.n_steps, first._sample)
        self._members = members
        for member, silent in zip(members, self.silent.split([member.sae.d_sae for member in members]), strict=True):
            member.silent, member.optimizer, member.average = silent, self.optimizer, []
        for member in members[1:]:
            member.execution = Through(member.execution)
        self.execution = _Executions(members)

    def _resample(self, step: int) -> None:
        for member in self._members:
            member._resample(step)

    def log_line(self, step: int, result: StepResult) -> dict:
        """One line of the set's log, with the lines of its runs: the shared terms, the loss and the gradient norm are in each."""
        behind = {term.name for term in OBJECTIVES[self.spec.objective].terms if term.at != "sae"}
        shared = {name: value for name, value in terms_of(0, result.terms).items() if name in behind}
        runs = []
        for number, member in enumerate(self._members):
            terms = shared | terms_of(number, result.terms)
            runs.append(member.log_line(step, StepResult(terms, result.loss, result.grad_norm, result.l0[number])))
        dead = sum(line["dead_features"] for line in runs)
        return {"step": step, "loss": result.loss.item(), "l0": result.l0.mean().item(), "dead_features": dead, "runs": runs}
