"""The experiment file: parsing, errors a user can read, and expansion into run specs."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, field_validator

from ..store.errors import UserError, did_you_mean
from ..store.files import content_hash
from ..studies import figures, studies
from .activations import ActivationsConfig
from .architectures import ARCHITECTURES
from .base import LARGEST, Frozen, Seed, parse
from .corpus import CorpusConfig, SampledCorpus
from .figures import FigureStyle, vary
from .model import ModelConfig, model_label, model_sizes
from .names import HookPoint, Name
from .objectives import OBJECTIVES, PENALTIES, penalty_of, term_weights, weight_at
from .pretrain import PretrainConfig
from .recipes import PRESETS, SIZES, settings_without_effect
from .studies import FiguresConfig, StudiesConfig
from .training import ObjectiveName, RunSpec, TrainingConfig

_GIVEN_BY_START = {"preset", "architecture", "decoder", "pre_bias"}.union(*(facts.kept for facts in ARCHITECTURES.values()))


class RunGroup(Frozen):
    """A family of runs: every combination of hook point, sparsity and seed."""

    objective: ObjectiveName = Field(
        description="What is minimised: " + ", ".join(f"`{name}` ({facts.meaning})" for name, facts in OBJECTIVES.items()) + "."
    )
    hook_points: Annotated[list[HookPoint], Field(min_length=1)] = Field(
        description="Where the SAEs sit: `blocks.L.hook_resid_pre`, `hook_resid_post`, `hook_mlp_out`, `hook_attn_out` or `attn.hook_z` "
        "(heads concatenated)."
    )
    sparsity_coeffs: Annotated[list[PositiveFloat], Field(min_length=1)] | None = Field(
        None,
        description="Sparsity coefficients λ, for architectures with a penalty; under `mse_norm: d_in` they are divided by d_in, as in the authors' code.",
    )
    sparsity_factors: dict[HookPoint, PositiveFloat] = Field(
        default={},
        description="Factors of λ by hook point, where one λ would not suit all; 1 at the others. Runs are named after the λ of the list. "
        "A group that starts from another has those of that group by default.",
    )
    k: Annotated[list[Annotated[int, Field(gt=0, le=2**24)]], Field(min_length=1)] | None = Field(
        None, description="Active features per token, for the TopK family; takes the place of `sparsity_coeffs`."
    )
    seeds: Annotated[list[Seed], Field(min_length=1)] = Field(
        default=[0], description="Seeds of initialisation and of the place in the shuffled data where the run starts."
    )
    spliced: Literal["alone", "together"] = Field(
        "alone",
        description="`together`: the SAEs at all hook points of the group, listed in the order of the model, are in the model at once and "
        "minimise one loss, a set for every sparsity and seed; `alone`: each has the model to itself.",
    )
    start_from: Name | None = Field(
        None,
        description="`finetune` and `continued`: the group whose runs of equal hook point, sparsity and seed are continued; its settings are the defaults.",
    )
    training: dict[str, Any] = Field(default={}, description="Overrides of the experiment's `training` block for this group.")


class Experiment(Frozen):
    """An experiment file."""

    experiment: Name = Field(description="Name of the folder under results/; experiments coexist.")
    model: ModelConfig = Field(description="The language model.")
    corpus: CorpusConfig = Field(default_factory=SampledCorpus, description="The tokens.")
    activations: ActivationsConfig = Field(default_factory=ActivationsConfig, description="Activation cache or stream.")
    training: TrainingConfig = Field(default_factory=TrainingConfig, description="Settings of every run.")
    train_together: bool = Field(
        False,
        description="Train all missing runs of a hook point in one job, from one read of the activations and one pass of the model: "
        "same bytes, less time, more memory. Runs that start from another run train alone.",
    )
    runs: Annotated[dict[Name, RunGroup], Field(min_length=1)] = Field(description="Run groups by name.")
    studies: StudiesConfig = Field(default_factory=StudiesConfig, description="Studies, one block each.")
    figures: FiguresConfig = Field(default_factory=FiguresConfig, description="Figures, one block each.")
    draw: Annotated[list[str], Field(min_length=1)] | None = Field(
        None,
        description="Names of the figures to draw, with the studies that they show; null: all that the experiment has something to show in.",
    )

    @field_validator("runs")
    @classmethod
    def _lists_without_repeats(cls, runs: dict[str, RunGroup]) -> dict[str, RunGroup]:
        for group, settings in runs.items():
            for key in ("hook_points", "sparsity_coeffs", "k", "seeds"):
                values = getattr(settings, key) or []
                if len(set(values)) != len(values):
                    raise ValueError(f"`{group}.{key}` lists a value twice")
        return runs

    @field_validator("draw")
    @classmethod
    def _figures_exist(cls, draw: list[str] | None) -> list[str] | None:
        known = list(figures())
        for name in set(draw or []) - set(known):
            there_are = did_you_mean(name, known) or f"; there are {', '.join(known)}"
            raise ValueError(f"`draw` names the figure {name!r}, which does not exist{there_are}")
        return draw

    def run_specs(self) -> list[RunSpec]:
        """All runs, in the order of the file.

        Raises:
            UserError: an override of a group does not fit the training settings.
        """
        return list(self._specs)

    @cached_property
    def _specs(self) -> list[RunSpec]:
        specs: dict[tuple[str, str], RunSpec] = {}
        used: set[str] = set()
        for group, settings in self.runs.items():
            training = self._training(group)
            used |= training.model_fields.keys() - settings_without_effect(settings.objective, training.model_dump())
            start = self.runs[settings.start_from].sparsity_factors if settings.start_from else {}
            factors = {at: (settings.sparsity_factors or start).get(at, 1.0) for at in settings.hook_points}
            _check_together(group, settings, training)
            for hook_point in settings.hook_points:
                for label, sparsity in _sparsities(group, settings, training, factors[hook_point]):
                    for seed in settings.seeds:
                        suffix = f"{label}-s{seed}"
                        spec = RunSpec(
                            name=f"{group}-{suffix}",
                            group=group,
                            hook_point=hook_point,
                            objective=settings.objective,
                            seed=seed,
                            start_from=settings.start_from and f"{settings.start_from}-{suffix}",
                            spliced=factors if settings.spliced == "together" else None,
                            training=training,
                            **sparsity,
                        )
                        if (hook_point, spec.name) in specs:
                            values = settings.k or settings.sparsity_coeffs
                            same = [repr(value) for value in values if _label(value, training) == label]
                            raise UserError(
                                f"`runs.{group}` has values that a run's name cannot tell apart ({', '.join(same)} are all `{label}`); keep one "
                                "of them, or round them."
                            )
                        if spec.start_from and (hook_point, spec.start_from) not in specs:
                            raise UserError(
                                f"group `{group}` starts from run {hook_point}/{spec.start_from}, which is not among the runs before it; add "
                                f"that hook point, sparsity and seed to group `{settings.start_from}`, and write the group first."
                            )
                        if spec.sparsity_coeff is not None and not 0 < spec.sparsity_coeff <= LARGEST:
                            raise UserError(
                                f"`runs.{group}.sparsity_factors.{hook_point}` is {factors[hook_point]:g}, which makes a λ of {spec.sparsity_coeff:g} "
                                f"there, but λ must be above 0 and at most {LARGEST:g}; correct it."
                            )
                        specs[hook_point, spec.name] = spec
        if useless := self.training.model_fields_set - used - {"preset"}:
            raise UserError(f"`training.{min(useless)}` has no effect on any run of this experiment; remove it.")
        return list(specs.values())

    def _training(self, group: str) -> TrainingConfig:
        """Settings of a group: the defaults, the experiment's preset and block, then those of the group."""
        settings = self.runs[group]
        where = f"runs.{group}.training"
        if (settings.start_from is None) == OBJECTIVES[settings.objective].starts_from_run:
            starting = " or ".join(f"`{name}`" for name, facts in OBJECTIVES.items() if facts.starts_from_run)
            raise UserError(f"`runs.{group}.start_from` belongs to objective {starting}, and to it alone; add or remove it.")
        if settings.start_from is not None:
            if settings.start_from not in self.runs or self.runs[settings.start_from].start_from is not None:
                raise UserError(
                    f"`runs.{group}.start_from` is {settings.start_from!r}, which is not a group of runs trained from the beginning; name one."
                )
            weighing = {
                key for objective in OBJECTIVES.values() for key in objective.settings
            }  # each objective has weights of its own
            base = self._training(settings.start_from).model_dump() | dict.fromkeys(weighing)
        else:
            base = self.training.model_dump(exclude_unset=True)
        own = parse(TrainingConfig, settings.training, where).model_dump(exclude_unset=True)  # names a misspelt key
        if settings.start_from is not None and (changed := own.keys() & _GIVEN_BY_START):
            raise UserError(f"`{where}.{min(changed)}` is given by the run that group `{group}` starts from; remove it.")
        preset = PRESETS[own.get("preset") or self.training.preset or "braun2024"] if settings.start_from is None else {}
        resolved = TrainingConfig.model_validate(preset | base | own | {"preset": None})
        idle = settings_without_effect(settings.objective, resolved.model_dump())
        if useless := idle & own.keys() - {"preset"}:
            raise UserError(f"`{where}.{min(useless)}` has no effect on {_described(settings, resolved)}; remove it.")
        # left at their defaults, so that a run does not depend on what it does not use
        kept = resolved.model_dump(exclude=idle - SIZES)
        return parse(TrainingConfig, kept, where)

    def hook_points(self, end_to_end: bool = False) -> list[str]:
        """Hook points of all runs, or of those that run the model, each once, in the order of the file."""
        specs = [spec for spec in self.run_specs() if not end_to_end or OBJECTIVES[spec.objective].needs_model]
        return list(dict.fromkeys(spec.hook_point for spec in specs))

    def study_settings(self, study: str) -> Frozen | None:
        """The block of a study; None if it has no settings."""
        return getattr(self.studies, study, None)

    def study_names(self) -> list[str]:
        """The studies that the experiment has.

        Its settings ask for them, its runs differ in their seed alone where a study compares such runs, and one of their figures is
        among those to draw, unless a study is there in any case.
        """
        return list(self._studies)

    @cached_property
    def _studies(self) -> list[str]:
        shown = {figures()[name][0].name for name in self.draw or figures()}
        several_seeds = vary(self.run_specs(), "seed")
        return [
            name
            for name, study in studies().items()
            if (study.always or name in shown)
            and study.given(self.study_settings(name))
            and (several_seeds or "seeds" not in study.needs)
        ]

    def figure_names(self) -> list[str]:
        """The figures that are drawn: those of its studies, to which its runs have something to show."""
        return list(self._figures)

    @cached_property
    def _figures(self) -> list[str]:
        specs, present = self.run_specs(), self.study_names()
        wanted = [name for name, (study, style) in figures().items() if study.name in present and style.applies(specs)]
        return [name for name in wanted if self.draw is None or name in self.draw]

    def model_key(self) -> str:
        """Folder name of the prepared model: its label and a hash of its settings."""
        return f"{model_label(self.model)}-{content_hash(self.model.model_dump(), 8)}"

    def corpus_key(self) -> str:
        """Folder name of the corpus; it depends on the model and its processing, from which it may be sampled."""
        return f"{model_label(self.model)}-{self.corpus.source}-{content_hash([self.model.model_dump(), self.corpus.model_dump()], 8)}"

    def activations_key(self) -> str:
        """Folder name of the activation cache."""
        return f"{self.corpus_key()}-{content_hash(self.activations.model_dump(exclude={'source'}), 8)}"


