"""The experiment file: parsing, errors a user can read, and expansion into run specs."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveFloat, field_validator

from ..store.errors import UserError
from ..store.files import content_hash
from .activations import ActivationsConfig
from .base import Frozen, parse
from .corpus import CorpusConfig, SampledCorpus
from .figures import FiguresConfig
from .measures import EvaluationConfig, GeometryConfig
from .model import ModelConfig, Name, model_label
from .pretrain import PretrainConfig
from .training import Objective, RunSpec, TrainingConfig, settings_without_effect

HookPoint = Annotated[str, Field(pattern=r"^blocks\.\d+\.hook_resid_(pre|post)$")]


class RunGroup(Frozen):
    """A family of runs: every combination of hook point, sparsity coefficient and seed."""

    objective: Objective = Field(
        description="`local` (reconstruction), `e2e` (KL of the output) or `e2e_ds` (KL and downstream reconstruction)."
    )
    hook_points: Annotated[list[HookPoint], Field(min_length=1)] = Field(
        description="Where the SAEs sit: `blocks.L.hook_resid_pre` or `blocks.L.hook_resid_post`."
    )
    sparsity_coeffs: Annotated[list[PositiveFloat], Field(min_length=1)] = Field(
        description="Sparsity coefficients λ; the loss is scaled by 1/d_in as in the authors' code."
    )
    seeds: Annotated[list[NonNegativeInt], Field(min_length=1)] = Field(
        default=[0], description="Seeds of initialisation and of the place in the shuffled data where the run starts."
    )
    training: dict[str, Any] = Field(default={}, description="Overrides of the experiment's `training` block for this group.")


class Experiment(Frozen):
    """An experiment file."""

    experiment: Name = Field(description="Name of the folder under results/; experiments coexist.")
    model: ModelConfig = Field(description="The language model.")
    corpus: CorpusConfig = Field(default_factory=SampledCorpus, description="The tokens.")
    activations: ActivationsConfig = Field(default_factory=ActivationsConfig, description="Activation cache or stream.")
    training: TrainingConfig = Field(default_factory=TrainingConfig, description="Settings of every run.")
    runs: Annotated[dict[Name, RunGroup], Field(min_length=1)] = Field(description="Run groups by name.")
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig, description="Evaluation on held-out rows.")
    geometry: GeometryConfig = Field(default_factory=GeometryConfig, description="Comparison of dictionaries.")
    figures: FiguresConfig = Field(default_factory=FiguresConfig, description="Figures, one block each.")

    @field_validator("runs")
    @classmethod
    def _lists_without_repeats(cls, runs: dict[str, RunGroup]) -> dict[str, RunGroup]:
        for group, settings in runs.items():
            for key in ("hook_points", "sparsity_coeffs", "seeds"):
                values = getattr(settings, key)
                if len(set(values)) != len(values):
                    raise ValueError(f"`{group}.{key}` lists a value twice")
        return runs

    def run_specs(self) -> list[RunSpec]:
        """All runs, in the order of the file.

        Raises:
            UserError: an override of a group does not fit the training settings.
        """
        specs = []
        for group, settings in self.runs.items():
            where = f"runs.{group}.training"
            idle = settings_without_effect(settings.objective)
            if useless := idle & settings.training.keys():
                raise UserError(f"`{where}.{min(useless)}` has no effect on objective `{settings.objective}`; remove it.")
            # left at their defaults, so that a run does not depend on what it does not use
            shared = self.training.model_dump(exclude=idle)
            training = parse(TrainingConfig, shared | settings.training, where)
            for hook_point in settings.hook_points:
                for coeff in settings.sparsity_coeffs:
                    for seed in settings.seeds:
                        fields = {
                            "name": f"{group}-c{coeff:.12g}-s{seed}",
                            "group": group,
                            "hook_point": hook_point,
                            "objective": settings.objective,
                            "sparsity_coeff": coeff,
                            "seed": seed,
                            "training": training.model_dump(),
                        }
                        specs.append(parse(RunSpec, fields, where))
        return specs

    def hook_points(self) -> list[str]:
        """Hook points of all runs, each once, in the order of the file."""
        return list(dict.fromkeys(spec.hook_point for spec in self.run_specs()))

    def model_key(self) -> str:
        """Folder name of the prepared model: its label and a hash of its settings."""
        return f"{model_label(self.model)}-{content_hash(self.model.model_dump(), 8)}"

    def corpus_key(self) -> str:
        """Folder name of the corpus; it depends on the model and its processing, from which it may be sampled."""
        return f"{model_label(self.model)}-{self.corpus.source}-{content_hash([self.model.model_dump(), self.corpus.model_dump()], 8)}"

    def activations_key(self) -> str:
        """Folder name of the activation cache."""
        return f"{self.corpus_key()}-{content_hash(self.activations.model_dump(exclude={'source'}), 8)}"


class PretrainExperiment(Frozen):
    """A file that trains a language model instead of SAEs (`config/novels-1m.yaml`)."""

    name: Name = Field(description="Name of the model; it is published under data/models/<name>.")
    pretrain: PretrainConfig = Field(description="Data, architecture and recipe.")


def parse_experiment(values: dict[str, Any]) -> Experiment:
    """Validate a whole experiment, run groups and overrides included.

    Raises:
        UserError: one sentence about the first fault.
    """
    experiment = parse(Experiment, values)
    specs = experiment.run_specs()
    context = experiment.corpus.context
    wanted = experiment.evaluation.n_tokens
    if wanted is not None and wanted > experiment.corpus.eval_tokens:
        raise UserError(
            f"`evaluation.n_tokens` is {wanted:,}, but `corpus.eval_tokens` holds out {experiment.corpus.eval_tokens:,}; lower the first or "
            "raise the second."
        )
    for spec in specs:
        if spec.objective != "local" and spec.training.batch_tokens % context:
            raise UserError(
                f"`batch_tokens` of group `{spec.group}` is {spec.training.batch_tokens}, but objective `{spec.objective}` reads whole "
                f"rows: make it a multiple of `corpus.context` ({context})."
            )
        if spec.training.n_tokens < spec.training.batch_tokens:
            raise UserError(
                f"`n_tokens` of group `{spec.group}` is {spec.training.n_tokens}, less than one batch of {spec.training.batch_tokens} "
                "(`batch_tokens`); raise it."
            )
    return experiment
