"""saeworks: train, compare and understand sparse autoencoders, reproducibly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .sae.relu import ReluSAE

__version__ = "0.1.0"


def load_run(folder: str | Path, device: str = "cpu") -> ReluSAE:
    """The trained SAE of a run directory, frozen: `sae.encode(x)`, `sae.decode(codes)`, `sae.dictionary()`.

    Raises:
        saeworks.store.errors.UserError: the directory is incomplete or damaged.
    """
    from .sae.formats import load_sae  # torch is a slow import, and the rules need only the configuration

    return load_sae(Path(folder), device)
