"""A model whose attention heads together are wider than its residual stream."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.tiny_pipeline import D_MODEL, N_LAYERS, tiny_decoder

from saeworks.lm.decoder import Decoder
from saeworks.store.files import sha256_file, write_json

PARTS = ("blocks.1.hook_mlp_out", "blocks.1.hook_attn_out", "blocks.1.attn.hook_z")
WIDE = 24  # d_in at `attn.hook_z`


@pytest.fixture(scope="session")
def wide_heads(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A prepared model folder (read only) with two heads of 12 in a residual stream of 16."""
    folder = tmp_path_factory.mktemp("model") / "wide"
    shutil.copytree(tiny_model, folder)
    decoder, generator = tiny_decoder(), torch.Generator().manual_seed(7)
    shapes = {"attn.qkv.W": (3 * WIDE, D_MODEL), "attn.qkv.b": (3 * WIDE,), "attn.o.W": (D_MODEL, WIDE)}
    weights = {
        f"blocks.{layer}.{name}": torch.randn(*shape, generator=generator) * 0.3
        for layer in range(N_LAYERS)
        for name, shape in shapes.items()
    }
    wide = Decoder(replace(decoder.arch, d_head=WIDE // 2), decoder.weights | weights)
    wide.save(folder / "decoder.safetensors")
    record = json.loads((folder / "manifest.json").read_text())
    write_json(folder / "manifest.json", record | wide.describe() | {"sha256": sha256_file(folder / "decoder.safetensors")})
    return folder
