"""A prepared language model of a few thousand weights and its artefacts, so that a test of any stage takes milliseconds."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from saeworks.config.architectures import ARCHITECTURES
from saeworks.config.corpus import SampledCorpus
from saeworks.config.training import RunSpec
from saeworks.lm.corpus import build_corpus
from saeworks.lm.decoder import Architecture, Decoder
from saeworks.store.files import sha256_file, write_json

N_LAYERS, D_MODEL, D_VOCAB, N_CTX, CONTEXT = 4, 16, 64, 24, 12
HOOK = "blocks.1.hook_resid_pre"
EOT = "<|endoftext|>"  # token 0


def tiny_decoder(seed: int = 0, dtype: torch.dtype = torch.float32, **changes: object) -> Decoder:
    """A random GPT-2-shaped decoder in which no bias and no norm weight is at its neutral value."""
    settings = {
        "n_layers": N_LAYERS,
        "d_model": D_MODEL,
        "n_heads": 2,
        "n_kv_heads": 2,
        "d_head": 8,
        "d_vocab": D_VOCAB,
        "n_ctx": N_CTX,
        "norm": "layer",
        "eps": 1e-5,
        "rotary_dim": 0,
        "activation": "gelu_new",
        "parallel": False,
        "attn_scale": 8**-0.5,
        "windows": (0,) * N_LAYERS,
    }
    arch = Architecture(**(settings | changes))
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, scale: float = 0.3, centre: float = 0.0) -> torch.Tensor:
        return centre + scale * torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    d, wide = arch.d_model, 2 * arch.d_model
    weights = {
        "embed": draw(arch.d_vocab, d, scale=1.0),
        "pos_embed": draw(arch.n_ctx, d, scale=0.5),
        "unembed.W": draw(arch.d_vocab, d, scale=0.6),
        "unembed.b": draw(arch.d_vocab),
        "ln_final.w": draw(d, centre=1.0),
        "ln_final.b": draw(d),
    }
    for layer in range(arch.n_layers):
        shapes = {"attn.qkv": (3 * d, d), "attn.o": (d, d), "mlp.in": (wide, d), "mlp.out": (d, wide)}
        for name, shape in shapes.items():
            weights[f"blocks.{layer}.{name}.W"] = draw(*shape)
            weights[f"blocks.{layer}.{name}.b"] = draw(shape[0])
        for name in ("ln1", "ln2"):
            weights[f"blocks.{layer}.{name}.w"] = draw(d, centre=1.0)
            weights[f"blocks.{layer}.{name}.b"] = draw(d)
    return Decoder(arch, weights)


def write_tokenizer(folder: Path, d_vocab: int = D_VOCAB) -> None:
    """One token per word: `w7` is token 7; unknown words and the end of text are token 0."""
    vocabulary = {EOT: 0} | {f"w{i}": i for i in range(1, d_vocab)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=EOT))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=EOT, eos_token=EOT).save_pretrained(folder)


def write_model(folder: Path, seed: int = 0, bos: int | None = 0) -> Path:
    """The folder that `lm.prepare` would have written for a model with these weights."""
    folder.mkdir(parents=True)
    decoder = tiny_decoder(seed)
    decoder.save(folder / "decoder.safetensors")
    processing = {"fold_ln": True, "center_writing_weights": True, "center_unembed": True, "fold_value_biases": True}
    record = {
        "model": {"source": "path", "name": f"tiny{seed}", "path": "nowhere", "processing": processing},
        "special_tokens": {"bos": bos, "eos": 0},
        "sources": {},
        "engine": "decoder",
        **decoder.describe(),
        "sha256": sha256_file(folder / "decoder.safetensors"),
    }
    write_json(folder / "manifest.json", record)
    write_tokenizer(folder)
    return folder


def write_corpus(folder: Path, model: Path, train_rows: int = 30, eval_rows: int = 10, seed: int = 0) -> Path:
    """A corpus sampled from the model in `model`."""
    settings = {"n_tokens": train_rows * CONTEXT, "eval_tokens": eval_rows * CONTEXT, "context": CONTEXT, "batch_rows": 16}
    build_corpus(SampledCorpus(seed=seed, **settings), model, folder)
    return folder


def run_spec(objective: str = "local", **changes: object) -> RunSpec:
    """A run of 40 steps; `changes` go to the spec or to its training settings, whichever has the key.

    Architectures whose sparsity k sets get k = 4 in the place of the sparsity coefficient.
    """
    training = {
        "d_sae": 24,
        "n_tokens": 40 * 4 * CONTEXT,
        "batch_tokens": 4 * CONTEXT,
        "lr": 1e-2,
        "log_every": 4,
        "checkpoint_every": 7,
        "dead_window_tokens": 200,
    }
    sparsity = {"k": 4} if ARCHITECTURES[changes.get("architecture", "relu")].by_k else {"sparsity_coeff": 0.2}
    fields = {"name": "tiny-run", "group": "tiny", "hook_point": HOOK, "objective": objective, "seed": 0, **sparsity}
    for key, value in changes.items():
        (fields if key in RunSpec.model_fields else training)[key] = value
    return RunSpec.model_validate({**fields, "training": training})
