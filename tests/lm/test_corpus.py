"""Rows are packed by the stated policy, training rows share nothing with held-out ones, and what cannot be built says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from tests.each import each
from tests.tiny_pipeline import CONTEXT, D_VOCAB, N_CTX, write_model, write_tokenizer

from saeworks.config.corpus import HubCorpus, SampledCorpus, TextCorpus
from saeworks.lm import corpus as module
from saeworks.lm.corpus import _hub_documents, build_corpus, load_rows, pack_corpus, sample_corpus
from saeworks.lm.text import read_documents
from saeworks.store.errors import UserError
from saeworks.store.files import sha256_file

_BOS, _EOS = 1, 2


class _Tokenizer:
    """Each character is a token: `a` is 10, `b` is 11, …"""

    bos_token_id: int | None = _BOS
    eos_token_id: int | None = _EOS

    def __init__(self, size: int = 300) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return [ord(character) - 87 if character != "\n" else 3 for character in text]


def _text(**settings: object) -> TextCorpus:
    return TextCorpus(files=["unused"], **({"context": 4, "n_tokens": 8, "eval_tokens": 4} | settings))


def _pack(documents: Iterable, evaluation: Iterable | None = None, tokenizer=None, corpus_type=_text, **settings):
    train, held_out, facts = pack_corpus(
        corpus_type(**settings), iter(documents), None if evaluation is None else iter(evaluation), tokenizer or _Tokenizer(), 100
    )
    return train.tolist(), held_out.tolist(), facts


def _ids(text: str) -> list[int]:
    """`ab|c` → a b EOS c; `^` is BOS."""
    return [{"|": _EOS, "^": _BOS}.get(c, ord(c) - 87) for c in text]


def _rows(*texts: str) -> list[list[int]]:
    return [_ids(text) for text in texts]


@each(
    "settings, held_out, train",
    [
        ({}, _rows("abc|"), _rows("defg", "h|ij")),
        ({"separator": "bos"}, _rows("abc^"), _rows("defg", "h^ij")),
        ({"separator": "none"}, _rows("abcd"), _rows("ijkl", "mnop")),  # the rest of the document that was cut is dropped
        ({"row_bos": True}, _rows("^abc"), _rows("^def", "^gh|")),
        ({"row_bos": True, "separator": "none"}, _rows("^abc"), _rows("^def", "^ghi")),
        ({"packing": "truncate"}, _rows("defg"), _rows("ijkl", "qrst")),
        ({"packing": "truncate", "row_bos": True}, _rows("^abc"), _rows("^def", "^ijk")),
    ],
)
def test_documents_are_packed_by_the_literal_policy(settings, held_out, train):
    documents = ["abc", "defgh", "ijklmnop", "qrstu", "vw"]
    ours = _pack(documents, **settings)
    assert (ours[1], ours[0]) == (held_out, train)


def test_the_rest_of_the_document_that_fills_the_held_out_rows_is_dropped():
    train, held_out, facts = _pack(["abcdefgh", "ijklmnop"])
    assert held_out == _rows("abcd")
    assert train == _rows("ijkl", "mnop")
    assert facts == {"eval_documents": [0, 1], "train_documents": [1, 2], "skipped_duplicates": 0}


def test_counts_are_rounded_up_to_whole_rows():
    train, held_out, _ = _pack(["abcdefgh"] + ["ijklmnopqrst"] * 3, n_tokens=9, eval_tokens=5)
    assert (len(train), len(held_out)) == (3, 2)


@pytest.mark.parametrize("packing", ["concatenate", "truncate"])
def test_no_training_row_holds_a_held_out_document(packing):
    generator = np.random.default_rng(0)
    # every document consists of a letter of its own, so that a row tells which documents it is made of
    documents = [chr(97 + i % 200) * int(generator.integers(1, 9)) for i in range(120)]
    train, held_out, facts = _pack(documents, packing=packing, separator="none", n_tokens=120, eval_tokens=40)
    assert not {t for row in train for t in row} & {t for row in held_out for t in row}
    assert facts["eval_documents"][1] == facts["train_documents"][0]
    assert (len(train), len(held_out)) == (30, 10)


@pytest.mark.parametrize("own_split", [False, True])
def test_training_documents_equal_to_held_out_ones_are_skipped(own_split):
    evaluation, training = ["abcd", "efgh"], ["efgh", "ijkl", "abcd", "mnop", "qrst"]
    documents = training if own_split else evaluation + training
    train, held_out, facts = _pack(documents, evaluation if own_split else None, separator="none", eval_tokens=8, n_tokens=12)
    assert held_out == _rows("abcd", "efgh")
    assert train == _rows("ijkl", "mnop", "qrst")
    assert facts["skipped_duplicates"] == 2
    assert facts["eval_documents"] == [0, 2]
    assert facts["train_documents"] == ([0, 5] if own_split else [2, 7])


def test_repeats_among_training_documents_are_kept():
    train, _, facts = _pack(["abcd", "ijkl", "ijkl"], separator="none")
    assert train == _rows("ijkl", "ijkl") and facts["skipped_duplicates"] == 0


def test_documents_that_differ_only_in_what_is_dropped_count_as_equal():
    train, _, facts = _pack(["abcdx", "abcdy", "ijkl", "mnop"], packing="truncate")
    assert train == _rows("ijkl", "mnop") and facts["skipped_duplicates"] == 1
    train, _, facts = _pack(["a\nbc", "a\n\nbc", "ijkl", "mnop"], separator="none", collapse_newlines=True)
    assert train == _rows("ijkl", "mnop") and facts["skipped_duplicates"] == 1


def test_newlines_are_collapsed_on_request_only():
    documents = ["a\n\n\nb", "c\nd\n\n", "efgh"]
    rows = [_pack(documents, collapse_newlines=c, separator="none", n_tokens=4)[1] for c in (False, True)]
    assert rows[0] == [[10, 3, 3, 3]] and rows[1] == [[10, 3, 11, 12]]


def test_a_column_of_token_ids_is_packed_as_it_is():
    def hub(**settings):
        return HubCorpus(name="x/y", column="input_ids", context=4, n_tokens=4, eval_tokens=4, **settings)

    train, held_out, _ = _pack([[10, 11, 12], (20, 21, 22, 23)], corpus_type=hub)
    assert (train, held_out) == ([[20, 21, 22, 23]], [[10, 11, 12, _EOS]])
    with pytest.raises(UserError, match="holds token 70000, but the model's tokenizer has 300 tokens"):
        _pack([[10, 11, 12], [20, 21, 22, 70_000]], corpus_type=hub)


_BAD_DOCUMENTS = [None, 5, 1.5, True, {"a": 1}, ["a", "b"], [1, None], [1.0], [True], [-3, 5], "\ud800"]


@each("document", _BAD_DOCUMENTS)
def test_a_line_that_is_neither_text_nor_token_ids_is_one_sentence(tmp_path, document):
    path = tmp_path / "x.jsonl"
    path.write_text(f"{json.dumps({'text': 'good'})}\n{json.dumps({'text': [1, 2]})}\n{json.dumps({'text': document})}\n")
    documents = read_documents([str(path)])
    assert [next(documents), next(documents)] == ["good", [1, 2]]
    with pytest.raises(
        UserError, match=rf"field 'text' in line 3 of {path} is .*, neither text nor a list of token ids"
    ) as caught:
        next(documents)
    assert "\n" not in str(caught.value)


@each("line", ["", "{", "5", "null", '["a", "b"]', '"text"', '{"txt": "a"}', "[" * 100_000])
def test_a_line_that_is_no_object_with_the_field_is_one_sentence(tmp_path, line):
    (tmp_path / "x.jsonl").write_text(f"{line}\n")
    with pytest.raises(UserError, match="line 1 of .* is not a JSON object with a field 'text'"):
        next(read_documents([str(tmp_path / "x.jsonl")]))


@each("token", [-3, 300, 65_536, 1 << 70])
def test_a_token_that_the_tokenizer_lacks_does_not_wrap(token):
    with pytest.raises(UserError, match=f"holds token {token}, but the model's tokenizer has 300 tokens"):
        _pack([[10, 11, 12], [20, token, 22, 23]])


@each("name", ["x.txt", "x.txt.xz", "x.jsonl"])
def test_a_folder_or_bytes_of_no_text_in_the_place_of_a_text_are_one_sentence(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(UserError, match=rf"{path} does not exist; correct its path"):
        next(read_documents([str(path)]))
    path.mkdir()
    with pytest.raises(UserError, match=rf"{path} is no file; correct its path"):
        next(read_documents([str(path)]))
    path.rmdir()
    path.write_bytes(b'{"text": "\xff\xfe"}')
    with pytest.raises(UserError, match=rf"{path} cannot be read"):
        next(read_documents([str(path)]))


def test_a_dataset_of_the_hub_is_never_a_folder_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "set").mkdir(parents=True)
    with pytest.raises(
        UserError,
        match=r"`corpus.name` is 'data/set' with `source: hub`, but .*set exists, and would be read.*`source: text`",
    ):
        next(_hub_documents(HubCorpus(name="data/set"), "train"))


def test_a_tokenizer_of_another_model_is_one_sentence(tmp_path, tiny_model):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    write_tokenizer(model, D_VOCAB + 100)
    text = " ".join(f"w{D_VOCAB + i}" for i in range(40))
    (tmp_path / "x.txt").write_text("\n<|endoftext|>\n".join(f"w{i} {text}" for i in range(9)))
    with pytest.raises(UserError, match=rf"gives token 10[0-9], but the model has {D_VOCAB}"):
        build_corpus(
            TextCorpus(files=[str(tmp_path / "x.txt")], context=10, n_tokens=40, eval_tokens=40, separator="none"),
            model,
            tmp_path / "out",
        )


@each("key, value", [("train_rows", -1), ("context", "12"), ("sha256", {}), ("sha256", []), ("sources", None)])
def test_a_manifest_that_says_something_else_is_one_sentence(tmp_path, tiny_corpus, key, value):
    folder = tmp_path / f"{key}={value}"
    shutil.copytree(tiny_corpus, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {key: value}))
    with pytest.raises(UserError, match=rf"manifest.json is damaged \(its `{key}"):
        load_rows(folder, "train")


@pytest.mark.parametrize(("size", "kind"), [(300, np.uint16), (1 << 16, np.uint16), ((1 << 16) + 1, np.uint32)])
def test_rows_are_stored_in_the_smallest_type_that_holds_the_vocabulary(size, kind):
    documents = iter([[size - 1, 5, 6], [7, 8, size - 1, 9]])
    hub = HubCorpus(name="x/y", context=4, n_tokens=4, eval_tokens=4)
    train, held_out, _ = pack_corpus(hub, documents, None, _Tokenizer(size), 100)
    assert train.dtype == held_out.dtype == kind
    assert (held_out[0, 0], train[0, 2]) == (size - 1, size - 1)


def test_a_corpus_that_is_too_small_is_one_sentence_with_the_numbers():
    with pytest.raises(UserError) as caught:
        _pack(["abcdef", "ghijk", "lmn"], n_tokens=4000, eval_tokens=8)
    message = str(caught.value)
    assert "has 4 training and 8 held-out tokens" in message
    assert "`corpus.n_tokens` asks for 4,000 and `corpus.eval_tokens` for 8;" in message and "\n" not in message
    with pytest.raises(UserError, match="has 0 training and 4 held-out tokens"):
        _pack(["abc"], eval_tokens=400)
    with pytest.raises(UserError, match="has 0 training and 0 held-out tokens"):
        _pack([])


def test_a_context_longer_than_the_model_reads_is_one_sentence(tiny_model):
    with pytest.raises(UserError, match="`corpus.context` is 101, but the model reads at most 100 tokens; lower it"):
        _pack(["abc"], context=101)
    with pytest.raises(UserError, match=f"`corpus.context` is {N_CTX + 1}, but the model reads at most {N_CTX} tokens"):
        sample_corpus(SampledCorpus(context=N_CTX + 1), tiny_model)


def test_a_missing_special_token_is_one_sentence_and_only_where_it_is_used(tmp_path):
    tokenizer = _Tokenizer()
    tokenizer.bos_token_id = tokenizer.eos_token_id = None
    documents = ["abcd", "efgh", "ijkl"]
    for settings, key in (
        ({}, "separator"),
        ({"separator": "bos"}, "separator"),
        ({"separator": "none", "row_bos": True}, "row_bos"),
    ):
        with pytest.raises(UserError, match=f"`corpus.{key}` needs a special token that the model's tokenizer lacks"):
            _pack(documents, tokenizer=tokenizer, **settings)
    for settings in ({"separator": "none"}, {"packing": "truncate"}):
        assert _pack(documents, tokenizer=tokenizer, **settings)[0] == _rows("efgh", "ijkl")
    model = write_model(tmp_path / "model", bos=None)
    with pytest.raises(UserError, match="no beginning-of-text token to sample from; use a `text` or `hub` corpus"):
        sample_corpus(SampledCorpus(context=CONTEXT), model)


def _sampled(model: Path, **settings: object) -> tuple[np.ndarray, np.ndarray, dict]:
    defaults = {"n_tokens": 20 * CONTEXT, "eval_tokens": 5 * CONTEXT, "context": CONTEXT, "batch_rows": 8}
    return sample_corpus(SampledCorpus(**(defaults | settings)), model)


def test_sampled_rows_start_with_the_first_token_and_are_split_without_overlap(tiny_model):
    train, held_out, facts = _sampled(tiny_model)
    assert (train.shape, held_out.shape) == ((20, CONTEXT), (5, CONTEXT))
    assert train.dtype == np.uint16
    assert (train[:, 0] == 0).all() and (held_out[:, 0] == 0).all()
    assert facts == {"eval_samples": [0, 5], "train_samples": [5, 25], "first_token": 0}
    assert not {tuple(row) for row in train.tolist()} & {tuple(row) for row in held_out.tolist()}
    assert len({tuple(row) for row in train.tolist()}) == 20  # the batches have generators of their own


def test_the_same_seed_samples_the_same_rows_and_other_settings_others(tiny_model):
    train, held_out, _ = _sampled(tiny_model)
    again = _sampled(tiny_model)
    assert np.array_equal(again[0], train) and np.array_equal(again[1], held_out)
    for settings in ({"seed": 1}, {"temperature": 2.0}):
        assert not np.array_equal(_sampled(tiny_model, **settings)[0], train)


@pytest.mark.parametrize("rows", [21, 24, 100])
def test_asking_for_more_tokens_keeps_the_rows_there_were(tiny_model, rows):
    train, held_out, _ = _sampled(tiny_model)
    more, same, _ = _sampled(tiny_model, n_tokens=rows * CONTEXT)
    assert np.array_equal(same, held_out) and np.array_equal(more[:20], train)
    assert len(more) == rows


def _write_text(tmp_path: Path, n: int = 60) -> Path:
    words = [" ".join(f"w{1 + (5 * i + j) % (D_VOCAB - 1)}" for j in range(9)) for i in range(n)]
    (tmp_path / "text.txt").write_text("\n<|endoftext|>\n".join(words))
    return tmp_path / "text.txt"


def test_a_text_corpus_on_disk_holds_the_tokenizer_s_ids(tmp_path, tiny_model):
    settings = {"files": [str(_write_text(tmp_path))], "context": 10, "n_tokens": 100, "eval_tokens": 20}
    build_corpus(TextCorpus(**settings), tiny_model, tmp_path / "corpus")
    train, held_out = (load_rows(tmp_path / "corpus", split) for split in ("train", "eval"))
    assert (train.shape, held_out.shape) == ((10, 10), (2, 10))
    for number, row in enumerate([*held_out, *train]):  # nine words and the end of text make a row
        assert row.tolist() == [1 + (5 * number + j) % (D_VOCAB - 1) for j in range(9)] + [0]
    manifest = json.loads((tmp_path / "corpus" / "manifest.json").read_text())
    assert manifest["sha256"] == {name: sha256_file(tmp_path / "corpus" / f"{name}.npy") for name in ("train", "eval")}
    assert (manifest["train_rows"], manifest["eval_rows"], manifest["context"]) == (10, 2, 10)
    assert manifest["train_documents"] == [2, 12]


def test_building_twice_gives_equal_bytes(tmp_path, tiny_model):
    corpus = SampledCorpus(n_tokens=10 * CONTEXT, eval_tokens=CONTEXT, context=CONTEXT, batch_rows=4)
    for name in ("first", "second"):
        build_corpus(corpus, tiny_model, tmp_path / name)
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


def test_an_interrupted_rebuild_leaves_no_manifest_of_other_rows(tmp_path, tiny_model, monkeypatch):
    corpus = SampledCorpus(n_tokens=10 * CONTEXT, eval_tokens=CONTEXT, context=CONTEXT, batch_rows=4)
    build_corpus(corpus, tiny_model, tmp_path / "corpus")
    real, calls = np.save, []

    def save(handle, rows):
        calls.append(1)
        if len(calls) == 2:
            raise OSError("power cut")
        real(handle, rows)

    monkeypatch.setattr(np, "save", save)
    with pytest.raises(UserError, match=r"could not be written \(power cut\)"):
        build_corpus(corpus.model_copy(update={"seed": 1}), tiny_model, tmp_path / "corpus")
    with pytest.raises(UserError, match="manifest.json is missing"):
        load_rows(tmp_path / "corpus", "train")


@pytest.mark.parametrize("damage", ["missing", "truncated", "other shape"])
def test_damaged_rows_are_one_sentence(tmp_path, tiny_model, damage):
    build_corpus(
        SampledCorpus(n_tokens=10 * CONTEXT, eval_tokens=CONTEXT, context=CONTEXT, batch_rows=4), tiny_model, tmp_path / "corpus"
    )
    path = tmp_path / "corpus" / "train.npy"
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:60])
    else:
        np.save(path, np.zeros((3, CONTEXT), dtype=np.uint16))
    with pytest.raises(UserError) as caught:
        load_rows(tmp_path / "corpus", "train")
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and message.endswith(".")
    assert ("does not fit its manifest" if damage == "other shape" else "cannot be read") in message
    assert len(load_rows(tmp_path / "corpus", "eval")) == 1


def test_the_command_reads_the_kind_of_corpus_from_its_settings(tmp_path, tiny_model):
    settings = {"source": "text", "files": [str(_write_text(tmp_path))], "context": 10, "n_tokens": 100, "eval_tokens": 20}
    module.main(json.dumps(settings), str(tiny_model), str(tmp_path / "corpus"), "cpu")
    assert load_rows(tmp_path / "corpus", "train").shape == (10, 10)
    with pytest.raises(UserError, match="`corpus.contxt`"):
        module.main(json.dumps(settings | {"contxt": 3}), str(tiny_model), str(tmp_path / "corpus"), "cpu")
