# Configuration, paths and identities. Every value that a step depends on reaches it through `params`: its block of the
# configuration as sorted JSON, and the content hash of its code.
#
# Prepared models and activations are made again where they are needed rather than stored, so in a clone they are missing.
# A step asks for them (`unless_current`) only if its own result is missing or has another fingerprint: otherwise making
# them for one new run would rerun all the others.
import json
import os
import shutil
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from saeworks.config.base import parse as parse_settings
from saeworks.config.experiment import PretrainExperiment, parse_experiment
from saeworks.store.errors import UserError
from saeworks.store.files import canonical_json, content_hash, sha256_file
from saeworks.store.provenance import code_hash, notebook_hash

# rules call `saeworks`: take the one of this very environment, activated or not
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

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
    SCRATCH = f"scratch/{EXPERIMENT.experiment}"
    MODEL = f"data/prepared/{EXPERIMENT.model_key()}"
    CORPUS = f"data/corpora/{EXPERIMENT.corpus_key()}"
    CACHE = f"data/activations/{EXPERIMENT.activations_key()}"
    RUNS = {f"{spec.hook_point}/{spec.name}": spec for spec in EXPERIMENT.run_specs()}
    FIGURES = list(type(EXPERIMENT.figures).model_fields)
    CORPUS_FINGERPRINT = content_hash([block(EXPERIMENT.model), block(EXPERIMENT.corpus), code_hash("lm.corpus", "lm.prepare")], 16)
    TRAINING_CODE = code_hash("training.run", "activations.cache")
    TABLES = ["runs", "fidelity", "features", "selection", "geometry", "nearest"]


def model_files():
    """Weights of a local model: inputs of every step that runs it."""
    if EXPERIMENT.model.source == "hub":
        return []
    own = EXPERIMENT.model.source == "own"
    folder = Path("data/models", EXPERIMENT.model.name) if own else Path(EXPERIMENT.model.path)
    return sorted(map(str, folder.glob("*.safetensors"))) or [str(folder / "model.safetensors")]


def unless_current(record, fingerprint, *files):
    """`files`, or nothing if the JSON file `record` says that its step ran with `fingerprint` on the weights at hand."""
    try:
        known = json.loads(Path(record).read_text())
    except (OSError, ValueError):
        return list(files)
    weights = {Path(name).name: sha256_file(name) for name in model_files() if Path(name).exists()}
    current = known.get("fingerprint") == fingerprint and weights.items() <= known.get("model_files", {}).items()
    return [] if current else list(files)


def run_spec(wildcards):
    return block(RUNS[f"{wildcards.hook_point}/{wildcards.run}"])


def run_fingerprint(wildcards):
    return content_hash([CORPUS_FINGERPRINT, run_spec(wildcards), block(EXPERIMENT.activations), TRAINING_CODE], 16)


def evaluation_fingerprint(wildcards):
    return content_hash([run_fingerprint(wildcards), block(EXPERIMENT.evaluation), code_hash("measures.evaluation")], 16)


def table(*names):
    return [f"{RESULTS}/tables/{name}.parquet" for name in names]


def figure(name):
    return multiext(f"{RESULTS}/figures/{name}", ".svg", ".png")


def targets():
    if "pretrain" in config:
        return [f"data/models/{PRETRAIN.name}/manifest.json"]
    missing = [name for name in model_files() if not Path(name).exists()]
    if missing and not Path(f"{MODEL}/manifest.json").exists():
        mend = "correct `model.path`"
        if EXPERIMENT.model.source == "own":
            mend = f"fetch it with `dvc pull data/models/{EXPERIMENT.model.name}`"
        print(f"saeworks: the model file {missing[0]} is missing; {mend}.", file=sys.stderr)
    figures = [f"{RESULTS}/figures/{name}.{kind}" for name in FIGURES for kind in ("svg", "png")]
    tables = [f"{RESULTS}/tables/{name}.parquet" for name in TABLES]
    return tables + figures + [f"{RESULTS}/notebooks/braun2024.html"]
