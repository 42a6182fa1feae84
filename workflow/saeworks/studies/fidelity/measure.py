"""How faithfully an SAE stands in for what it rebuilds, on held-out rows."""

from __future__ import annotations

import pandas as pd

from ...store.errors import UserError
from ...store.files import read_json
from ..evaluation import evaluate
from ..place import Place
from .settings import FidelityConfig


def measure(place: Place, config: FidelityConfig) -> dict[str, pd.DataFrame]:
    """The tables of one run.

    Raises:
        UserError: the corpus has fewer held-out tokens than asked for, or the run was trained on another model.
    """
    trained_on, record = read_json(place.folder(place.at) / "manifest.json")["data"], place.model_record
    if trained_on["model"] != record["model"] or record.get("sha256") not in (None, trained_on["model_sha256"]):
        raise UserError(
            f"run {place.folder(place.at)} was trained on another model than {place.model_folder}; train it again or correct `model`."
        )
    rows = place.held_out(config.n_tokens, "studies.fidelity.n_tokens")
    tables = evaluate(place.sae(place.at), place.model, place.site, rows, config.batch_rows, config.sample_tokens)
    return dict(zip(("fidelity", "features", "tokens"), tables, strict=True))
