"""The download of the novels: the extraction rule, the checksums, and what a user sees when something is wrong."""

from __future__ import annotations

import hashlib
import io
import lzma
import tarfile
import urllib.error
from pathlib import Path

import pytest
from tests.each import each

from saeworks.lm import novels
from saeworks.store.errors import UserError

_TEI = """<?xml version="1.0" encoding="UTF-8"?>
<TEI xmlns="http://www.tei-c.org/ns/1.0">
 <teiHeader><encodingDesc><p>Header paragraph.</p></encodingDesc></teiHeader>
 <text>
  <front><div><p>Title page of {title}.</p></div></front>
  <body>
   <div type="chapter"><head>CHAPTER  I.</head>
    <pb n="1"/>
    <p>  He said <hi>very</hi>   little &amp;c.,
       &#8220;caf&#233;&#160;noir&#8221;<!-- a remark --> and {title}. </p>
    <p/>
    <p>She sang: <quote>
      <l>The first line,</l>
      <l>the <hi>second</hi>.</l>
     </quote> and fell<pb n="2"/> silent.</p>
    <lg><l>A verse by itself</l></lg>
   </div>
  </body>
  <back><div><p>A note.</p></div></back>
 </text>
</TEI>
"""

_EXPECTED = """CHAPTER I.

He said very little &c., “café noir” and {title}.

She sang: The first line, the second. and fell silent.

The first line,

the second.

A verse by itself"""


