"""Rows of text files: in equal shares from every document, and measured as the held-out rows are."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tests.tiny_pipeline import CONTEXT, HOOK

from saeworks.lm.prepare import load_model, load_tokenizer
from saeworks.lm.sites import Site
from saeworks.sae.formats import load_sae
from saeworks.store.errors import UserError
from saeworks.studies.evaluation import evaluate
from saeworks.studies.texts.measure import text_rows


@pytest.fixture
def tokenizer(tiny_model):
    return load_tokenizer(tiny_model)


def test_every_document_gives_as_many_rows_from_its_start_to_its_end(tmp_path, tokenizer):
    body = CONTEXT - 1
    numbers = [list(range(1, 1 + 3 * body)), [7] * (2 * body + 1)]
    path = tmp_path / "text.txt"
    path.write_text("\n<|endoftext|>\n".join(" ".join(f"w{n % 29 + 1}" for n in document) for document in numbers))
    rows = text_rows(str(path), "text", tokenizer, 0, CONTEXT, 5 * CONTEXT + 3)
    first = [[n % 29 + 1 for n in numbers[0][start : start + body]] for start in (0, body, 2 * body)]
    assert rows.shape == (5, CONTEXT) and (rows[:, 0] == 0).all()
    assert rows[:3, 1:].tolist() == first and (rows[3:, 1:] == 8).all()
    bare = text_rows(str(path), "text", tokenizer, None, CONTEXT, 2 * CONTEXT)
    assert bare[0].tolist() == [n % 29 + 1 for n in numbers[0][:CONTEXT]]
    with pytest.raises(
        UserError, match=r"document 1 of .* has 23 tokens, less than the 33 .* or remove `studies.texts.files.text`"
    ):
        text_rows(str(path), "text", tokenizer, 0, CONTEXT, 6 * CONTEXT)


def test_the_table_has_the_metrics_of_fidelity_on_these_rows(experiment):
    run = f"{HOOK}/e2e_ds"
    model = load_model(experiment.model)
    rows = text_rows(str(experiment.root / "words.txt"), "words", load_tokenizer(experiment.model), 0, CONTEXT, 5 * CONTEXT)
    sae = load_sae(experiment.root / "results" / "tiny" / "saes" / run)
    expected, *_ = evaluate(sae, model, Site.parse(HOOK, model.arch), rows, 32)
    found = pd.read_parquet(experiment.tables / "texts.parquet").query(f"run == '{run}'").reset_index(drop=True)
    assert set(found["text"]) == {"words"}
    pd.testing.assert_frame_equal(found[expected.columns], expected)
    sampled = pd.read_parquet(experiment.tables / "fidelity.parquet").query(f"run == '{run}'")
    assert not np.allclose(found["value"].to_numpy(), sampled["value"].to_numpy(), equal_nan=True)
