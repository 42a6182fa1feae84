"""The jobs of an experiment, where their files lie, and what each of them needs at hand."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from ..config.architectures import ARCHITECTURES
from ..config.experiment import Experiment
from ..config.figures import TableStyle
from ..config.model import local_files
from ..config.objectives import OBJECTIVES, loss_functions, objective_facts
from ..config.recipes import SIZES, WITHOUT_TRACE, settings_without_effect
from ..config.training import RunSpec
from ..store.notebooks import notebook_hash, notebook_imports
from ..studies import Study, caption, studies, study_of_table
from .code import Code
from .job import Job, Settings
from .state import State

_AT_MOST_TOGETHER = 64  # runs in one job, since the system limits the length of its command
_RUN_FILES = ("cfg.json", "sae_weights.safetensors", "log.jsonl", "manifest.json")
_CORPUS_FILES = ("train.npy", "eval.npy", "manifest.json")
# settings that change how a result is reached, not the result
_NO_BYTES = (*(f"run.training.{key}" for key in sorted(WITHOUT_TRACE)), "activations.shard_tokens")
_MODEL_CODE, _CORPUS_CODE, _CACHE_CODE = "lm.prepare:prepare", "lm.corpus:build_corpus", "activations.cache:write_cache"
_TRAINING_CODE = "training.run:train_together"
_JOINT_CODE = "training.joint:train_spliced"
_NOTEBOOK = "braun2024"  # of the studies that have none of their own


class ExperimentPlan(State):
    """What an experiment consists of. Paths are relative to the working directory `root`."""

    def __init__(self, experiment: Experiment, root: Path | str = ".", code: Code | None = None) -> None:
        self.experiment = experiment
        self.name = experiment.experiment
        self.specs: dict[str, RunSpec] = {f"{spec.hook_point}/{spec.name}": spec for spec in experiment.run_specs()}
        self.studies: dict[str, Study] = {name: studies()[name] for name in experiment.study_names()}
        self.results = f"results/{self.name}"
        self.saes, self.tables = f"{self.results}/saes", f"{self.results}/tables"
        self.records, self.scratch = f"{self.results}/identities", f"scratch/{self.name}"
        self.model = f"data/prepared/{experiment.model_key()}"
        self.corpus = f"data/corpora/{self.name}/{experiment.corpus_key()}"
        self.cache = f"data/activations/{experiment.activations_key()}"
        self.together = f"{self.scratch}/together"
        self.marks = Path(self.scratch, "stale")
        super().__init__([], root, code)
        self.jobs = {job.name: job for job in self._all_jobs()}

    # where files lie; paths may hold Snakemake's wildcards

    def run_files(self, run: str, folder: str = "") -> list[str]:
        """Files of a run; `folder` in the place of `saes`."""
        return [f"{folder or self.saes}/{run}/{name}" for name in _RUN_FILES]

    def places(self, study: str) -> list[str]:
        """Where a study is measured: runs, hook points, or the experiment as a whole (empty)."""
        scope = self.studies[study].scope
        return list(self.specs) if scope == "run" else self.experiment.hook_points() if scope == "hook_point" else [""]

    def part_files(self, study: str, place: str) -> list[str]:
        """Tables of a study at one place."""
        folder = "/".join(filter(None, [self.folder_of(study), study, place]))
        return [f"{folder}/{table}.parquet" for table in self.studies[study].tables]

    def part_record(self, study: str, place: str) -> str:
        """Record of a study's measurement at one place."""
        group = "timing" if studies()[study].wall_clock else "tables"
        return self.record(group, f"{study}/{place or 'measure'}")

    def part_folders(self, study: str) -> list[str]:
        """Folders of a study's tables at all places."""
        return ["/".join(filter(None, [self.folder_of(study), study, place])) for place in self.places(study)]

    @staticmethod
    def measurement(study: str, place: str) -> str:
        """Name of the job that measures a study at one place."""
        return f"measure/{study}/{place}" if place else f"measure/{study}"

    def measurements(self, study: str) -> list[str]:
        """Names of the jobs that measure a study."""
        return [self.measurement(study, place) for place in self.places(study)]

    def parts(self, study: str) -> list[str]:
        """Tables of a study at all places."""
        return [path for place in self.places(study) for path in self.part_files(study, place)]

    def folder_of(self, study: str) -> str:
        """Where the tables of a study of the whole experiment, and its figures if nobody can make them again, lie."""
        return f"{self.results}/timing" if studies()[study].wall_clock else self.tables

    def table_files(self, study: str) -> list[str]:
        """Tables of a study of the whole experiment."""
        return [
            f"{self.folder_of(study)}/{path}" for name, table in self.studies[study].tables.items() for path in table.files(name)
        ]

    def table(self, name: str) -> str:
        """The Parquet file of a table of the whole experiment."""
        return f"{self.folder_of(study_of_table()[name].name)}/{name}.parquet"

    def figure_files(self, name: str) -> list[str]:
        """Files of a figure or display table."""
        folder = self.folder_of(self.study_of_figure(name)) if self._is_timing(name) else f"{self.results}/figures"
        return [f"{folder}/{name}.{kind}" for kind in getattr(self.experiment.figures, name).kinds]

    def record(self, group: str, name: str) -> str:
        """Record of a job; `group` is saes, tables, figures, notebooks or timing."""
        return f"{self.records}/{group}/{name}.json"

    # what there is

    @cached_property
    def figures(self) -> list[str]:
        """Names of the figures that the experiment has."""
        return self.experiment.figure_names()

    @cached_property
    def reproducible_figures(self) -> list[str]:
        """Those that show no wall-clock time."""
        return [name for name in self.figures if not self._is_timing(name)]

    @cached_property
    def notebooks(self) -> list[str]:
        """Names of the notebooks: that of all studies, and those that studies have of their own."""
        return list(dict.fromkeys([_NOTEBOOK, *(study.notebook or _NOTEBOOK for study in self.studies.values())]))

    def shown_in(self, notebook: str) -> list[str]:
        """Names of the figures that a notebook shows."""
        of = {name: self.studies[self.study_of_figure(name)].notebook or _NOTEBOOK for name in self.reproducible_figures}
        return [name for name, its in of.items() if its == notebook]

    @cached_property
    def gathered(self) -> list[str]:
        """Names of the studies whose tables are reproducible."""
        return [name for name, study in self.studies.items() if study.tables and not study.wall_clock]

    def study_of_figure(self, name: str) -> str:
        """Name of the study that a figure belongs to."""
        return next(study.name for study in studies().values() if name in study.figures)

    def _is_timing(self, figure: str) -> bool:
        return studies()[self.study_of_figure(figure)].wall_clock

    def model_files(self) -> list[str]:
        """Files of a local language model."""
        model = self.experiment.model
        if model.source == "hub":
            return []
        folder = Path("data/models", model.name) if model.source == "own" else Path(model.path)
        found = [folder / path.name for path in local_files(self.root / folder)]
        return [str(path) for path in found or [folder / "config.json"]]

    def sources(self) -> list[str]:
        """Files that the experiment starts from and no job makes: model and text."""
        return self.model_files() + list(getattr(self.experiment.corpus, "files", []))

    # jobs

    def _all_jobs(self) -> Iterable[Job]:
        yield from self._data_jobs()
        for run, spec in self.specs.items():
            yield self._training_job(run, spec)
        for study in self.studies.values():
            if study.tables:
                yield from (self._measurement(study, place) for place in self.places(study.name))
                yield self._gathering(study)
        for name in self.figures:
            yield self._figure_job(name)
        yield self._claims_job()
        for name in self.notebooks:
            yield self._notebook_job(name)

    def _data_jobs(self) -> Iterable[Job]:
        experiment, sources = self.experiment, tuple(self.sources())
        data = {"model": experiment.model, "corpus": experiment.corpus}
        yield Job(
            "language_model",
            (f"{self.model}/manifest.json",),
            f"{self.model}/identity.json",
            Settings.of(model=experiment.model),
            (_MODEL_CODE,),
            files=tuple(self.model_files()),
        )
        yield Job(
            "corpus",
            tuple(f"{self.corpus}/{name}" for name in _CORPUS_FILES),
            f"{self.corpus}/identity.json",
            Settings.of(**data),
            (_MODEL_CODE, _CORPUS_CODE),
            files=sources,
        )
        yield Job(
            "activation_cache",
            (f"{self.cache}/manifest.json",),
            f"{self.cache}/identity.json",
            Settings.of(("activations.source",), _NO_BYTES, **data, activations=experiment.activations),
            (_MODEL_CODE, _CORPUS_CODE, _CACHE_CODE),
            files=sources,
            facts={"hook points": experiment.hook_points(), "end to end at": experiment.hook_points(end_to_end=True)},
        )

    def _training_job(self, run: str, spec: RunSpec) -> Job:
        start = f"{spec.hook_point}/{spec.start_from}" if spec.start_from else None
        return Job(
            f"train/{run}",
            tuple(self.run_files(run)),
            self.record("saes", run),
            Settings.of(
                _idle(spec),
                _NO_BYTES,
                run=spec,
                activations=self.experiment.activations,
                corpus=self.experiment.corpus,
                model=self.experiment.model,
            ),
            training_code(spec),
            inputs=(f"train/{start}",) if start else (),
            files=tuple(self.sources()),
            facts={"objective": objective_facts(spec)},
        )

    def _measurement(self, study: Study, place: str) -> Job:
        settings = self.experiment.study_settings(study.name)
        blocks = {study.name: settings} if settings is not None else {}
        if {"model", "corpus"} & study.needs:
            blocks |= {"model": self.experiment.model, "corpus": self.experiment.corpus}
        runs = self.runs_at(study.name, place)
        reads = {study_of_table()[table].name for table in study.reads}
        architectures = _architectures([self.specs[run] for run in runs]) if "saes" in study.needs else []
        return Job(
            self.measurement(study.name, place),
            tuple(self.part_files(study.name, place)),
            self.part_record(study.name, place),
            Settings.of(**blocks),
            (f"studies.{study.name}.measure:measure", "studies.measure:measure", *architectures),
            inputs=(*(f"train/{run}" for run in runs), *(f"gather/{name}" for name in sorted(reads))),
            files=(
                *(self.sources() if "corpus" in blocks else ()),
                *(path for path in study.files(settings) if not _is_fetched(path)),
            ),
            facts={"columns": {name: list(table.columns) for name, table in study.tables.items()}, "runs": runs},
        )

    def runs_at(self, study: str, place: str) -> list[str]:
        """The runs that a study looks at in one place."""
        scope = self.studies[study].scope
        return [run for run in self.specs if not place or run == place or (scope == "hook_point" and run.startswith(f"{place}/"))]

    @cached_property
    def _words(self) -> dict[str, Any]:
        """What figures, claims and pages call the kinds of runs that there are, and how they show them."""
        objectives = {spec.objective for spec in self.specs.values()}
        architectures = {spec.training.architecture for spec in self.specs.values()}
        return {  # in their order, which is that of figures
            "objectives": [[name, o.label, o.color, o.marker] for name, o in OBJECTIVES.items() if name in objectives],
            "architectures": [[name, a.label] for name, a in ARCHITECTURES.items() if name in architectures],
        }

    def _gathering(self, study: Study) -> Job:
        return Job(
            f"gather/{study.name}",
            tuple(self.table_files(study.name)),
            self.record("timing" if study.wall_clock else "tables", study.name),
            entries=("studies.gather:gather",),
            inputs=tuple(self.measurements(study.name)),
            facts={"order": self.places(study.name)},
        )

    def _figure_job(self, name: str) -> Job:
        study, settings = self.study_of_figure(name), getattr(self.experiment.figures, name)
        owners = dict.fromkeys(study_of_table()[table].name for table in settings.reads)
        shows_table = isinstance(settings, TableStyle)  # with its caption in its files
        return Job(
            f"figure/{name}",
            tuple(self.figure_files(name)),
            self.record("timing" if self._is_timing(name) else "figures", name),
            Settings.of(figure=settings),
            (f"studies.{study}.{name}:{'table' if shows_table else 'draw'}", "studies.draw:figure"),
            inputs=tuple(f"gather/{owner}" for owner in owners),
            facts=self._words | ({"caption": [settings.label, caption(name)]} if shows_table else {}),
        )

    def _claims_job(self) -> Job:
        modules = [f"studies.{name}.claims" for name in studies() if self.code.has_module(f"studies.{name}.claims")]
        return Job(
            "claims",
            tuple(f"{self.tables}/claims.{kind}" for kind in ("parquet", "csv", "html", "tex")),
            self.record("tables", "claims"),
            entries=("studies.claims:write_claims", *modules),
            inputs=tuple(f"gather/{name}" for name in self.gathered),
            facts={"studies": list(self.studies), **self._words},
        )

    def _notebook_job(self, name: str) -> Job:
        return Job(
            f"notebook/{name}",
            tuple(f"{self.results}/notebooks/{name}.{kind}" for kind in ("ipynb", "html")),
            self.record("notebooks", name),
            entries=(
                "studies.notebook:notebook",
                *(entry for entry in notebook_imports(name) if self.code.has_module(entry.split(":")[0])),
            ),
            inputs=(
                *(f"gather/{study}" for study in self.gathered),
                *(f"figure/{figure}" for figure in self.shown_in(name)),
                "claims",
            ),
            facts={"notebook": notebook_hash(name), "figures": self.shown_in(name)},
        )

    # what jobs need at hand

    def unless_current(self, job: str, *files: str) -> list[str]:
        """`files`, unless the results of `job` are current.

        Prepared models and activations are made again where they are needed rather than stored, so in a clone they are
        missing: asked for by every job, making them for one new run would run all the others again.
        """
        return [] if self.is_current(job) else list(files)

    @property
    def data(self) -> list[str]:
        """Records of the prepared model and the corpus."""
        return [f"{self.model}/manifest.json", f"{self.corpus}/manifest.json"]

    @property
    def training_data(self) -> list[str]:
        """What training reads: `data`, and the activations where they are cached."""
        return self.data + ([f"{self.cache}/manifest.json"] if self.experiment.activations.source == "cache" else [])

    @cached_property
    def trained_together(self) -> dict[str, list[str]]:
        """The runs that one job trains, by the job's place: those that are missing or out of date, where there are several; and sets."""
        groups: dict[str, list[str]] = {}
        for run, spec in self.specs.items() if self.experiment.train_together else ():
            if not spec.start_from and not spec.spliced:
                groups.setdefault(spec.hook_point, []).append(run)
        parts = {  # by the place of a run among all, so that a run is of the same part while others get done
            f"{at}_{i}" if i else at: runs[i : i + _AT_MOST_TOGETHER]
            for at, runs in groups.items()
            for i in range(0, len(runs), _AT_MOST_TOGETHER)
        }
        missing = {
            at: [run for run in runs if not self.is_current(f"train/{run}") and not self._waits(run)]
            for at, runs in parts.items()
        }
        found = {at: runs for at, runs in missing.items() if len(runs) > 1}
        for name, runs in self.spliced.items():
            stale = [run for run in runs if not self.is_current(f"train/{run}")]
            if not stale or not all(self._waits(run) for run in stale):  # also where all are current: one may be forced
                found[name] = runs
        return found

    @cached_property
    def spliced(self) -> dict[str, list[str]]:
        """The runs that are spliced in together while they train, in the order of the model, by the name that they share."""
        sets: dict[str, list[str]] = {}
        for run, spec in self.specs.items():
            if spec.spliced:
                sets.setdefault(spec.name, []).append(run)
        return sets

    def files_from_together(self, run: str) -> list[str]:
        """Files of a run and, last, its record that a job that trains several has left, or will leave, to be taken over."""
        expected = any(run in runs for runs in self.trained_together.values())
        waits = expected or ((self.experiment.train_together or self.specs[run].spliced) and self._waits(run))
        return [*self.run_files(run, self.together), self._record_from_together(run)] if waits else []

    def _record_from_together(self, run: str) -> str:
        return f"{self.together}/{run}/identity.json"

    def _waits(self, run: str) -> bool:
        """Whether a finished job that trained several has left this very run."""
        *others, manifest = (self.root / path for path in self.run_files(run, self.together))
        try:
            found = json.loads(manifest.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        there = all(path.exists() for path in (*others, self.root / self._record_from_together(run)))
        return there and found.get("fingerprint") == self.fingerprint(f"train/{run}")

    def needs(self, job: str) -> list[str]:
        """Files that a job reads. Those of a current job that are not stored are left out: it will not ask for them."""
        stage, _, rest = job.partition("/")
        if stage == "language_model":
            return self.model_files()
        if stage == "corpus":
            return self.sources() + self.unless_current(job, f"{self.model}/manifest.json")
        if stage == "activation_cache":
            return self.data
        if stage == "train":
            together = self.files_from_together(rest)
            return self.sources() + self.start_of(rest) + (together or self.unless_current(job, *self.training_data))
        if stage == "measure":
            return self._measured_from(*rest.partition("/")[::2])
        if stage == "figure":
            return [self.table(name) for name in getattr(self.experiment.figures, rest).reads]
        return super().needs(job)

    def inputs(self, job: str) -> tuple[list[str], bool]:
        """As the base class; also for `together/<place>`, a job that trains several runs."""
        stage, _, place = job.partition("/")
        if stage != "together":
            return super().inputs(job)
        jobs = [f"train/{run}" for run in self.trained_together[place]]
        files = self.sources() + (self.training_data if not all(map(self.is_current, jobs)) else [])
        changed = [job for job in jobs if self.differences(job)]
        for job in changed[:1]:
            self.require_sources(job)
        return files + (self.new_mark(f"together/{place}") if changed else []), bool(changed)

    def _measured_from(self, study: str, place: str) -> list[str]:
        needs, job = self.studies[study].needs, self.measurement(study, place)
        tables = [self.table(name) for name in self.studies[study].reads]
        saes = [path for run in self.runs_at(study, place) for path in self.run_files(run)] if "saes" in needs else []
        data = self.unless_current(job, *self.data) if {"model", "corpus"} & needs else []
        times = self.training_records() if self.studies[study].wall_clock else []
        own = self.studies[study].files(self.experiment.study_settings(study))
        return [*tables, *saes, *(self.sources() if data else []), *own, *data, *times]

    def missing(self, path: str) -> str:
        """As the base class; a model of this project is fetched, or trained."""
        folder = f"data/models/{self.experiment.model.name}"
        if self.experiment.model.source != "own" or not path.startswith(f"{folder}/"):
            return super().missing(path)
        if _is_stored(self.root, folder):
            return (
                f"{path} is missing; fetch it with `dvc pull {folder}`, or all that is stored, results included, with `dvc pull`."
            )
        return (
            f"{path} is missing, and DVC does not store {folder}; train that model, or correct `model.name` in the configuration."
        )

    def start_of(self, run: str) -> list[str]:
        """The weights that a run continues."""
        spec = self.specs[run]
        return [f"{self.saes}/{spec.hook_point}/{spec.start_from}/sae_weights.safetensors"] if spec.start_from else []

    def training_records(self) -> list[str]:
        """Benchmark records of the training jobs; a run that has not changed and has none is not trained again for it."""
        records = {run: f"{self.results}/benchmarks/train/{run}.tsv" for run in self.specs}
        return [path for run, path in records.items() if (self.root / path).exists() or self.differences(f"train/{run}")]

    def start_option(self, run: str) -> list[str]:
        """The run that a run continues, as an option of `saeworks train`."""
        return [part for path in self.start_of(run) for part in ("--start-from", str(Path(path).parent))]

    def runs_option(self, study: str) -> list[str]:
        """The runs as an option of `saeworks measure`, where a study looks at all of them."""
        of_all = self.studies[study].scope == "experiment" and "saes" in self.studies[study].needs
        return ["--runs", *self.specs] if of_all else []

    def taking(self, run: str) -> str:
        """Shell commands that take a run over from the job that trained several, in the place of training, if one does."""
        if not self.files_from_together(run):
            return ""
        *files, kept = self.files_from_together(run)
        out, record = f"{self.saes}/{run}", self.jobs[f"train/{run}"].record
        return f"cp {shlex.join([*files, out])} && cp {shlex.join([kept, record])} && exit 0; exit 1; "

    def end_to_end_options(self) -> list[str]:
        """The hook points that runs are trained end to end at, as options of `saeworks cache`."""
        return [part for name in self.experiment.hook_points(end_to_end=True) for part in ("--end-to-end", name)]

    def targets(self) -> list[str]:
        """What `snakemake` makes if nothing is named."""
        jobs = [job for job in self.jobs.values() if job.stage in ("gather", "figure", "claims", "notebook")]
        return [path for job in jobs for path in job.outputs]

    def results_at_a_glance(self) -> list[str]:
        """Lines that end a successful run: where to look, of what is there."""
        notebooks = [("Story", self.jobs[f"notebook/{name}"].outputs[1]) for name in self.notebooks]
        found = [("SAEs", self.saes), ("Tables", self.tables), ("Figures", f"{self.results}/figures"), *notebooks]
        return [f"{what:<9} {path}" for what, path in [*found, ("Logs", f"logs/{self.name}")] if (self.root / path).exists()]

    def notes(self) -> list[str]:
        """Sentences about what a user should know before anything runs: results of other configurations."""
        notes = []
        runs = {str(path.parent.relative_to(self.root / self.saes)) for path in (self.root / self.saes).glob("*/*/manifest.json")}
        if left := sorted(runs - set(self.specs)):
            notes.append(f"not in the configuration any more, delete before `dvc commit`: {', '.join(left)}")
        made = {path for job in self.jobs.values() for path in job.outputs}
        there = {
            str(path.relative_to(self.root))
            for folder in ("figures", "tables")
            for path in (self.root / self.results / folder).glob("*.*")
        }
        if left := sorted(there - made):
            notes.append(f"not made by this configuration, delete before `dvc commit`: {', '.join(left)}")
        return notes


def training_code(spec: RunSpec) -> tuple[str, ...]:
    """Entries of the code that a run is computed by, with what that looks up by name."""
    looked_up = [
        *_architectures([spec], loaded=spec.start_from is not None),
        *(f"losses:{name}" for name in loss_functions(spec)),
    ]
    return (_MODEL_CODE, _CORPUS_CODE, _CACHE_CODE, _JOINT_CODE if spec.spliced else _TRAINING_CODE, *looked_up)


def _architectures(specs: Iterable[RunSpec], loaded: bool = True) -> list[str]:
    """Modules of the architectures of runs, and of those that they are saved as, if they are loaded."""
    names = {spec.training.architecture for spec in specs}
    saved = {ARCHITECTURES[name].saved_as for name in names if loaded}
    return sorted(f"sae.architectures.{name}" for name in names | saved if name)


def _is_fetched(path: str) -> bool:
    """Whether a rule fetches a file, and checks that it is the published one."""
    return path.startswith(("data/agreement/", "data/texts/novels/"))


def _is_stored(root: Path, path: str) -> bool:
    """Whether DVC keeps an output of that path."""
    try:
        stages = yaml.safe_load((root / "dvc.lock").read_text(encoding="utf-8"))["stages"].values()
        return any(out["path"] == path for stage in stages for out in stage.get("outs", []))
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return False


def _idle(spec: RunSpec) -> set[str]:
    """Settings that have no effect on a run, but for those that say what a run that it continues looks like."""
    return {f"run.training.{key}" for key in settings_without_effect(spec.objective, spec.training.model_dump()) - SIZES}
