"""The corpus stage: build the token rows, or take over equal ones that another experiment has built."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..config.base import Json
from ..store.errors import UserError
from ..store.files import atomic_path, read_json, sha256_file
from . import corpus
from .corpus import CorpusManifest


def equal_corpus(out: Path, fingerprint: str) -> Path | None:
    """A finished corpus of another experiment with `fingerprint`, made from files that are unchanged since.

    Corpora lie at data/corpora/<experiment>/<key>, `out` among them.
    """
    for folder in sorted(out.parent.parent.glob(f"*/{out.name}")):
        if folder == out or not (folder / "manifest.json").exists():
            continue
        try:
            manifest = read_json(folder / "manifest.json", CorpusManifest)
        except UserError:  # of no use here, and said where it is used
            continue
        files = {Path(name): digest for name, digest in manifest["sources"].items()}
        files |= {folder / f"{split}.npy": digest for split, digest in manifest["sha256"].items()}
        if manifest.get("fingerprint") == fingerprint and all(p.exists() and sha256_file(p) == d for p, d in files.items()):
            return folder
    return None


def main(spec: Json, model: str, out: str, device: str, fingerprint: str | None = None) -> None:
    """Sample or pack the token rows, or take over equal ones.

    Args:
        spec: the `corpus` block of the configuration.
        model: folder of the prepared model.
        out: folder of the corpus.
        device: where to compute: cpu or cuda.
        fingerprint: identity of the step, kept in its record.
    """
    found = equal_corpus(Path(out), fingerprint) if fingerprint else None
    if found is None:
        corpus.main(spec, model, out, device, fingerprint)
        return
    print(f"the same rows are in {found}; taken over", flush=True)
    (Path(out) / "manifest.json").unlink(missing_ok=True)
    for name in ("train.npy", "eval.npy", "manifest.json"):  # the manifest last: it says that the corpus is whole
        with atomic_path(Path(out) / name) as partial:
            shutil.copyfile(found / name, partial)
