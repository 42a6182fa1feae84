"""A hook point's name says where its SAE sits, how wide it is and from which residual the model continues."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tests.each import each

from saeworks.lm.sites import Site, residual_before, splice
from saeworks.store.errors import UserError

_SHAPE = {"n_layers": 3, "d_model": 16, "n_heads": 2, "d_head": 12}


def _arch(parallel: bool = False) -> SimpleNamespace:
    return SimpleNamespace(**_SHAPE, parallel=parallel)


@each(
    "name, kind, layer, d_in, stream, parallel_stream, resume",
    [
        ("hook_resid_pre", "resid_pre", 1, 16, "hook_resid_pre", "hook_resid_pre", 1),
        ("hook_resid_mid", "resid_mid", 1, 16, "hook_resid_mid", None, 2),
        ("hook_resid_post", "resid_post", 2, 16, "hook_resid_post", "hook_resid_post", 2),
        ("hook_mlp_out", "mlp_out", 1, 16, "hook_resid_post", "hook_resid_post", 2),
        ("hook_attn_out", "attn_out", 1, 16, "hook_resid_mid", "hook_resid_post", 2),
        ("attn.hook_z", "z", 1, 24, "hook_resid_mid", "hook_resid_post", 2),
    ],
)
def test_a_name_is_parsed_against_the_model(name, kind, layer, d_in, stream, parallel_stream, resume):
    hook = f"blocks.1.{name}"
    site = Site.parse(hook, _arch())
    assert site == Site(hook, kind, layer, d_in, f"blocks.1.{stream}")
    assert site.resume == resume
    assert site.is_residual == (name == stream)
    assert site.in_block == (stream == "hook_resid_mid")
    assert Site.parse(hook, vars(_arch())) == site  # the record of a prepared model
    if parallel_stream:
        parallel = Site.parse(hook, _arch(parallel=True))
        assert (parallel.stream, parallel.resume, parallel.in_block) == (f"blocks.1.{parallel_stream}", resume, False)


@each("name", ["blocks.3.hook_mlp_out", "blocks.1.hook_z", "blocks.01.hook_mlp_out", "blocks.-1.hook_mlp_out", ""])
def test_a_name_that_the_model_does_not_have_is_one_sentence(name):
    with pytest.raises(UserError) as caught:
        Site.parse(name, _arch())
    message = str(caught.value)
    assert message.startswith(f"hook point {name!r} does not exist in this model of 3 blocks") and "\n" not in message
    near = message.split("valid ones near it: ")[1].removesuffix(".").split(", ")
    assert len(near) == len(set(near)) > 5
    assert [Site.parse(hook, _arch()).name for hook in near] == near


def test_parallel_blocks_have_no_residual_in_the_middle():
    with pytest.raises(UserError, match=r"'blocks\.1\.hook_resid_mid' does not exist") as caught:
        Site.parse("blocks.1.hook_resid_mid", _arch(parallel=True))
    assert "mid" not in str(caught.value).split("valid ones")[1]


_BLOCK = ("hook_resid_pre", "attn.hook_z", "hook_attn_out", "hook_resid_mid", "hook_mlp_out")
_LAST = [*(f"blocks.2.{name}" for name in _BLOCK), "blocks.2.hook_resid_post"]


@each(
    "name, expected",
    [
        ("blocks.1.hook_resid_pre", [*(f"blocks.1.{name}" for name in _BLOCK[1:]), *_LAST]),
        ("blocks.0.hook_resid_post", [*(f"blocks.1.{name}" for name in _BLOCK[1:]), *_LAST]),
        ("blocks.1.attn.hook_z", ["blocks.1.hook_resid_mid", "blocks.1.hook_mlp_out", *_LAST]),
        ("blocks.1.hook_attn_out", ["blocks.1.hook_resid_mid", "blocks.1.hook_mlp_out", *_LAST]),
        ("blocks.1.hook_resid_mid", ["blocks.1.hook_mlp_out", *_LAST]),
        ("blocks.1.hook_mlp_out", _LAST),
        ("blocks.1.hook_resid_post", _LAST[1:]),
        ("blocks.2.hook_mlp_out", _LAST[-1:]),
        ("blocks.2.hook_resid_post", []),
    ],
)
def test_downstream_is_what_a_replacement_changes(name, expected):
    site = Site.parse(name, _arch())
    assert site.downstream(_arch()) == expected
    assert site.downstream(vars(_arch())) == expected
    parallel = [at for at in expected if "mid" not in at and at != "blocks.1.hook_mlp_out"]
    if name in ("blocks.1.attn.hook_z", "blocks.1.hook_attn_out"):  # a parallel MLP does not read the attention's output
        assert Site.parse(name, _arch(parallel=True)).downstream(_arch(parallel=True)) == parallel


def test_a_residual_between_blocks_has_one_name():
    assert [residual_before(layer, 3) for layer in (0, 2, 3)] == [
        "blocks.0.hook_resid_pre",
        "blocks.2.hook_resid_pre",
        "blocks.2.hook_resid_post",
    ]
    names = {"blocks.1.hook_resid_post": "blocks.2.hook_resid_pre", "blocks.2.hook_resid_post": "blocks.2.hook_resid_post"}
    for name in ("blocks.2.hook_resid_pre", "blocks.1.hook_mlp_out", *names):
        assert Site.parse(name, _arch()).canonical(_arch()) == names.get(name, name)


def test_a_replacement_is_added_to_the_residual_where_its_value_was():
    stream, clean, new = (torch.randn(2, 3, 16, dtype=torch.float64) for _ in range(3))
    W_O = torch.randn(16, 16, dtype=torch.float64)
    spliced = {kind: splice(Site.parse(f"blocks.1.{kind}", _arch()), new, clean, stream, W_O) for kind in _KINDS}
    for row in range(2):
        for pos in range(3):
            s, c, n = stream[row, pos], clean[row, pos], new[row, pos]
            torch.testing.assert_close(spliced["hook_mlp_out"][row, pos], s - c + n)
            torch.testing.assert_close(spliced["attn.hook_z"][row, pos], s + sum((n[i] - c[i]) * W_O[i] for i in range(16)))
    assert spliced["hook_resid_mid"] is new
    assert torch.equal(splice(Site.parse("blocks.1.hook_mlp_out", _arch()), clean, clean, stream, None), stream)


_KINDS = ("hook_resid_mid", "hook_mlp_out", "attn.hook_z")
