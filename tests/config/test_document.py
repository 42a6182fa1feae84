"""config/README.md and the JSON schema say what the models say, and `check` notices when they do not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema
import pytest
import yaml
from pydantic import Field, NonNegativeInt, PositiveInt
from tests.each import each

from saeworks.config import document
from saeworks.config.base import Frozen
from saeworks.config.experiment import Experiment, PretrainExperiment
from saeworks.config.figures import FigureStyle
from saeworks.config.studies import FiguresConfig
from saeworks.store.errors import UserError

_REPOSITORY = Path(__file__).parents[2]
_SMALL = {
    "experiment": "small",
    "model": {"source": "own", "name": "novels-1m"},
    "runs": {"local": {"objective": "local", "hook_points": ["blocks.4.hook_resid_pre"], "sparsity_coeffs": [1]}},
}
_PRETRAIN = {"name": "m", "pretrain": {"train_text": "a.txt", "val_text": "b.txt", "source": "x"}}


def _rows() -> list[list[str]]:
    """Cells of every table row but the headers."""
    lines = [line for line in document.readme().splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def _leaf_keys(schema: dict[str, Any], node: dict[str, Any], path: str) -> set[str]:
    """Dotted paths of all plain keys of a JSON schema: an account of the keys that shares nothing with the writer."""
    if "$ref" in node:
        return _leaf_keys(schema, schema["$defs"][node["$ref"].rsplit("/", 1)[1]], path)
    if "oneOf" in node:
        return set().union(*(_leaf_keys(schema, option, path) for option in node["oneOf"]))
    if "properties" in node:
        return set().union(*(_leaf_keys(schema, field, f"{path}.{key}") for key, field in node["properties"].items()))
    inner = node.get("additionalProperties") or next(iter(node.get("patternProperties", {}).values()), None)
    if isinstance(inner, dict) and "$ref" in inner:
        return _leaf_keys(schema, inner, f"{path}.<name>")
    return {path.removeprefix(".")}


def test_every_key_is_in_the_readme_with_type_default_and_meaning():
    experiment, pretrain = Experiment.model_json_schema(), PretrainExperiment.model_json_schema()
    expected = _leaf_keys(experiment, experiment, "") | _leaf_keys(pretrain, pretrain, "")
    rows = _rows()
    shown = {row[0].strip("`") for row in rows}
    # what pictures share is shown once
    figures = [name for name, field in FiguresConfig.model_fields.items() if issubclass(field.annotation, FigureStyle)]
    shown |= {key.replace("<name>", figure) for key in shown if key.startswith("figures.<name>.") for figure in figures}
    blocks = Experiment.model_fields.keys() - {"experiment", "train_together", "draw"}
    assert expected - shown == set()
    assert {key for key in shown if not key.startswith("figures.<name>.")} - expected == blocks
    assert all(len(row) == 4 and all(row) for row in rows)


def test_the_readme_names_the_blocks_without_keys():
    assert (
        "\nWithout keys: `selection_table`, `rates_table`, `texts_table`, `spliced_table`, `wall_clock`.\n" in document.readme()
    )


@each(
    "key, kind, default",
    [
        ("training.d_sae", "whole number ≥ 1, ≤ 16,777,216", "`1024`"),
        ("training.lr", "number > 0, ≤ 10", "`0.0005`"),
        ("training.warmup_fraction", "number ≥ 0, < 1", "`0.05`"),
        ("training.grad_clip", "number > 0, or null", "`10.0`"),
        ("training.downstream_hook_points", "non-empty list of hook points, or null", "`null`"),
        ("corpus.n_tokens", "whole number ≥ 1, ≤ 10,000,000,000,000", "`2_000_000`"),
        ("corpus.source", "`sampled`, `text` or `hub`", "`sampled`"),
        ("model.source", "`hub`, `path` or `own`", "required"),
        ("model.processing.fold_ln", "true or false", "`true`"),
        ("experiment", "name (no spaces or slashes)", "required"),
        ("runs.<name>.seeds", "non-empty list of whole numbers ≥ 0, < 4,294,967,296", "`[0]`"),
        ("runs.<name>.training", "block of keys", "`{}`"),
    ],
)
def test_types_and_defaults_are_in_plain_words(key, kind, default):
    assert [row[1:3] for row in _rows() if row[0] == f"`{key}`"] == [[kind, default]]


def test_keys_of_a_union_stand_under_their_source():
    text = document.readme()
    sampled = text.split("`source: sampled` —")[1].split("`source: text` —")[0]
    assert "`corpus.temperature`" in sampled
    assert "`corpus.files`" not in sampled
    assert text.count("`corpus.n_tokens`") == 1  # shared by all sources


def test_placeholders_outside_code_survive_markdown():
    for row in _rows():
        outside_code = "".join(row[3].split("`")[::2])
        assert not re.search(r"(?<!\\)<\w", outside_code)


def test_links_to_blocks_have_a_heading():
    text = document.readme()
    links = re.findall(r"\[block\]\(#(\w+)\)", text)
    assert len(links) == len(re.findall(r"^### `", text, flags=re.MULTILINE))
    assert all(f"\n### `{link}`\n" in text for link in links)


def test_a_type_without_words_is_an_error_not_a_gap():
    class Odd(Frozen):
        pair: tuple[int, int] = Field((0, 1), description="A pair.")

    with pytest.raises(TypeError, match="no words"):
        list(document._rows(Odd, ""))


def test_words_for_types():
    assert document._words(Annotated[list[Literal["a", "b"]], Field(min_length=1)]) == "non-empty list of `a` or `b`"
    assert document._words(list[PositiveInt]) == "list of whole numbers ≥ 1"
    assert document._words(NonNegativeInt | None) == "whole number ≥ 0, or null"
    assert document._words(dict[str, str]) == "block with text per key"


def _valid(values: Any) -> bool:
    schema = json.loads(document.schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema).is_valid(values)


def test_the_schema_accepts_valid_files_of_both_kinds():
    assert _valid(_SMALL)
    assert _valid(_PRETRAIN)
    assert _valid(yaml.safe_load((_REPOSITORY / "config" / "config.yaml").read_text()))


@each(
    "values",
    [
        {},
        _SMALL | {"trainning": {}},
        _SMALL | {"training": {"d_sae": 0}},
        _SMALL | {"model": {"source": "hubb", "name": "a"}},
        _SMALL | {"model": {"source": "own", "name": "a", "path": "b"}},
        _SMALL | {"runs": {}},
        _SMALL | _PRETRAIN,
        {"name": "m", "pretrain": {}},
        _PRETRAIN | {"pretrain": _PRETRAIN["pretrain"] | {"layers": 3}},
    ],
)
def test_the_schema_refuses_what_the_models_refuse(values):
    assert not _valid(values)


def test_check_names_the_stale_or_missing_file(tmp_path):
    with pytest.raises(UserError, match="is not the root of the repository"):
        document.main(str(tmp_path))
    for written in (document.README, document.SCHEMA):
        (tmp_path / written).parent.mkdir(parents=True)
    with pytest.raises(UserError, match=r"config/README\.md does not match the configuration models"):
        document.main(str(tmp_path), check=True)
    document.main(str(tmp_path), check=False)
    document.main(str(tmp_path), check=True)
    schema = tmp_path / document.SCHEMA
    schema.write_text(schema.read_text() + " ")
    with pytest.raises(UserError, match=r"config\.schema\.json does not match the configuration models"):
        document.main(str(tmp_path), check=True)


def test_the_files_in_the_repository_are_up_to_date():
    document.main(str(_REPOSITORY), check=True)