def _archive(path: Path, books: dict[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, text in books.items():
            data = text.encode()
            member = tarfile.TarInfo(f"ELTeC-eng-{novels.COMMIT}/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def _small_collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, str]]:
    """An archive of three books, in an order that is not the books' own, and the two texts that belong to it."""
    names = ("ENG10000_First", "ENG10010_Second", "ENG10020_Third")
    files = {f"level1/{name}.xml": _TEI.format(title=name) for name in reversed(names)}
    files["level1/ENG10030_Other.xml"] = files["level0/ENG10000_First.xml"] = "<not read>"
    first, second, third = (_EXPECTED.format(title=name) for name in names)
    texts = {"train.txt": f"{second}\n<|endoftext|>\n{third}\n", "val.txt": f"{first}\n"}
    monkeypatch.setattr(novels, "BOOKS", names)
    monkeypatch.setattr(novels, "SHA256", {k: hashlib.sha256(v.encode()).hexdigest() for k, v in texts.items()})
    return _archive(tmp_path / "archive.tar.gz", files), texts


def test_the_text_is_every_block_of_the_body_and_nested_blocks_twice():
    assert novels.book_text(_TEI.format(title="Emma").encode()) == _EXPECTED.format(title="Emma")


def test_the_archive_becomes_two_texts_of_whole_books(tmp_path, monkeypatch):
    archive, texts = _small_collection(tmp_path, monkeypatch)
    out = tmp_path / "novels"
    novels.build(archive, out)
    assert {path.name: path.read_text(encoding="utf-8") for path in out.iterdir()} == texts


def test_a_text_with_another_checksum_is_refused_and_nothing_is_written(tmp_path, monkeypatch):
    archive, _ = _small_collection(tmp_path, monkeypatch)
    monkeypatch.setitem(novels.SHA256, "val.txt", "0" * 64)
    with pytest.raises(UserError, match=r"^val\.txt made from .*archive\.tar\.gz has sha256 .* instead of 0{64}.*\.$"):
        novels.build(archive, tmp_path / "novels")
    assert not (tmp_path / "novels").exists()


def test_a_missing_book_is_named(tmp_path, monkeypatch):
    _small_collection(tmp_path, monkeypatch)
    archive = _archive(tmp_path / "less.tar.gz", {"level1/ENG10000_First.xml": _TEI})
    with pytest.raises(UserError, match=r"lacks 2 of 3 books \(first: level1/ENG10010_Second\.xml\)"):
        novels.build(archive, tmp_path / "novels")


@pytest.mark.parametrize("text", ["<TEI", "<TEI xmlns='http://www.tei-c.org/ns/1.0'><text/></TEI>"])
def test_a_file_that_is_no_tei_book_is_named(tmp_path, monkeypatch, text):
    _small_collection(tmp_path, monkeypatch)
    archive = _archive(tmp_path / "bad.tar.gz", {"level1/ENG10000_First.xml": text})
    with pytest.raises(UserError, match=r"level1/ENG10000_First\.xml in .* is not a TEI book \(no"):
        novels.build(archive, tmp_path / "novels")


def test_a_truncated_archive_is_refused(tmp_path, monkeypatch):
    archive, _ = _small_collection(tmp_path, monkeypatch)
    archive.write_bytes(archive.read_bytes()[:-60])
    with pytest.raises(UserError, match=r"^archive .*archive\.tar\.gz cannot be read \(.*\); download https://.* again\.$"):
        novels.build(archive, tmp_path / "novels")


def test_something_that_is_no_archive_is_refused(tmp_path):
    (tmp_path / "page.tar.gz").write_text("<html>rate limited</html>")
    with pytest.raises(UserError, match=r"page\.tar\.gz cannot be read"):
        novels.build(tmp_path / "page.tar.gz", tmp_path)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (urllib.error.URLError("no route to host"), "no route to host"),
        (TimeoutError("timed out"), "timed out"),
        (urllib.error.HTTPError(novels.URL, 404, "Not Found", None, None), "Not Found"),
    ],
)
def test_an_unreachable_network_is_one_sentence_and_leaves_nothing_behind(tmp_path, monkeypatch, fault, reason):
    def urlopen(*args, **kwargs):
        raise fault

    monkeypatch.setattr(novels.urllib.request, "urlopen", urlopen)
    with pytest.raises(UserError) as caught:
        novels.main(str(tmp_path))
    assert str(caught.value) == f"{novels.URL} cannot be downloaded ({reason}); check the network connection and try again."
    assert list(tmp_path.iterdir()) == []


def test_main_downloads_once_and_leaves_whole_texts_alone(tmp_path, monkeypatch):
    archive, texts = _small_collection(tmp_path, monkeypatch)
    requests = []

    def urlopen(url, timeout):
        requests.append((url, timeout))
        return archive.open("rb")

    monkeypatch.setattr(novels.urllib.request, "urlopen", urlopen)
    out = tmp_path / "data" / "novels"
    novels.main(str(out))
    novels.main(str(out))
    assert requests == [(novels.URL, novels.TIMEOUT)]
    assert {path.name: path.read_text(encoding="utf-8") for path in out.iterdir()} == texts
    (out / "val.txt").write_text("damaged")
    novels.main(str(out))
    assert (out / "val.txt").read_text(encoding="utf-8") == texts["val.txt"]


@pytest.mark.parametrize("name", ["train", "val"])
def test_the_checksums_are_those_of_the_texts_the_model_was_trained_on(shared, name):
    path = shared / "data" / "text" / "novels" / f"{name}.txt.xz"
    if not path.exists():
        pytest.skip(f"{path.name} is not there")
    text = lzma.decompress(path.read_bytes())
    assert hashlib.sha256(text).hexdigest() == novels.SHA256[f"{name}.txt"]
    held_out = [i for i in range(len(novels.BOOKS)) if i % novels.VAL_EVERY == 0]
    books = text.decode().split("\n<|endoftext|>\n")
    assert len(books) == (len(held_out) if name == "val" else len(novels.BOOKS) - len(held_out))


# excerpts of the TEI files (public-domain text): page breaks inside and between blocks, verse inside a paragraph, and an
# entity that the edition itself encoded twice
_EXCERPTS = {
    "ENG18871_Broughton": """
    <div><p>is made harmonious, enunciated by a
     young, clear voice, that sounds as if it had never been the vehicle for sorrowful words. <quote>
      <l rend="ti-3">"The village seems asleep or dead,</l>
      <l rend="ti-3">Now Lubin is away,"</l>
     </quote> and Esther, though she has entered upon her eighteenth year (an age which a century
     ago would have been rather
     <pb n="8" xml:id="VAB7385-012"/> overripe—Chloe and Cynthia and Phyllis being considered in
     their prime at fifteen, and toasted accordingly), has as yet no Lubin but her brother.@</p>
    <p>"Mr. Brandon is in the parlour, 'm."</p>
    <p>"Parlour! My good Sarah, how many times shall I adjure you, by all you hold most sacred, to
     say drawing-room?"</p>
    <p>"He has been there best part of half-an-hour, 'm."</p>
    <p>"Poor man! how lively for him! why on earth didn't you come and call me?"</p>
    <pb n="9" xml:id="VAB7385-013"/>
    <p>"He said as he wasn't in no partikler hurry, and he'd as lieve as not wait till you come in.
     Stop a bit, Miss Esther, you have got some hay on your frock behind."</p></div>""",
    "ENG18960_Malet": """
    <p>I am fond of contrasts. At that moment I had reason to congratulate myself. Here promised to
      be contrasts of a high order of interest.</p>
    <div type="chapter">
     <pb n="23" xml:id="VAB7033-024"/>
     <head>CHAPTER III</head>
     <p>T0 most of us foggy islanders 90° in the shade takes the gilt off the ginger-bread
      even in so delectable a matter as a luncheon to meet a resplendent tail. Perry
      <foreign xml:lang="fre">père et mère</foreign> were distinctly demoralised in aspect, and even the
      Carissima was not quite up to her usual level.</p></div>""",
    "ENG18481_Dickens": """
    <p>`Oh!´ murmured the family practitioner. `&amp;rdquo;Praise from Sir Hubert Stanley!”´ </p>
    <p>`You are good enough,´ returned Doctor Parker Peps, `to say so. Mr. Pilkins who, from his
     position, is best acquainted with the patient's constitution in its normal state (an
     acquaintance very valuable to us in forming our opinions on these occasions), is of opinion,
     with me, that Nature must be called upon to make a vigorous effort in this instance; and that
     if our interesting friend the Countess of Dombey — I <emph>beg</emph> your pardon; Mrs. Dombey — should
     not be — ´ </p>
    <p>`Able,´ said the family practitioner. </p>""",
}


@each("book", _EXCERPTS)
def test_real_markup_gives_the_text_the_model_was_trained_on(shared, book):
    path = shared / "data" / "text" / "novels" / "train.txt.xz"
    if not path.exists():
        pytest.skip(f"{path.name} is not there")
    train_books = [name for i, name in enumerate(novels.BOOKS) if i % novels.VAL_EVERY]
    text = lzma.decompress(path.read_bytes()).decode().split("\n<|endoftext|>\n")[train_books.index(book)]
    tei = f'<TEI xmlns="http://www.tei-c.org/ns/1.0"><text><body>{_EXCERPTS[book]}</body></text></TEI>'
    for part in novels.book_text(tei.encode()).split("@"):  # the excerpt leaves out the rest of a paragraph at @
        assert part in text
