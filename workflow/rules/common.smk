# Configuration, paths and identities. Every value that a step depends on reaches it through `params`: its block of the
# configuration as sorted JSON, and the content hash of its code.
#
# Prepared models and activations are made again where they are needed rather than stored, so in a clone they are missing.
# A step asks for them (`unless_current`) only if its own result is missing or has another fingerprint: otherwise making
# them for one new run would rerun all the others.
import json
import shlex
import shutil
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

from snakemake.exceptions import WorkflowError

from saeworks.config.base import parse as parse_settings
from saeworks.config.experiment import PretrainExperiment, parse_experiment
from saeworks.config.measures import table_files
from saeworks.config.model import local_files
from saeworks.store.errors import UserError
from saeworks.store.files import canonical_json, content_hash, sha256_file
from saeworks.store.provenance import code_hash, notebook_hash

# rules call `saeworks`: take the one of this very environment, activated or not
shell.prefix(f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; ")

try:
    if "pretrain" in config:
        PRETRAIN = parse_settings(PretrainExperiment, config)
    else:
        EXPERIMENT = parse_experiment(config)
except UserError as error:
    raise WorkflowError(str(error)) from None


wildcard_constraints:
    hook_point=r"[A-Za-z0-9_.]+",
    run=r"[A-Za-z0-9_.+-]+",


def block(settings):
    """A configuration block as a parameter."""
    return canonical_json(settings.model_dump(mode="json"))


# a counter that keeps jobs from sharing a GPU; 0 where there is none, so that CPU jobs run side by side
GPU = int(shutil.which("nvidia-smi") is not None)

if "pretrain" not in config:
    RESULTS = f"results/{EXPERIMENT.experiment}"
    SAES = f"{RESULTS}/saes"
    SCRATCH = f"scratch/{EXPERIMENT.experiment}"
    TOGETHER = f"{SCRATCH}/together"
    MODEL = f"data/prepared/{EXPERIMENT.model_key()}"
    CORPUS = f"data/corpora/{EXPERIMENT.experiment}/{EXPERIMENT.corpus_key()}"
    CACHE = f"data/activations/{EXPERIMENT.activations_key()}"
    RUNS = {f"{spec.hook_point}/{spec.name}": spec for spec in EXPERIMENT.run_specs()}
    STUDIES = EXPERIMENT.studies()
    TIMES = ["wall_clock"] if "wall_clock" in EXPERIMENT.figure_names() else []  # rule of its own, see timing.smk
    FIGURES = [name for name in EXPERIMENT.figure_names() if name not in TIMES]
    CORPUS_FINGERPRINT = content_hash([block(EXPERIMENT.model), block(EXPERIMENT.corpus), code_hash("lm.corpus", "lm.prepare")], 16)
    TRAINING_CODE = code_hash("training.run")
    GEOMETRY_TABLES = ["geometry", "nearest", "matching", "matches"]
    RUN_TABLES = ["runs", "fidelity", "features", "tokens", "selection"]
    TABLES = RUN_TABLES + GEOMETRY_TABLES
    TABLES += [name for study in STUDIES.values() for name in study.tables]


def source_files():
    """Local files that the experiment starts from, model and text: inputs of every step that depends on their content."""
    texts = list(getattr(EXPERIMENT.corpus, "files", []))
    if EXPERIMENT.model.source == "hub":
        return texts
    own = EXPERIMENT.model.source == "own"
    folder = Path("data/models", EXPERIMENT.model.name) if own else Path(EXPERIMENT.model.path)
    return [str(path) for path in local_files(folder) or [folder / "config.json"]] + texts


sha256 = cache(sha256_file)


def is_current(fingerprint, outputs, further=()):
    """Whether all `outputs` exist and the last, a JSON record, names `fingerprint` and the source files, also `further` ones, at hand."""
    if not all(Path(name).exists() for name in outputs):
        return False
    record = json.loads(Path(outputs[-1]).read_text())
    sources = {name: sha256(name) for name in [*source_files(), *further] if Path(name).exists()}
    return record.get("fingerprint") == fingerprint and sources.items() <= record.get("sources", {}).items()


def unless_current(fingerprint, outputs, *files):
    """`files`, unless `outputs` are current."""
    return [] if is_current(fingerprint, outputs) else list(files)


def run_wildcards(run):
    return SimpleNamespace(**dict(zip(("hook_point", "run"), run.split("/"))))


def run_spec(wildcards):
    return block(RUNS[f"{wildcards.hook_point}/{wildcards.run}"])


def run_it_starts_from(wildcards):
    """The weights that a `finetune` run continues."""
    start = RUNS[f"{wildcards.hook_point}/{wildcards.run}"].start_from
    return f"{RESULTS}/saes/{wildcards.hook_point}/{start}/sae_weights.safetensors" if start else []


def run_fingerprint(wildcards):
    spec = RUNS[f"{wildcards.hook_point}/{wildcards.run}"]
    chain = [RUNS[f"{wildcards.hook_point}/{spec.start_from}"]] if spec.start_from else []
    return content_hash([CORPUS_FINGERPRINT, *map(block, [spec, *chain]), block(EXPERIMENT.activations), TRAINING_CODE], 16)


def evaluation_fingerprint(wildcards):
    return content_hash([run_fingerprint(wildcards), block(EXPERIMENT.evaluation), code_hash("measures.evaluation")], 16)


def run_files(wildcards, saes=None):
    folder = f"{saes or SAES}/{wildcards.hook_point}/{wildcards.run}"
    return [f"{folder}/{name}" for name in ("cfg.json", "sae_weights.safetensors", "log.jsonl", "manifest.json")]


def what_training_reads():
    """Records of the prepared model, the corpus and the activations, where these are cached."""
    cached = EXPERIMENT.activations.source == "cache"
    return [f"{MODEL}/manifest.json", f"{CORPUS}/manifest.json"] + ([f"{CACHE}/manifest.json"] if cached else [])


@cache
def runs_to_train_together():
    """The runs that are missing or out of date and that one job trains, where there are several: by hook point."""
    waiting = {}
    for run, spec in RUNS.items() if EXPERIMENT.train_together else ():
        at, fingerprint = run_wildcards(run), run_fingerprint(run_wildcards(run))
        done = is_current(fingerprint, run_files(at)) or is_current(fingerprint, run_files(at, TOGETHER))
        if not done and not spec.start_from:
            waiting.setdefault(spec.hook_point, []).append(run)
    at_most = 64  # in one job, since the system limits the length of its command
    parts = [(at, i, runs[i : i + at_most]) for at, runs in waiting.items() for i in range(0, len(runs), at_most)]
    return {f"{at}_{i}" if i else at: runs for at, i, runs in parts if len(runs) > 1}


def trained_together(wildcards):
    """Files of a run that the job that trains several has left, or will leave, for rule `train` to take."""
    files = run_files(wildcards, TOGETHER)
    expected = any(f"{wildcards.hook_point}/{wildcards.run}" in runs for runs in runs_to_train_together().values())
    return files if expected or (EXPERIMENT.train_together and is_current(run_fingerprint(wildcards), files)) else []


def evaluation_files(wildcards):
    folder = f"{RESULTS}/tables/runs/{wildcards.hook_point}/{wildcards.run}"
    return [f"{folder}/{name}" for name in ("fidelity.parquet", "features.parquet", "tokens.parquet", "evaluation.json")]


def study_files(study):
    folder = f"{RESULTS}/tables/{study}/{{hook_point}}"
    return [*(f"{folder}/{name}.parquet" for name in STUDIES[study].tables), f"{folder}/{study}.json"]


def study_fingerprint(study):
    """Identity of a study's tables: its settings and code, and what the selection of runs depends on."""
    runs = [evaluation_fingerprint(run_wildcards(run)) for run in RUNS]
    return content_hash([runs, block(STUDIES[study]), code_hash("measures.collect", f"measures.{study}")], 16)


def study_upstream(study, hook_point):
    """The prepared model, the corpus and the study's own files, unless its tables are current."""
    own = list((getattr(STUDIES[study], "files", None) or {}).values())
    outputs = [name.format(hook_point=hook_point) for name in study_files(study)]
    current = is_current(study_fingerprint(study), outputs, own)
    return [] if current else [f"{MODEL}/manifest.json", f"{CORPUS}/manifest.json", *own]


def training_records():
    """Benchmark records of the training jobs; a current run that has none is not trained again for it."""
    records = {run: f"{RESULTS}/benchmarks/train/{run}.tsv" for run in RUNS}
    return [
        record
        for run, record in records.items()
        if Path(record).exists() or not is_current(run_fingerprint(run_wildcards(run)), run_files(run_wildcards(run)))
    ]


def targets():
    if "pretrain" in config:
        return [f"data/models/{PRETRAIN.name}/manifest.json"]
    for name in source_files():
        if not Path(name).exists():
            mend = "correct its path in the configuration"
            if EXPERIMENT.model.source == "own" and name.startswith("data/models/"):
                mend = f"fetch it with `dvc pull data/models/{EXPERIMENT.model.name}`"
            print(f"saeworks: {name} is missing; {mend}.", file=sys.stderr)
    present = {str(path.parent.relative_to(f"{RESULTS}/saes")) for path in Path(RESULTS).glob("saes/*/*/manifest.json")}
    if left := sorted(present - set(RUNS)):
        print(f"saeworks: not in the configuration any more, delete before `dvc commit`: {', '.join(left)}", file=sys.stderr)
    figures = [f"{RESULTS}/figures/{name}.{kind}" for name in FIGURES for kind in ("svg", "png")]
    tables = [f"{RESULTS}/tables/{name}.parquet" for name in TABLES]
    expected = {*figures, *(f"{RESULTS}/tables/{file}" for name in TABLES for file in table_files(name))}
    stored = {str(path) for folder in ("figures", "tables") for path in Path(RESULTS, folder).glob("*.*")}
    if left := sorted(stored - expected):
        print(f"saeworks: not made by this configuration, delete before `dvc commit`: {', '.join(left)}", file=sys.stderr)
    times = [f"{RESULTS}/timing/{name}.{kind}" for name in TIMES for kind in ("svg", "png")]
    return tables + figures + times + [f"{RESULTS}/notebooks/braun2024.html"]
