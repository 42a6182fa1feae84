"""The metrics of `fidelity` on rows of text files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from ...lm.text import check_texts, read_documents
from ...store.errors import UserError
from ...store.files import read_json
from ..evaluation import evaluate
from ..place import Place
from .settings import TextsConfig


def measure(place: Place, config: TextsConfig) -> dict[str, pd.DataFrame]:
    """The table of one run.

    Raises:
        UserError: a text is missing, unreadable or too short.
    """
    context = read_json(place.corpus_folder / "manifest.json")["context"]
    first, sae, parts = place.model_record["special_tokens"]["bos"], place.sae(place.at), []
    for name, path in (config.files or {}).items():
        rows = text_rows(path, name, place.tokenizer, first, context, config.text_tokens)
        fidelity, *_ = evaluate(sae, place.model, place.site, rows, config.batch_rows)
        parts.append(fidelity.assign(text=name))
    return {"texts": pd.concat(parts, ignore_index=True)}


def text_rows(
    path: str, name: str, tokenizer: Any, first: int | None, context: int, n_tokens: int
) -> Int[np.ndarray, "rows pos"]:
    """Rows of `context` tokens with `n_tokens` in all, rounded down; each starts with the token `first`, if there is one.

    Every document gives the same number of rows (the first ones may give one more), at equal distances from its start to its end;
    a row holds text of one document.

    Raises:
        UserError: a document is shorter than the rows that it has to give, or no text; there is none; or as `check_texts`.
    """
    check_texts([path])
    texts = list(read_documents([path]))
    if not texts:
        raise UserError(f"text file {path} has no document; add text, or remove `studies.texts.files.{name}`.")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(
                f"document {number} of {path} is a list of token ids; put its text in their place, or remove `studies.texts.files.{name}`."
            )
    documents = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    body, n_rows = context - (first is not None), max(1, n_tokens // context)
    rows = np.full((n_rows, context), -1 if first is None else first, dtype=np.int64)
    done = 0
    for number, tokens in enumerate(documents):
        here = n_rows // len(documents) + (number < n_rows % len(documents))
        if len(tokens) < here * body:
            raise UserError(
                f"document {number} of {path} has {len(tokens):,} tokens, less than the {here * body:,} that it has to give; lower "
                f"`studies.texts.text_tokens` or remove `studies.texts.files.{name}`."
            )
        starts = np.linspace(0, len(tokens) - body, here).astype(int)
        for start in starts:
            rows[done, -body:] = tokens[start : start + body]
            done += 1
    return rows
