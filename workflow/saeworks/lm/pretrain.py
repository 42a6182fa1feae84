"""Train the small language model that the default experiment studies, and write it as a Hugging Face directory."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from ..config.base import Json, parse
from ..config.pretrain import PretrainConfig
from ..store.checkpoint import load_checkpoint, restore, save_checkpoint
from ..store.errors import UserError
from ..store.files import content_hash, publish, sha256_file, write_json, write_tensors
from ..store.seeds import derive_seed
from .text import SEPARATOR, check_texts, read_documents


def train_tokenizer(documents: list[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE with `vocab_size` entries; id 0 is `<|endoftext|>`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[SEPARATOR],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def encode_documents(tokenizer: Tokenizer, documents: list[str]) -> np.ndarray:
    """Token ids (uint16) of all documents, each followed by the end-of-text token (id 0)."""
    parts = []
    for document in documents:
        parts.append(np.array(tokenizer.encode(document).ids, dtype=np.uint16))
        parts.append(np.zeros(1, dtype=np.uint16))
    return np.concatenate(parts)


def learning_rate(step: int, config: PretrainConfig) -> float:
    """Linear warm-up to `lr`, then cosine decay to 2 % of it at the last step."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.n_steps - config.warmup_steps)
    return config.lr * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def _rows(tokens: Tensor, starts: Tensor, context: int) -> tuple[Tensor, Tensor]:
    """Inputs `[BOS, t0, …]` and targets `[t0, t1, …]`, both (rows, context), of the windows at `starts`."""
    targets = tokens[starts[:, None] + torch.arange(context)].long()
    inputs = torch.cat([torch.zeros(len(starts), 1, dtype=torch.long), targets[:, :-1]], dim=1)
    return inputs, targets


