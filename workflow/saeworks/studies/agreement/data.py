"""Fetch subject-verb agreement items.

Three templates of Finlayson et al. (2021) as Marks et al. (2024) published them (`saprmarks/feature-circuits`; its MIT licence names the
source code, not the data), and for the relative clause in between, which they leave out, a paradigm of BLiMP (Warstadt et al. 2020, CC BY 4.0).
"""

from __future__ import annotations

from pathlib import Path

from ...lm.novels import download
from ...store.errors import UserError, did_you_mean
from ...store.files import atomic_path, sha256_file

_MARKS = "https://raw.githubusercontent.com/saprmarks/feature-circuits/1d87366c758c484bd5c419af1b92f6ec0678046e/data"
_BLIMP = "https://raw.githubusercontent.com/alexwarstadt/blimp/3e56b06fcabca9b30822fc66435fca6b1aa40bb1/data"
URLS = {
    "simple_train.json": _MARKS,
    "nounpp_train.json": _MARKS,
    "within_rc_train.json": _MARKS,
    "distractor_agreement_relative_clause.jsonl": _BLIMP,
}
SHA256 = {
    "simple_train.json": "38eb04f0f3392a6e2fc1bdda025fb402ccea44c582f963b558deeb21d77a2cad",
    "nounpp_train.json": "993d7162f09291fb5be22aae8fb4e1a1984377b592a0579ba6394177ceb15424",
    "within_rc_train.json": "1995507cdf6ff8f30f94d50b58e1a0a7e01ac5d6a657132b8bcf811a965d4f30",
    "distractor_agreement_relative_clause.jsonl": "854728b6db8f23f12583f7332b654835351eaedb50783e6f2a3bf6c101b8c422",
}


def download_items(out: str) -> None:
    """Download the items of one template of subject-verb agreement, and check that they are the published ones.

    Args:
        out: file to write, named after the published one

    Raises:
        UserError: there is no such template, or it cannot be reached, or is another.
    """
    path = Path(out)
    if path.name not in URLS:
        raise UserError(f"no template is published as {path.name!r}{did_you_mean(path.name, URLS)}; there are {', '.join(URLS)}.")
    url = f"{URLS[path.name]}/{path.name}"
    with atomic_path(path) as partial:
        download(url, partial)
        if (found := sha256_file(partial)) != SHA256[path.name]:
            raise UserError(
                f"{url} has sha256 {found} instead of {SHA256[path.name]}, so it is not the published file; try again."
            )
    print(f"wrote {path}", flush=True)
