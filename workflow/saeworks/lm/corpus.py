"""Corpora: token rows of fixed length, packed by an explicit policy, with held-out rows apart from training rows."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, PositiveInt

from ..config.base import parse
from ..config.corpus import CorpusConfig, HubCorpus, SampledCorpus, TextCorpus
from ..store.errors import UserError
from ..store.files import read_json, sha256_file, write_array, write_json
from ..store.seeds import derive_seed
from .bridge import not_local
from .prepare import load_model, load_tokenizer, read_record
from .sample import sample_rows
from .text import check_texts, checked, read_documents


class _Sums(BaseModel):
    train: str
    eval: str


class CorpusManifest(BaseModel):
    """What must be in the manifest of a corpus."""

    corpus: dict[str, Any]
    model: dict[str, Any]
    sources: dict[str, str]
    train_rows: PositiveInt
    eval_rows: PositiveInt
    context: PositiveInt
    sha256: _Sums


def sample_corpus(corpus: SampledCorpus, model_folder: Path, device: str = "cpu") -> tuple[np.ndarray, np.ndarray, dict]:
    """`(train, eval, facts)` of a sampled corpus; the first samples are held out.

    Raises:
        UserError: the model does not know a beginning-of-text token, or is too short for the context.
    """
    record = read_record(model_folder)
    model = load_model(model_folder, device)
    first = record["special_tokens"]["bos"]
    if first is None:
        raise UserError("the model's tokenizer has no beginning-of-text token to sample from; use a `text` or `hub` corpus.")
    _check_context(corpus.context, model.arch.n_ctx)
    n_eval, n_train = _row_counts(corpus)
    batches = []
    total = n_eval + n_train
    for index, start in enumerate(range(0, total, corpus.batch_rows)):
        generator = torch.Generator().manual_seed(derive_seed("sample", corpus.seed, index))
        # a last batch is sampled whole and cut, so that asking for more tokens later keeps the rows there were
        rows = sample_rows(model, first, corpus.batch_rows, corpus.context, corpus.temperature, generator)
        batches.append(rows.cpu().numpy())
        print(f"sampled {min(start + corpus.batch_rows, total):,} of {total:,} rows", flush=True)
    tokens = np.concatenate(batches)[:total].astype(_token_type(model.arch.d_vocab))
    facts = {"eval_samples": [0, n_eval], "train_samples": [n_eval, total], "first_token": first}
    return tokens[n_eval:], tokens[:n_eval], facts


def pack_corpus(
    corpus: TextCorpus | HubCorpus, documents: Iterator[Any], eval_documents: Iterator[Any] | None, tokenizer: Any, n_ctx: int
) -> tuple[np.ndarray, np.ndarray, dict]:
    """`(train, eval, facts)` of a corpus of documents (texts or lists of token ids).

    Held-out rows are packed first, from `eval_documents` or else from the first documents; training rows follow from
    the documents after them. A training document equal to a held-out one is skipped.

    Raises:
        UserError: the documents do not hold the tokens asked for.
    """
    _check_context(corpus.context, n_ctx)
    n_eval, n_train = _row_counts(corpus)
    encode = _Encoder(corpus, tokenizer)
    held_out: set[bytes] = set()
    shared = _Counted(documents)
    own_eval = _Counted(eval_documents) if eval_documents is not None else shared
    eval_rows = _pack(corpus, own_eval, n_eval, encode, remember=held_out, forget=None)
    eval_end = own_eval.count
    train_rows = _pack(corpus, shared, n_train, encode, remember=None, forget=held_out)
    if len(eval_rows) < n_eval or len(train_rows) < n_train:
        raise UserError(
            f"the corpus has {len(train_rows) * corpus.context:,} training and {len(eval_rows) * corpus.context:,} held-out tokens, but "
            f"`corpus.n_tokens` asks for {corpus.n_tokens:,} and `corpus.eval_tokens` for {corpus.eval_tokens:,}; lower them or add text. "
            f"(It has {shared.count:,} documents; each is training text or held-out text as a whole.)"
        )
    kind = _token_type(len(tokenizer))
    facts = {
        "eval_documents": [0, eval_end],
        "train_documents": [0 if eval_documents is not None else eval_end, shared.count],
        "skipped_duplicates": encode.skipped,
    }
    return train_rows.astype(kind), eval_rows.astype(kind), facts


class _Counted:
    """An iterator that knows how many items it has given."""

    def __init__(self, items: Iterator[Any]) -> None:
        self.items, self.count = iter(items), 0

    def __iter__(self) -> _Counted:
        return self

    def __next__(self) -> Any:
        item = next(self.items)
        self.count += 1
        return item


class _Encoder:
    """Documents to token ids without special tokens."""

    def __init__(self, corpus: TextCorpus | HubCorpus, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.collapse = isinstance(corpus, TextCorpus) and corpus.collapse_newlines
        self.skipped = 0
        self.bos = self._special("row_bos", tokenizer.bos_token_id) if corpus.row_bos else None
        ids = {"eos": tokenizer.eos_token_id, "bos": tokenizer.bos_token_id}
        unused = corpus.separator == "none" or corpus.packing == "truncate"
        self.separator = None if unused else self._special("separator", ids[corpus.separator])

    @staticmethod
    def _special(key: str, token: int | None) -> int:
        if token is None:
            raise UserError(f"`corpus.{key}` needs a special token that the model's tokenizer lacks; choose another setting.")
        return token

    def __call__(self, document: Any) -> list[int]:
        if not isinstance(document, str):
            tokens = list(document)
            if wrong := [token for token in tokens if not 0 <= token < len(self.tokenizer)]:
                raise UserError(
                    f"the corpus holds token {wrong[0]}, but the model's tokenizer has {len(self.tokenizer)} tokens, from 0; use text, or ids "
                    "of that tokenizer."
                )
            return tokens
        if self.collapse:
            document = re.sub(r"\n+", "\n", document)
        return self.tokenizer.encode(document, add_special_tokens=False)


def _pack(
    corpus: TextCorpus | HubCorpus, documents: _Counted, n_rows: int, encode: _Encoder, remember: set | None, forget: set | None
) -> np.ndarray:
    """Up to `n_rows` rows (rows, context), int32. The document that fills the last row belongs to these rows alone: its rest is dropped."""
    body = corpus.context - (encode.bos is not None)
    rows = np.full((n_rows, corpus.context), -1 if encode.bos is None else encode.bos, dtype=np.int32)
    filled = 0
    pending: list[int] = []
    while filled < n_rows:
        try:
            document = next(documents)
        except StopIteration:
            break
        tokens = encode(document)
        if corpus.packing == "truncate":
            tokens = tokens[:body]
        # the tokens that would be used, so that documents which differ only in what is dropped count as equal
        key = hashlib.sha256(np.asarray(tokens, dtype=np.int64).tobytes()).digest()
        if forget is not None and key in forget:
            encode.skipped += 1
            continue
        if remember is not None:
            remember.add(key)
        if corpus.packing == "truncate":
            if len(tokens) == body:
                rows[filled, -body:] = tokens
                filled += 1
            continue
        pending += tokens if encode.separator is None else [*tokens, encode.separator]
        whole = min(len(pending) // body, n_rows - filled)
        rows[filled : filled + whole, -body:] = np.reshape(pending[: whole * body], (whole, body))
        filled += whole
        pending = pending[whole * body :]
    return rows[:filled]


def _row_counts(corpus: SampledCorpus | TextCorpus | HubCorpus) -> tuple[int, int]:
    return -(-corpus.eval_tokens // corpus.context), -(-corpus.n_tokens // corpus.context)


def _check_context(context: int, n_ctx: int) -> None:
    if context > n_ctx:
        raise UserError(f"`corpus.context` is {context}, but the model reads at most {n_ctx} tokens; lower it.")


def _token_type(d_vocab: int) -> type:
    return np.uint16 if d_vocab <= 1 << 16 else np.uint32


def _hub_documents(corpus: HubCorpus, split: str) -> Iterator[Any]:
    from datasets import load_dataset  # slow import

    not_local(corpus.name, "corpus", "`source: text` and its `files`")
    try:
        dataset = load_dataset(corpus.name, split=split, revision=corpus.revision, streaming=True)
        for number, row in enumerate(dataset):
            if corpus.column not in row:
                raise UserError(f"dataset {corpus.name} has no column {corpus.column!r}; it has {', '.join(sorted(row))}.")
            yield checked(row[corpus.column], f"row {number} of dataset {corpus.name} (column {corpus.column!r})")
    except UserError:
        raise
    except Exception as error:  # network and repository faults come in many types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"dataset {corpus.name} (split {split}) cannot be read from the hub: {reason.rstrip('.')}; check its name and the network, or use a "
            "`text` corpus."
        ) from error


def build_corpus(
    corpus: SampledCorpus | TextCorpus | HubCorpus,
    model_folder: Path,
    out: Path,
    device: str = "cpu",
    fingerprint: str | None = None,
) -> None:
    """Write `train.npy`, `eval.npy` (rows, context) and `manifest.json` under `out`."""
    record = read_record(model_folder)
    if isinstance(corpus, SampledCorpus):
        train, held_out, facts = sample_corpus(corpus, model_folder, device)
    else:
        tokenizer = load_tokenizer(model_folder)
        if isinstance(corpus, TextCorpus):
            documents, eval_documents = read_documents(corpus.files, corpus.field), None
        else:
            documents = _hub_documents(corpus, corpus.split)
            eval_documents = _hub_documents(corpus, corpus.eval_split) if corpus.eval_split else None
        train, held_out, facts = pack_corpus(corpus, documents, eval_documents, tokenizer, record["arch"]["n_ctx"])
        if (largest := max(train.max(), held_out.max())) >= record["arch"]["d_vocab"]:
            raise UserError(
                f"the tokenizer of model {record['model']['name']} gives token {largest}, but the model has {record['arch']['d_vocab']}; give it "
                "the tokenizer that it was trained with."
            )
    out.mkdir(parents=True, exist_ok=True)
    (out / "manifest.json").unlink(missing_ok=True)  # never the old description of new rows
    for name, rows in (("train", train), ("eval", held_out)):
        write_array(out / f"{name}.npy", rows)
    texts = {name: sha256_file(name) for name in getattr(corpus, "files", [])}
    manifest = {
        "corpus": corpus.model_dump(),
        "model": record["model"],
        "sources": record["sources"] | texts,
        "train_rows": len(train),
        "eval_rows": len(held_out),
        "context": corpus.context,
        "sha256": {name: sha256_file(out / f"{name}.npy") for name in ("train", "eval")},
        "fingerprint": fingerprint,
        **facts,
    }
    write_json(out / "manifest.json", manifest)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of the corpus in `folder`.

    Raises:
        UserError: it is missing or damaged.
    """
    return read_json(folder / "manifest.json", CorpusManifest, _mend(folder))


def _mend(folder: Path) -> str:
    return (
        f"fetch it with `dvc pull --force {folder}` if it is stored, else delete {folder} and run the same snakemake command again, which "
        "makes it"
    )


def load_rows(folder: Path, split: str) -> np.ndarray:
    """Token rows (rows, context) of `split`, memory-mapped.

    Raises:
        UserError: the file is missing or does not fit the manifest.
    """
    manifest = read_manifest(folder)
    path = folder / f"{split}.npy"
    try:
        rows = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise UserError(f"corpus file {path} cannot be read ({error}); {_mend(folder)}.") from None
    if rows.shape != (manifest[f"{split}_rows"], manifest["context"]) or sha256_file(path) != manifest["sha256"][split]:
        raise UserError(f"corpus file {path} does not fit its manifest; {_mend(folder)}.")
    return rows


def main(spec: str, model: str, out: str, device: str, fingerprint: str | None = None) -> None:
    """Entry point of the stage: `spec` is a corpus block as JSON, `model` the prepared model's folder."""
    corpus = parse(CorpusConfig, json.loads(spec), "corpus")
    check_texts(getattr(corpus, "files", []))
    build_corpus(corpus, Path(model), Path(out), device, fingerprint)
