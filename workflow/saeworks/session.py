"""A trained run at hand: its language model, its SAE and the activations that it was trained on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel

from .activations.cache import ActivationCache, CacheManifest
from .activations.stream import ActivationStream, open_activations
from .config.activations import ActivationsConfig
from .config.base import parse
from .config.model import ModelConfig, model_label
from .config.names import HookPoint
from .lm.bridge import BridgeModel
from .lm.corpus import CorpusManifest
from .lm.decoder import Decoder
from .lm.prepare import ModelRecord, load_model, prepare
from .lm.sites import Site
from .sae.base import SAE
from .sae.formats import load_sae, refetch
from .store.errors import UserError
from .store.files import content_hash, read_json
from .studies.evaluation import evaluate
from .studies.fidelity.settings import FidelityConfig
from .studies.held_out import held_out_rows


@dataclass(frozen=True)
class Session:
    """What a run was made from and what came out; unpacks into `(model, sae, activations)`.

    `activations` reads the training rows: `tokens(start, n)`, `sequences(start, n)`; see `ActivationCache`.
    """

    model: Decoder | BridgeModel
    sae: SAE
    activations: ActivationCache | ActivationStream
    site: Site
    corpus: Path
    evaluation: FidelityConfig

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.sae, self.activations))

    def held_out(self) -> np.ndarray:
        """The token rows (rows, context) that the run is evaluated on."""
        return held_out_rows(self.corpus, self.evaluation.n_tokens, "n_tokens")

    def evaluate(self) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """The run's tables `(fidelity, features, tokens)`, computed again; columns as in study `fidelity`, without `run`."""
        return evaluate(
            self.sae, self.model, self.site, self.held_out(), self.evaluation.batch_rows, self.evaluation.sample_tokens
        )


def load_session(
    run: str | Path, experiment_root: str | Path = ".", device: str = "cpu", evaluation: FidelityConfig | None = None
) -> Session:
    """The model, the SAE and the activations of the run in folder `run`.

    Everything is found by the identities in the run's manifest, wherever it lies under `data/` of `experiment_root`. A missing
    prepared model is prepared again; where the activation cache is missing, the activations are computed while they are read.
    `evaluation`: the block `studies.fidelity` of the experiment file; None: its defaults, all held-out rows.

    Raises:
        UserError: the run or its corpus is missing, or the model is no longer the one that the run was trained on.
    """
    run, data = Path(run), Path(experiment_root) / "data"
    manifest = read_run(run)
    made_from, hook_point = manifest["data"], manifest["spec"]["hook_point"]
    sae = load_sae(run, device)
    corpus = _find_corpus(data, made_from, run)
    model_folder = _find_model(data, manifest, run)
    config = parse(ActivationsConfig, made_from["settings"], "activations")
    cache = _find_cache(data, made_from, hook_point, sae.d_in)
    config = config.model_copy(update={"source": "stream" if cache is None else "cache"})
    activations = open_activations(config, hook_point, cache, model_folder, corpus, device)
    model = load_model(model_folder, device) if cache else activations.model
    return Session(model, sae, activations, Site.parse(hook_point, model.arch), corpus, evaluation or FidelityConfig())


class _Spec(BaseModel):
    hook_point: HookPoint


class _Data(BaseModel):
    model: dict[str, Any]
    model_sha256: str
    corpus_sha256: str
    settings: dict[str, Any]


class _Run(BaseModel):
    spec: _Spec
    data: _Data


def read_run(run: Path) -> dict[str, Any]:
    """The manifest of the run in folder `run`.

    Raises:
        UserError: it is missing, or that of something else.
    """
    return read_json(run / "manifest.json", _Run, f"name the folder of a run of saeworks, or {refetch(run)}")


def model_settings(run_manifest: dict[str, Any]) -> ModelConfig:
    """The model block of the experiment that a run belongs to."""
    return parse(ModelConfig, run_manifest["data"]["model"], "model")


def tables_folder(run: Path) -> Path:
    """Where the tables of the experiment of the run in results/<experiment>/saes/<hook point>/<run> are."""
    return run.resolve().parent.parent.parent / "tables"


def _experiment(run: Path) -> str:
    return run.resolve().parent.parent.parent.name


def _manifests(folder: Path, pattern: str, shape: type[BaseModel]) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(folder.glob(f"{pattern}/manifest.json")):
        with contextlib.suppress(UserError):  # a damaged one is passed over
            yield path.parent, read_json(path, shape)


def _find_corpus(data: Path, made_from: dict[str, Any], run: Path) -> Path:
    found = [
        folder
        for folder, manifest in _manifests(data / "corpora", "*/*", CorpusManifest)
        if manifest["sha256"]["train"] == made_from["corpus_sha256"]
    ]
    if found:  # experiments may share training rows and differ in the held-out ones
        return min(found, key=lambda folder: folder.parent.name != _experiment(run))
    raise UserError(
        f"the corpus of run {run} is not under {data / 'corpora'}; fetch it with `dvc pull corpus@{_experiment(run)}` if it is stored, or "
        f"make it with `snakemake --cores all --until corpus --configfile <the experiment's file>`."
    )


def _find_cache(data: Path, made_from: dict[str, Any], hook_point: str, d_in: int) -> Path | None:
    for folder, manifest in _manifests(data / "activations", "*", CacheManifest):
        if manifest["identity"] == made_from and manifest["hook_points"].get(hook_point, {}).get("d_in") == d_in:
            return folder
    return None


def _find_model(data: Path, manifest: dict[str, Any], run: Path) -> Path:
    if found := _prepared(data, manifest["data"]):
        return found
    model = model_settings(manifest)
    folder = data / "prepared" / f"{model_label(model)}-{content_hash(model.model_dump(), 8)}"
    if not (folder / "manifest.json").exists():
        folder = folder.absolute()
        with contextlib.chdir(data.parent):  # where the paths of the experiment start
            prepare(model, folder)
    if found := _prepared(data, manifest["data"]):
        return found
    raise UserError(
        f"the prepared model {folder} is not the one that run {run} was trained on: its weights differ; restore the model's files (`dvc pull "
        "--force novels-1m`, where it is that), delete that folder and try again, or train the run again."
    )


def _prepared(data: Path, made_from: dict[str, Any]) -> Path | None:
    for folder, record in _manifests(data / "prepared", "*", ModelRecord):
        weights = record.get("sha256") or content_hash([record["sources"], record["model"]])
        if record["model"] == made_from["model"] and weights == made_from["model_sha256"]:
            return folder
    return None
