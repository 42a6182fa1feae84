"""The evaluation stage of one run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ..config.base import parse
from ..config.measures import EvaluationConfig
from ..lm.corpus import load_rows
from ..lm.prepare import load_model, read_record
from ..lm.sites import Site
from ..sae.formats import load_sae
from ..store.errors import UserError
from ..store.files import read_json, write_json
from .fidelity import evaluate
from .tables import write_table


def evaluate_run(
    config: EvaluationConfig,
    run: str,
    run_folder: Path,
    model_folder: Path,
    corpus_folder: Path,
    out: Path,
    device: str,
    fingerprint: str | None = None,
) -> None:
    """Write `fidelity.parquet`, `features.parquet`, `tokens.parquet` and `evaluation.json` of the run in `run_folder` under `out`.

    Raises:
        UserError: the corpus has fewer held-out tokens than asked for, or the run was trained on another model.
    """
    spec = read_json(run_folder / "manifest.json")
    record = read_record(model_folder)
    if spec["data"]["model"] != record["model"] or record.get("sha256") not in (None, spec["data"]["model_sha256"]):
        raise UserError(f"run {run_folder} was trained on another model than {model_folder}; train it again or correct `model`.")
    rows = load_rows(corpus_folder, "eval")
    wanted = len(rows) if config.n_tokens is None else max(1, config.n_tokens // rows.shape[1])
    if wanted > len(rows):
        raise UserError(
            f"`evaluation.n_tokens` asks for {config.n_tokens:,} tokens, but the corpus holds out {rows.size:,}; lower it or raise "
            "`corpus.eval_tokens`."
        )
    model = load_model(model_folder, device)
    site = Site.parse(spec["spec"]["hook_point"], model.arch)
    sae, used = load_sae(run_folder, device), np.asarray(rows[:wanted])
    tables = evaluate(sae, model, site, used, config.batch_rows, config.sample_tokens)
    for name, table in zip(("fidelity", "features", "tokens"), tables, strict=True):
        table.insert(0, "run", run)
        write_table(table, out / f"{name}.parquet", csv=False)
    corpus = read_json(corpus_folder / "manifest.json")
    facts = {"rows": wanted, "context": int(rows.shape[1]), "evaluation": config.model_dump()}
    write_json(out / "evaluation.json", {"run": run, "fingerprint": fingerprint, "sources": corpus["sources"], **facts})


def main(
    spec: str, run: str, run_folder: str, model: str, corpus: str, out: str, device: str, fingerprint: str | None = None
) -> None:
    """Entry point of the stage: `spec` is an evaluation block as JSON."""
    config = parse(EvaluationConfig, json.loads(spec), "evaluation")
    evaluate_run(config, run, Path(run_folder), Path(model), Path(corpus), Path(out), device, fingerprint)
