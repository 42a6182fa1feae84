"""The held-out rows that studies measure on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Int

from ..lm.corpus import load_rows
from ..store.errors import UserError


def held_out_rows(corpus: Path, n_tokens: int | None, key: str) -> Int[np.ndarray, "rows pos"]:
    """The first held-out rows with `n_tokens` tokens, rounded down to whole rows; all of them where that is None.

    Raises:
        UserError: so many are not held out; `key` is the setting that asked for them.
    """
    rows = load_rows(corpus, "eval")
    wanted = len(rows) if n_tokens is None else max(1, n_tokens // rows.shape[1])
    if wanted > len(rows):
        raise UserError(
            f"`{key}` asks for {n_tokens:,} tokens, but the corpus holds out {rows.size:,}; lower it or raise `corpus.eval_tokens`."
        )
    return np.asarray(rows[:wanted])