def _mean_loss(model: GPT2LMHeadModel, tokens: Tensor, starts: Tensor, context: int) -> Tensor:
    inputs, targets = _rows(tokens, starts, context)
    logits = model(input_ids=inputs, use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


@torch.no_grad()
def held_out_nats(model: GPT2LMHeadModel, tokens: Tensor, context: int, max_rows: int | None = None) -> float:
    """Mean loss in nats per token over consecutive windows; every window starts without knowledge of the one before."""
    starts = torch.arange(0, len(tokens) - context + 1, context)[:max_rows]
    losses = [_mean_loss(model, tokens, batch, context).item() * len(batch) for batch in starts.split(64)]
    return sum(losses) / len(starts)


def _parameter_groups(model: GPT2LMHeadModel, weight_decay: float) -> list[dict]:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def pretrain(config: PretrainConfig, name: str, out: Path, scratch: Path, fingerprint: str | None = None) -> None:
    """Train the model and publish config, weights, tokenizer, card and losses under `out`.

    An interrupted call resumes from the last checkpoint under `scratch` and ends with the same bytes: rows are drawn by a
    generator seeded with (seed, step), so the data position needs no state. Each
    recipe and text, and each `fingerprint` of the code, has a folder of its own there.
    """
    train_documents = list(read_documents([config.train_text]))
    val_documents = list(read_documents([config.val_text]))
    texts = {"train_text": sha256_file(config.train_text), "val_text": sha256_file(config.val_text)}
    scratch = scratch / content_hash([config.model_dump(exclude={"source"}) | texts, fingerprint], 12)
    scratch.mkdir(parents=True, exist_ok=True)
    tokenizer_file = scratch / "tokenizer.json"
    if not tokenizer_file.exists():
        train_tokenizer(train_documents, config.vocab_size).save(str(tokenizer_file))
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    train_tokens = torch.from_numpy(encode_documents(tokenizer, train_documents).astype(np.int32))
    val_tokens = torch.from_numpy(encode_documents(tokenizer, val_documents).astype(np.int32))
    val_bytes = sum(len(d.encode()) for d in val_documents)

    torch.manual_seed(config.seed)  # the Hugging Face initialisation reads the global generator
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.context,
            n_embd=config.d_model,
            n_layer=config.n_layers,
            n_head=config.n_heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=0,
            activation_function="gelu_pytorch_tanh",  # gelu_new as one kernel: the same function, faster
            attn_implementation="sdpa",
        )
    )
    optimizer = torch.optim.AdamW(
        _parameter_groups(model, config.weight_decay), lr=config.lr, betas=(0.9, 0.98), eps=1e-8, fused=True
    )
    step, history = 0, []
    checkpoint = scratch / "checkpoint.safetensors"
    if (loaded := load_checkpoint(checkpoint, "step", "history")) is not None:
        step, history = _restore(model, optimizer, checkpoint, *loaded)
    model.train()
    started = time.perf_counter()
    first_step = step
    while step < config.n_steps:
        generator = torch.Generator().manual_seed(derive_seed("pretrain", config.seed, step))
        starts = torch.randint(len(train_tokens) - config.context, (config.batch_rows,), generator=generator)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        optimizer.zero_grad(set_to_none=True)
        loss_sum = 0.0
        for micro in starts.split(config.micro_rows):
            loss = _mean_loss(model, train_tokens, micro, config.context) * (len(micro) / config.batch_rows)
            loss.backward()
            loss_sum += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        optimizer.step()
        step += 1
        if step % config.eval_every == 0 or step == config.n_steps:
            val = held_out_nats(model, val_tokens, config.context, max_rows=400)
            history.append({"step": step, "train_nats": loss_sum, "val_nats_first_400_rows": val})
            rate = (step - first_step) * config.batch_rows * config.context / (time.perf_counter() - started)
            print(f"step {step}/{config.n_steps} train {loss_sum:.4f} val {val:.4f} nats, {rate:,.0f} tokens/s", flush=True)
            _save(model, optimizer, checkpoint, step, history)
    model.eval()
    nats = held_out_nats(model, val_tokens, config.context)
    bits_per_byte = nats * len(val_tokens) / val_bytes / math.log(2)
    _write(model, tokenizer, config, name, out, scratch, history, nats, bits_per_byte, len(train_tokens), len(val_tokens))
    shutil.rmtree(scratch)
    print(f"{name}: {nats:.4f} nats per token, {bits_per_byte:.4f} bits per byte on the held-out text", flush=True)


def _save(model, optimizer, path: Path, step: int, history: list[dict]) -> None:
    tensors = {f"model.{k}": v for k, v in model.named_parameters()}
    names = {id(p): k for k, p in model.named_parameters()}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            tensors[f"adam.{key}.{names[id(parameter)]}"] = value
    save_checkpoint(path, tensors, {"step": step, "history": history})


def _restore(model, optimizer, path: Path, tensors: dict[str, Tensor], state: dict) -> tuple[int, list[dict]]:
    into = {}
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            moments = {"step": torch.zeros(()), "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
            optimizer.state[parameter] = moments
            into |= {f"model.{key}": parameter} | {f"adam.{field}.{key}": value for field, value in moments.items()}
        restore(path, tensors, into)
    return state["step"], state["history"]


def _write(model, tokenizer, config, name, out, scratch, history, nats, bits_per_byte, n_train, n_val) -> None:
    staging = scratch / "publish"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    # written by hand: `save_pretrained` adds the library version to the files, so bytes would depend on it
    fields = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "layer_norm_epsilon")
    hf_config = {key: getattr(model.config, key) for key in fields} | {"activation_function": "gelu_new"}
    hf_config |= {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "tie_word_embeddings": True, "dtype": config.dtype}
    hf_config |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0}
    write_json(staging / "config.json", hf_config)
    weights = {k: v.detach().contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    write_tensors(staging / "model.safetensors", weights)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=SEPARATOR, eos_token=SEPARATOR, model_max_length=config.context
    )
    fast.save_pretrained(staging)
    manifest = {
        "name": name,
        "pretrain": config.model_dump(exclude={"train_text", "val_text"}),
        "train_text_sha256": sha256_file(config.train_text),
        "val_text_sha256": sha256_file(config.val_text),
        "weights_sha256": sha256_file(staging / "model.safetensors"),
        "train_tokens": n_train,
        "val_tokens": n_val,
        "tokens_seen": config.n_steps * config.batch_rows * config.context,
        "val_nats_per_token": nats,
        "val_bits_per_byte": bits_per_byte,
        "history": history,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__.split("+")[0],
    }
    (staging / "README.md").write_text(_model_card(manifest, config))
    write_json(staging / "manifest.json", manifest)
    publish(staging, out)


