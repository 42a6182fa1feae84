"""The gradient of an SAE's input, which training alone does without."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from tests.each import each
from tests.sae.literal import VARIANTS, make, random
from tests.saes import forward

from saeworks.sae.execution import active, dense
from saeworks.sae.execution.interface import Execution
from saeworks.sae.execution.through import Through


class _Way(Execution):
    """Products as a function computes them."""

    def __init__(self, encode: Any) -> None:
        self._encode = encode

    def encode(self, sae, x, dead=None, k_aux=0):
        return self._encode(sae, x, dead, k_aux)


def _gradients(way: Any, variant: str, pre_bias: bool, dead: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    """Of what losses are made of: outputs, pre-activations and the dead features' output, in x and all parameters."""
    sae = make(variant, decoder="normalised", pre_bias=pre_bias)
    x = random(6, 5, seed=9).requires_grad_()
    step = forward(sae, x, dead, 2, way)
    total = sum((output * random(6, 5, seed=i)).sum() for i, output in enumerate(step.outputs))
    total = total + sae.penalised(step, "l1").values.abs().sum()
    if dead is not None:
        total = total + torch.relu(step.aux.values).square().sum()
    found = torch.autograd.grad(total, [x, *sae.parameters()], allow_unused=True)
    assert found[0].any()
    return found


@each("variant, pre_bias, dead", product(VARIANTS, [True, False], [None, torch.arange(11) % 2 == 0]))
def test_active_entries_give_the_input_the_gradient_of_dense_products(variant, pre_bias, dead):
    expected = _gradients(dense, variant, pre_bias, dead)
    for way in (active.encode, dense.encode):
        for ours, theirs in zip(_gradients(Through(_Way(way)), variant, pre_bias, dead), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@each("variant", ["relu", "gated", "jumprelu"])
def test_so_do_packed_entries(variant):
    pytest.importorskip("triton", reason="needs Triton: `make kernels`")
    from saeworks.sae.execution import packed

    expected = _gradients(dense, variant, True, None)
    way = Through(_Way(lambda sae, x, dead, k_aux: packed.encode(sae, x, 100)))
    for ours, theirs in zip(_gradients(way, variant, True, None), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_the_rest_is_that_of_the_other_execution():
    inner = _Way(dense.encode)
    through = Through(inner)
    through.entries = 7
    assert inner.entries == through.entries == 7 and through.uses_kernels is False
    assert through.until_complete(lambda: "made") == "made"
