"""Every caption that people read: short, and without what the report's front page says once for all figures."""

from __future__ import annotations

import re
from pathlib import Path

from tests.each import each

from saeworks.store.notebooks import notebook_path
from saeworks.studies import caption, claims, figures

_FOLDER = notebook_path("braun2024").parents[1]
_NOTEBOOKS = {p.stem: " ".join(p.read_text().split()) for p in (_FOLDER / "report").glob("*.rst") if p.stem != "workflow"}
_CAPTIONS = {name: caption(name) for name in figures()} | _NOTEBOOKS | {"claims": claims.CAPTION}
_SENTENCES, _WORDS = 3, 65
_NO_END = re.compile(r"\b(?:et al|Fig)\. ")
_SAID_ONCE = (
    "inverted",
    "chosen for similar CE increase, a",
    "depends on the model",
    "interval over rows",
    "intervals over rows",
)


def _sentences(text: str) -> int:
    return len(re.findall(r"[.?!](?= |$)", _NO_END.sub("", text)))


def test_sentences_are_counted():
    assert _sentences("After Fig. 3 of Braun et al. 2024: a rate of 0.5. Is it? So.") == 3


@each("name", _CAPTIONS)
def test_a_caption_has_one_to_three_sentences_and_few_words(name):
    said = _CAPTIONS[name]
    assert said.endswith((".", "?")) and said[0].isupper()
    assert 1 <= _sentences(said) <= _SENTENCES and len(said.split()) <= _WORDS, f"{_sentences(said)}, {len(said.split())}"


@each("name", _CAPTIONS)
def test_a_caption_leaves_what_holds_for_all_figures_to_the_front_page(name):
    assert not [words for words in _SAID_ONCE if words in _CAPTIONS[name]]


def test_every_caption_belongs_to_a_figure_or_a_notebook():
    notebooks = {path.stem for path in (_FOLDER / "notebooks").glob("*.ipynb")}
    assert set(_NOTEBOOKS) == notebooks
    assert {path.stem for path in Path(claims.__file__).parent.glob("*/*.rst")} == set(figures())