def _model_card(manifest: dict, config: PretrainConfig) -> str:
    losses = "\n".join(
        f"| {h['step']} | {h['train_nats']:.3f} | {h['val_nats_first_400_rows']:.3f} |" for h in manifest["history"]
    )
    return f"""# {manifest["name"]}

A small language model for testing interpretability methods, trained by saeworks (`saeworks pretrain`).

* Architecture: GPT-2, {config.n_layers} layers, d_model {config.d_model}, {config.n_heads} heads, context {config.context},
  byte-level BPE of {config.vocab_size} tokens, tied embeddings. Load it with `transformers.AutoModelForCausalLM`.
* Data: {config.source}. {manifest["train_tokens"]:,} training tokens; {manifest["val_tokens"]:,} tokens of whole books held out.
* Recipe: AdamW (β 0.9, 0.98; weight decay {config.weight_decay} on matrices), peak learning rate {config.lr}, {config.warmup_steps} warm-up
  steps, cosine to 2 %, {config.n_steps} steps of {config.batch_rows} rows of {config.context} tokens ({manifest["tokens_seen"]:,} tokens), seed {config.seed}. Every row starts
  with `<|endoftext|>` (id 0), which also ends a document; so generation starts from that token.
* Held-out loss: **{manifest["val_nats_per_token"]:.4f} nats per token = {manifest["val_bits_per_byte"]:.4f} bits per byte**, consecutive windows of {config.context}
  tokens, each read without the one before.

| step | training loss (last batch) | held-out loss (first 400 rows) |
|---|---|---|
{losses}

It writes Victorian-sounding prose without sense. It is for studying methods, not for use as a language model.
"""


def _check_texts(config: PretrainConfig) -> None:
    """Refuse texts of another kind than the setting asks for, or of less than one row, before anything is trained on them.

    Raises:
        UserError: naming the key, or as `check_texts` and `read_documents`.
    """
    paths = {key: getattr(config, key) for key in ("train_text", "val_text")}
    for key, path in paths.items():
        if not path.endswith((".txt", ".txt.xz")):
            raise UserError(f"`pretrain.{key}` is {path}, but must be a .txt or .txt.xz file; save the text as one.")
    check_texts([*paths.values()])
    documents = {key: list(read_documents([path])) for key, path in paths.items()}
    tokenizer = train_tokenizer(documents["train_text"], config.vocab_size)
    for key, texts in documents.items():
        # as many as are drawn from: a row, and one more token
        if (n_tokens := len(encode_documents(tokenizer, texts))) <= config.context:
            raise UserError(
                f"`pretrain.{key}` is {paths[key]}, a text of {n_tokens} tokens, but a row has {config.context} (`pretrain.context`); add text, or "
                "lower it."
            )


def pretrain_from_json(spec: Json, name: str, out: str, scratch: str, fingerprint: str | None = None) -> None:
    """Train the small language model.

    Args:
        spec: the `pretrain` block of the configuration.
        name: name of the model.
        out: folder of the model.
        scratch: folder for checkpoints; the same command continues from the last.
        fingerprint: identity of the step, kept in its record.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    config = parse(PretrainConfig, json.loads(spec), "pretrain")
    _check_texts(config)
    pretrain(config, name, Path(out), Path(scratch), fingerprint)
