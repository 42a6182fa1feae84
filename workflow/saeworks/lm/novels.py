"""Fetch the English novels (ELTeC-eng, 1840-1920) that the small language model is trained on.

Source: `COST-ELTeC/ELTeC-eng`, edited by Lou Burnard, https://doi.org/10.5281/zenodo.3533868. The novels are in the public
domain; their markup, which is removed here, is CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/).
"""

from __future__ import annotations

import hashlib
import http.client
import shutil
import tarfile
import tempfile
import urllib.request
import zlib
from pathlib import Path
from xml.etree import ElementTree

from ..store.errors import UserError
from ..store.files import atomic_path, sha256_file
from .text import SEPARATOR

COMMIT = "3db3b6738a836f0e1b276b6c9703e42f4297f978"
URL = f"https://codeload.github.com/COST-ELTeC/ELTeC-eng/tar.gz/{COMMIT}"
TIMEOUT = 60  # seconds without a byte

# 99 files of the folder `level1`, in file-name order; the collection's other novel is no part of the text
_NAMES = """
    18400_Trollope 18410_Sinclair 18411_Tupper 18440_Disraeli 18450_Disraeli 18470_Aguilar 18471_Bronte 18480_Thackeray
    18481_Dickens 18482_Gaskell 18490_Skene 18500_Ainsworth 18510_Kingsley 18530_Dickens 18531_Yonge 18540_Dickens
    18551_Trollope 18552_Kavanagh 18560_Yonge 18570_Bronte 18600_Clive 18610_Eliot 18621_Braddon 18630_Craik 18632_Reade
    18640_Blackmore 18641_Stretton 18650_Trollope 18651_Yonge 18652_Carroll 18660_Eliot 18661_Oliphant 18670_Ouida
    18700_Oliphant 18702_Jenkins 18720_Lynn 18721_Eliot 18740_Ouida 18741_Bulwer 18742_Trollope 18760_Collins 18770_Mallock
    18800_Disraeli 18820_Anstey 18830_Broughton 18831_Ouida 18840_Lee 18850_Rutherford 18860_Hardy 18870_Barry 18871_Broughton
    18872_Lyall 18880_Ward 18890_Nesbit 18900_Doyle 18901_Broughton 18910_Yeats 18911_Gissing 18920_Grossmith 18930_Benson
    18931_Harraden 18940_Dixon 18941_Caird 18950_Cross 18951_Ward 18952_Wells 18953_Macdonald 18954_Sharp 18960_Malet
    18961_Griffiths 18970_Phillpots 18972_Morris 18973_Cholmondeley 18980_BaringGould 19001_Glyn 19004_Fowler 19005_Steel
    19010_Mason 19011_Jerome 19020_Nesbit 19060_Nesbit 19070_Machen 19071_Silberrad 19080_Chesterton 19090_Wells 19091_Ward
    19100_Forster 19111_Hornung 19120_Wells 19121_Belloc 19150_Buchan 19170_Conrad 19180_Lewis 19181_West 19190_Benson
    19191_Hamilton 19192_Woolf 19200_Lawrence 19201_Arlen
"""
BOOKS = tuple(f"ENG{name}" for name in _NAMES.split())
VAL_EVERY = 20  # books 0, 20, 40, … are held out

SHA256 = {
    "train.txt": "6843002707ff0291fa656097c9414b6e91c30368e052c5f8a0490ae48b2abd89",
    "val.txt": "cf3a6ae6534875e025fa166309a7d33c72bb357ccef6817a69431a833c89ca09",
}

_TEI = "{http://www.tei-c.org/ns/1.0}"
_BLOCKS = {f"{_TEI}{name}" for name in ("p", "head", "l")}


def book_text(tei: bytes) -> str:
    """Plain text of a TEI document: its paragraphs, headings and verse lines, joined by blank lines.

    Only the `<body>` counts, not the front and back matter. Blocks come in document order with all the text inside them,
    white space collapsed to single spaces; empty ones are dropped. A block nested in another one appears twice, inside the
    outer block and after it: the published model was trained on that text, so it is kept.

    Raises:
        ValueError: no XML, or no `<body>`.
    """
    try:
        body = ElementTree.fromstring(tei).find(f".//{_TEI}body")
    except ElementTree.ParseError as error:
        raise ValueError(f"not valid XML: {error}") from None
    if body is None:
        raise ValueError("no <body>")
    blocks = (" ".join("".join(element.itertext()).split()) for element in body.iter() if element.tag in _BLOCKS)
    return "\n\n".join(block for block in blocks if block)


def build(archive: Path, out: Path) -> None:
    """Write `train.txt` and `val.txt` under `out` from the repository's archive: whole books between separator lines.

    Raises:
        UserError: the archive is damaged or lacks a book, or the texts are not the published ones.
    """
    books = _read_books(archive)
    parts = {
        "train.txt": [books[name] for i, name in enumerate(BOOKS) if i % VAL_EVERY],
        "val.txt": [books[name] for i, name in enumerate(BOOKS) if i % VAL_EVERY == 0],
    }
    texts = {name: (f"\n{SEPARATOR}\n".join(part) + "\n").encode() for name, part in parts.items()}
    for name, text in texts.items():
        found = hashlib.sha256(text).hexdigest()
        if found != SHA256[name]:
            raise UserError(
                f"{name} made from {archive} has sha256 {found} instead of {SHA256[name]}, so it is not the text that the "
                f"model was trained on; download {URL} again."
            )
    for name, text in texts.items():
        with atomic_path(out / name) as partial:
            partial.write_bytes(text)


def _read_books(archive: Path) -> dict[str, str]:
    by_number = {name.split("_")[0]: name for name in BOOKS}  # ENG18652_Carroll; the number alone names a book
    books: dict[str, str] = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                path = Path(member.name)
                name = by_number.get(path.stem[:8])
                if name is None or path.parent.name != "level1" or path.suffix != ".xml" or not member.isfile():
                    continue
                try:
                    books[name] = book_text(tar.extractfile(member).read())
                except ValueError as error:
                    raise UserError(f"{member.name} in {archive} is not a TEI book ({error}); download {URL} again.") from None
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"archive {archive} cannot be read ({error}); download {URL} again.") from None
    missing = [name for name in BOOKS if name not in books]
    if missing:
        raise UserError(
            f"archive {archive} lacks {len(missing)} of {len(BOOKS)} books (first: level1/{missing[0]}.xml); "
            f"download {URL} again."
        )
    return books


def download(url: str, path: Path) -> None:
    """Fetch `url` into the file `path`.

    Raises:
        UserError: the address cannot be reached, or the transfer stops.
    """
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response, path.open("wb") as handle:
            shutil.copyfileobj(response, handle)
    except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise UserError(f"{url} cannot be downloaded ({reason}); check the network connection and try again.") from None


def main(out: str) -> None:
    """Download the public novels that novels-1m is trained on.

    Args:
        out: folder for `train.txt` and `val.txt`, which are left alone if they are there and whole.
    """
    folder = Path(out)
    if all((folder / name).exists() and sha256_file(folder / name) == digest for name, digest in SHA256.items()):
        print(f"{folder} already holds the novels", flush=True)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch:
        archive = Path(scratch) / "ELTeC-eng.tar.gz"
        print(f"downloading {URL}", flush=True)
        download(URL, archive)
        build(archive, folder)
    print(f"wrote {', '.join(str(folder / name) for name in SHA256)}", flush=True)