def _described(settings: RunGroup, training: TrainingConfig) -> str:
    described = [f"objective `{settings.objective}`", f"architecture `{training.architecture}`"]
    described += [f"penalty `{training.penalty}`"] if training.penalty else []
    return " with ".join([described[0], ", ".join(described[1:])])


def _check_together(group: str, settings: RunGroup, training: TrainingConfig) -> None:
    if settings.spliced == "alone":
        return
    where, objective = f"`runs.{group}.spliced` is `together`", OBJECTIVES[settings.objective]
    ordered = sorted(settings.hook_points, key=_place)
    same = next((pair for pair in pairwise(ordered) if _place(pair[0]) == _place(pair[1])), ())
    faults = {
        f"{where}, but the group has one hook point; list two at least, or remove it.": len(ordered) < 2,
        f"{where}, but its hook points {' and '.join(same)} are of one place in the model; keep one of them.": bool(same),
        f"{where}, but its hook points are not in the order of the model; list them so: {', '.join(ordered)}.": settings.hook_points
        != ordered,
        f"{where}, which objective `{settings.objective}` has no use for; choose "
        f"{' or '.join(f'`{name}`' for name, o in OBJECTIVES.items() if o.needs_model and not o.starts_from_run)}, or remove "
        "it.": not objective.needs_model or objective.starts_from_run,
        f"SAEs of architecture `{training.architecture}` cannot be trained together, because each prefix has an output of its own; choose "
        f"another `architecture`, or remove `runs.{group}.spliced`.": ARCHITECTURES[training.architecture].nested,
    }
    for sentence, wrong in faults.items():
        if wrong:
            raise UserError(sentence)


