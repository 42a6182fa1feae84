"""The stored shuffle is a permutation, keeps to its blocks, goes round, and depends on its seed alone."""

from __future__ import annotations

import itertools

import torch

from saeworks.activations.order import sequence_order, take, token_order


def test_the_sequence_order_is_a_permutation_of_the_rows():
    for n_rows in (1, 2, 57):
        assert sorted(sequence_order(n_rows, 0).tolist()) == list(range(n_rows))


def test_the_token_order_is_a_permutation_of_the_tokens():
    for block_rows in (None, 1, 4, 10, 100):
        order = token_order(sequence_order(10, 0), 7, block_rows, 0)
        assert sorted(order.tolist()) == list(range(70)), block_rows


def test_each_block_holds_the_tokens_of_its_own_shuffled_rows():
    sequences, context = sequence_order(10, 0), 7
    for block_rows in (1, 4, 5):
        order = token_order(sequences, context, block_rows, 0)
        for start in range(0, 10, block_rows):
            members = sequences[start : start + block_rows].tolist()
            block = order[start * context : (start + block_rows) * context].tolist()
            assert sorted(block) == sorted(row * context + p for row in members for p in range(context)), block_rows


def test_without_blocks_tokens_of_all_rows_are_mixed():
    order = token_order(sequence_order(50, 0), 20, None, 0)
    first = order[:100] // 20
    assert len(first.unique()) > 30  # 100 places of one global shuffle meet about 44 of 50 rows
    assert (order[:-1] + 1 != order[1:]).float().mean() > 0.98


def test_a_block_is_shuffled_token_by_token_and_not_as_its_neighbour():
    order = token_order(torch.arange(4), 30, 1, 0)
    blocks = [(order[i * 30 : (i + 1) * 30] - i * 30).tolist() for i in range(4)]
    assert all(block != list(range(30)) for block in blocks)
    assert len({tuple(block) for block in blocks}) == 4


def test_a_block_of_all_rows_is_the_global_shuffle():
    sequences = sequence_order(10, 0)
    assert torch.equal(token_order(sequences, 7, 10, 0), token_order(sequences, 7, None, 0))


def test_orders_depend_on_their_seed_alone():
    def orders(seed: int) -> tuple[list[int], list[int]]:
        sequences = sequence_order(20, seed)
        return sequences.tolist(), token_order(sequences, 5, 6, seed).tolist()

    torch.manual_seed(1)
    first, state = orders(0), torch.get_rng_state()
    torch.manual_seed(1)
    assert orders(0) == first
    assert torch.equal(torch.get_rng_state(), torch.manual_seed(1).get_state())
    assert torch.equal(state, torch.get_rng_state())
    other = orders(1)
    assert other[0] != first[0] and other[1] != first[1]
    sequences = sequence_order(20, 0)
    assert token_order(sequences, 5, 6, 1).tolist() != first[1]  # the tokens' shuffle has a stream of its own


def test_an_order_is_read_in_a_circle():
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    for start, count in itertools.product((0, 3, 9, 10, 13, 1_000_003), (1, 4, 10, 25)):
        expected = [order[(start + i) % 10].item() for i in range(count)]
        assert take(order, start, count).tolist() == expected, (start, count)
