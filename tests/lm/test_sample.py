"""Sampled rows follow the model's own distribution, to the token, and depend on the generator alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from tests.tiny_pipeline import D_VOCAB, tiny_decoder

from saeworks.lm.sample import sample_rows
from saeworks.store.errors import UserError


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def _probabilities(model, tokens: list[int], temperature: float = 1.0) -> np.ndarray:
    """The next token's distribution by exponentials of full float64 logits of the whole row."""
    weights = np.exp(model.forward(torch.tensor([tokens]))[0, -1].double().numpy() / temperature)
    return weights / weights.sum()


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
@pytest.mark.parametrize("first", [0, 5])
def test_sampling_with_a_key_value_cache_equals_a_literal_recomputation_from_the_same_uniforms(temperature, first):
    model, rows, context = tiny_decoder(dtype=torch.float64), 6, 12
    sampled = sample_rows(model, first, rows, context, temperature, _generator())
    uniforms = torch.rand((context - 1, rows), generator=_generator(), dtype=torch.float32)
    for row in range(rows):
        tokens = [first]
        for position in range(context - 1):
            target = uniforms[position, row].item()
            probabilities, token = _probabilities(model, tokens, temperature), 0
            reached = probabilities[0]
            while reached <= target:
                token += 1
                reached += probabilities[token]
            tokens.append(token)
        assert sampled[row].tolist() == tokens


def _p_value(tokens: np.ndarray, probabilities: np.ndarray) -> float:
    """Chi-square test of the tokens' frequencies, rare tokens together."""
    expected, counts = probabilities * len(tokens), np.bincount(tokens, minlength=D_VOCAB)
    rare = expected < 10
    groups = [*((~rare).nonzero()[0][:, None]), rare.nonzero()[0]]
    pooled = [[values[group].sum() for group in groups if len(group)] for values in (counts, expected)]
    assert len(pooled[0]) > 5
    return stats.chisquare(*pooled).pvalue


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_second_token_has_the_model_s_distribution_at_that_temperature_and_no_other(temperature):
    model = tiny_decoder()
    tokens = sample_rows(model, 0, 20_000, 2, temperature, _generator())[:, 1].numpy()
    assert _p_value(tokens, _probabilities(model, [0], temperature)) > 1e-3
    assert _p_value(tokens, _probabilities(model, [0], 3 - temperature)) < 1e-12


def test_the_third_token_follows_the_second():
    model = tiny_decoder()
    rows = sample_rows(model, 0, 20_000, 3, 1.0, _generator()).numpy()
    second = int(np.bincount(rows[:, 1]).argmax())
    tokens = rows[rows[:, 1] == second, 2]
    assert _p_value(tokens, _probabilities(model, [0, second])) > 1e-3
    assert _p_value(tokens, _probabilities(model, [0, second + 1])) < 1e-6


def test_a_low_temperature_takes_the_likeliest_token():
    model = tiny_decoder()
    rows = sample_rows(model, 0, 3, 6, 1e-4, _generator())
    tokens = [0]
    for _ in range(5):
        tokens.append(int(_probabilities(model, tokens).argmax()))
    assert rows.tolist() == [tokens] * 3


def test_rows_start_with_the_given_token_and_depend_on_the_generator_alone():
    model = tiny_decoder()
    torch.manual_seed(1)
    first = sample_rows(model, 3, 8, 10, 1.0, _generator())
    assert first.shape == (8, 10) and (first[:, 0] == 3).all()
    assert first.min() >= 0 and first.max() < D_VOCAB
    torch.manual_seed(2)
    assert torch.equal(sample_rows(model, 3, 8, 10, 1.0, _generator()), first)
    assert not torch.equal(sample_rows(model, 3, 8, 10, 1.0, _generator(1)), first)
    assert len({tuple(row) for row in first.tolist()}) == 8


def test_a_row_of_one_token_and_a_row_as_long_as_the_model_reads():
    model = tiny_decoder()
    assert sample_rows(model, 3, 2, 1, 1.0, _generator()).tolist() == [[3], [3]]
    assert sample_rows(model, 3, 2, model.arch.n_ctx, 1.0, _generator()).shape == (2, model.arch.n_ctx)


def test_a_token_without_probability_is_never_drawn():
    model = tiny_decoder()
    model.weights["unembed.b"] = torch.full((D_VOCAB,), -1e4)
    model.weights["unembed.b"][[3, 7]] = 0
    rows = sample_rows(model, 0, 200, 6, 1.0, _generator())
    assert set(rows[:, 1:].flatten().tolist()) == {3, 7}


def test_a_model_without_a_fast_path_is_one_sentence():
    class Bridge:
        engine = "bridge"

    with pytest.raises(UserError, match="use a `text` or `hub` corpus"):
        sample_rows(Bridge(), 0, 2, 4, 1.0, _generator())
