"""Where the tokens come from, and how they are packed into rows."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from .base import Frozen, Seed
from .names import FilePath, HubName, Revision


class _Rows(Frozen):
    n_tokens: PositiveInt = Field(2_000_000, le=10**13, description="Training tokens, rounded up to whole rows.")
    eval_tokens: PositiveInt = Field(
        131_072,
        le=10**10,
        description="Held-out tokens, rounded up to whole rows; no training row shares a document or sample with them.",
    )
    context: Annotated[int, Field(ge=2, le=2**20)] = Field(128, description="Tokens per row.")


class SampledCorpus(_Rows):
    """Rows sampled from the studied model itself: each starts with its beginning-of-text token."""

    source: Literal["sampled"] = Field("sampled", description="Rows sampled from the studied model.")
    seed: Seed = Field(0, description="Seed of the sampling.")
    temperature: PositiveFloat = Field(
        1.0, ge=0.001, le=1000, description="Logits are divided by it before sampling; 1 samples from the model itself."
    )
    batch_rows: PositiveInt = Field(
        1024,
        le=2**16,
        description="Rows sampled together; part of the corpus's identity, since each batch has a generator of its own.",
    )


class _Packed(_Rows):
    packing: Literal["concatenate", "truncate"] = Field(
        "concatenate",
        description="`concatenate`: documents are joined and cut into full rows. `truncate`: each row is the start of one document; shorter documents are skipped.",
    )
    separator: Literal["eos", "bos", "none"] = Field(
        "eos", description="Special token put after each document when concatenating."
    )
    row_bos: bool = Field(
        False, description="Start every row with the beginning-of-text token, which then takes one of its positions."
    )


class TextCorpus(_Packed):
    """Local text files; the first documents are held out."""

    source: Literal["text"] = Field("text", description="Local text files (.txt, .txt.xz, .jsonl).")
    files: Annotated[list[FilePath], Field(min_length=1)] = Field(
        description="Paths, read in this order; relative ones begin in the working directory. Text files separate documents by a line `<|endoftext|>`; UTF-8, without a byte order mark. Line ends of Windows are read as `\\n` in .txt and .jsonl files and refused in .txt.xz files."
    )
    field: str = Field("text", description="Field of a .jsonl line that holds the text.")
    collapse_newlines: bool = Field(False, description="Replace each run of newlines by one.")


class HubCorpus(_Packed):
    """A dataset of the Hugging Face hub, streamed; the first documents are held out unless `eval_split` is given."""

    source: Literal["hub"] = Field("hub", description="A dataset of the Hugging Face hub, streamed.")
    name: HubName = Field(description="Dataset repository, such as `Skylion007/openwebtext`.")
    revision: Revision = Field("main", description="Branch, tag or commit; give a commit for a run that can be repeated.")
    split: str = Field("train", description="Split of the training documents.")
    eval_split: str | None = Field(
        None, description="Split of the held-out documents; null takes the first documents of `split`."
    )
    column: str = Field("text", description="Column with the text, or with token ids (`input_ids`).")


CorpusConfig = Annotated[SampledCorpus | TextCorpus | HubCorpus, Field(discriminator="source")]