_PLACES = {
    "attn.hook_z": 1,
    "hook_attn_out": 1,
    "hook_mlp_out": 2,
}  # in a block; the attention's output counts before and after W_O


def _place(hook_point: str) -> tuple[int, int]:
    """Where a value is in the order of the model. What a block leaves is what the next one reads."""
    _, block, hook = hook_point.split(".", 2)
    return int(block) + (hook == "hook_resid_post"), _PLACES.get(hook, 0)


def _sparsities(group: str, settings: RunGroup, training: TrainingConfig, factor: float) -> list[tuple[str, dict[str, float]]]:
    """Label for the run's name and field of its spec, per value of k or of the sparsity coefficient, `factor` times which is λ."""
    by_k = ARCHITECTURES[training.architecture].by_k
    wanted, other = ("k", "sparsity_coeffs") if by_k else ("sparsity_coeffs", "k")
    if getattr(settings, wanted) is None or getattr(settings, other) is not None:
        raise UserError(f"group `{group}` has architecture `{training.architecture}`: set `{wanted}` and not `{other}`.")
    idle = settings.sparsity_factors.keys() if by_k else settings.sparsity_factors.keys() - set(settings.hook_points)
    if idle:
        why = "whose runs have no λ" if by_k else "which has no runs there"
        raise UserError(f"`runs.{group}.sparsity_factors.{min(idle)}` has no effect on group `{group}`, {why}; remove it.")
    if by_k:
        return [(_label(k, training), {"k": k}) for k in settings.k]
    return [(_label(value, training), {"sparsity_coeff": value * factor}) for value in settings.sparsity_coeffs]


def _label(sparsity: float, training: TrainingConfig) -> str:
    """What stands for the sparsity in the name of a run."""
    return f"k{sparsity}" if ARCHITECTURES[training.architecture].by_k else f"c{sparsity:.12g}"


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
    for study in experiment.study_names():
        wanted = getattr(experiment.study_settings(study), "n_tokens", None)
        if wanted is not None and wanted > experiment.corpus.eval_tokens:
            raise UserError(
                f"`studies.{study}.n_tokens` is {wanted:,}, but `corpus.eval_tokens` holds out {experiment.corpus.eval_tokens:,}; lower the "
                "first or raise the second."
            )
    for spec in specs:
        _check_training(spec, context)
    drawn = experiment.figure_names()
    for name in experiment.draw or ():
        if name not in drawn:
            raise UserError(f"`draw` names the figure {name!r}, {_why_not_drawn(experiment, name)}.")
    for name in drawn:
        _check_size(name, getattr(experiment.figures, name), len(experiment.hook_points()))
    return experiment


def _why_not_drawn(experiment: Experiment, name: str) -> str:
    """Why an experiment has nothing to show in a figure, and what to change."""
    study, _ = figures()[name]
    if not study.given(experiment.study_settings(study.name)):
        return f"but the study that it shows has nothing to measure; set the keys of `studies.{study.name}`, or remove the figure"
    if "seeds" in study.needs and study.name not in experiment.study_names():
        return "which compares runs that differ in their seed alone; give a group of runs several `seeds`, or remove the figure"
    return "but no runs of this experiment differ in, or have, what it shows; add such runs, or remove the figure"


def check_model(experiment: Experiment, folders: Iterable[Path]) -> None:
    """Whether the model has the layers and positions that the experiment asks for, as far as it lies in one of `folders`.

    Raises:
        UserError: a hook point is in a layer that it lacks, a run has nothing downstream to reconstruct, or a row is longer than the model reads.
    """
    sizes: dict[str, int] = {}
    for folder in folders:
        sizes = model_sizes(folder) | sizes
    name, n_layers, n_ctx = experiment.model.name, sizes.get("n_layers"), sizes.get("n_ctx")
    for spec in experiment.run_specs():
        for key, hook_points in (
            ("hook_points", [spec.hook_point]),
            ("training.downstream_hook_points", spec.training.downstream_hook_points),
        ):
            for hook_point in hook_points or ():
                if n_layers and int(hook_point.split(".")[1]) >= n_layers:
                    raise UserError(
                        f"`runs.{spec.group}.{key}` has {hook_point}, but model {name} has {n_layers} blocks, 0 to {n_layers - 1}; choose among "
                        "these."
                    )
        reconstructs = weight_at(spec.objective, dict(spec.training), "downstream") and not spec.training.downstream_hook_points
        if n_layers and reconstructs and _begins_no_block_behind(spec.hook_point, n_layers):
            raise UserError(
                f"`runs.{spec.group}.hook_points` has {spec.hook_point}, behind which model {name} begins no block whose input the objective "
                f"`{spec.objective}` could reconstruct; choose an earlier one, or set `training.downstream_hook_points` of a group of its own."
            )
    if n_ctx and experiment.corpus.context > n_ctx:
        raise UserError(
            f"`corpus.context` is {experiment.corpus.context}, but model {name} reads at most {n_ctx} tokens; lower it."
        )


def _begins_no_block_behind(hook_point: str, n_layers: int) -> bool:
    """Whether there is no `hook_resid_pre` that depends on a hook point and is not the same value."""
    return int(hook_point.split(".")[1]) + hook_point.endswith("hook_resid_post") >= n_layers - 1


_LONGEST_SIDE, _MOST_PIXELS = 2**16, 2**28  # of a PNG: matplotlib draws no longer one, and more pixels take more than a GiB


def _check_size(name: str, style: Any, rows: int) -> None:
    if not isinstance(style, FigureStyle):
        return
    width, height = style.width * style.dpi, style.height * rows * style.dpi
    if max(width, height) >= _LONGEST_SIDE or width * height > _MOST_PIXELS:
        raise UserError(
            f"figure `{name}` would have {width:,.0f} × {height:,.0f} pixels; lower its `width`, its `height` (of each of {rows} rows) or its "
            "`dpi`."
        )


def _check_training(spec: RunSpec, context: int) -> None:
    """Settings that fit their types, but not each other."""
    settings, group = spec.training, spec.group
    objective, weights = OBJECTIVES[spec.objective], term_weights(spec.objective, dict(spec.training))
    penalty, admitted = penalty_of(settings.architecture, settings.penalty), ARCHITECTURES[settings.architecture].penalties
    faults = {
        f"every coefficient of group `{group}` is 0, so that it would learn nothing; raise `{objective.terms[0].setting}`.": not any(
            weights.values()
        ),
        f"`batch_tokens` of group `{group}` is {settings.batch_tokens}, but its runs read whole rows: make it a multiple of `corpus.context` "
        f"({context}).": spec.whole_rows and settings.batch_tokens % context,
        f"`n_tokens` of group `{group}` is {settings.n_tokens}, less than one batch of {settings.batch_tokens} (`batch_tokens`); raise "
        "it.": settings.n_tokens < settings.batch_tokens,
        f"group `{group}` asks for k = {spec.k}, more than its {settings.d_sae} features (`d_sae`); lower it.": (spec.k or 0)
        > settings.d_sae,
        f"`penalty` of group `{group}` is `{penalty}`, which architecture `{settings.architecture}` does not have; choose among "
        f"{', '.join(f'`{name}`' for name in admitted)}.": penalty is not None and penalty not in admitted,
        f"`resample_tokens` of group `{group}` goes beyond its {settings.n_tokens:,} training tokens (`n_tokens`), where it would do nothing; "
        "lower it.": max(settings.resample_tokens or [0]) > settings.n_tokens,
        f"`dead_window_tokens` of group `{group}` is {settings.dead_window_tokens:,}, so that no feature can be dead within its "
        f"{settings.n_tokens:,} training tokens and `dead_features: {settings.dead_features}` would do nothing; lower "
        "it.": settings.dead_features != "none" and settings.dead_window_tokens >= settings.n_tokens,
        f"group `{group}` penalises `{penalty}` with `decoder: free`, where the decoder would grow instead of the codes; use "
        "`l1_decoder_norm` or `tanh`, or another `decoder`.": settings.decoder == "free"
        and penalty is not None
        and not PENALTIES[penalty].weighs_decoder,
        f"group `{group}` sets both `downstream_hook_points` and `downstream_next`; keep one.": settings.downstream_hook_points
        is not None
        and settings.downstream_next is not None,
    }
    for sentence, wrong in faults.items():
        if wrong:
            raise UserError(sentence)
