"""saeworks: train, compare and understand sparse autoencoders, reproducibly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .sae.base import SAE
    from .session import Session
    from .studies.fidelity.settings import FidelityConfig

__version__ = "0.1.0"


# torch is a slow import, and the rules need only the configuration: so the imports are inside


def load_run(path: str | Path, device: str = "cpu", hook_point: str | None = None) -> SAE:
    """The trained SAE of a run folder, frozen: `sae.encode(x)`, `sae.decode(codes)`, `sae.dictionary()`.

    Or one of another library, whose layout is found out: SAELens, sparsify, dictionary_learning, e2e_sae. Nothing but tensors
    is ever read from a pickle.

    Args:
        path: a run folder, or a file or folder of another library.
        device: where its tensors are put, by torch's name.
        hook_point: which SAE, where a file or folder holds several.

    Raises:
        saeworks.store.errors.UserError: there is none, it is incomplete or damaged, or computes what no class here does; or
            there is no such device.
    """
    from .device import usable
    from .sae.interop import load

    return load(Path(path), usable(device), hook_point)


def load_session(
    run: str | Path, experiment_root: str | Path = ".", device: str = "cpu", evaluation: FidelityConfig | None = None
) -> Session:
    """The language model, the SAE and the activations that it was trained on: `model, sae, activations = load_session(run)`.

    Args:
        run: a run folder, results/<experiment>/saes/<hook point>/<run>.
        experiment_root: the folder with `data/`, where what the run's manifest names is found.
        device: where model and SAE are put, by torch's name.
        evaluation: the block `studies.fidelity` that `session.evaluate()` uses; None: its defaults, all held-out rows.

    Raises:
        saeworks.store.errors.UserError: something that the run was made from is missing or has changed, or there is no such
            device.
    """
    from .device import usable
    from .session import load_session as load

    return load(run, experiment_root, usable(device), evaluation)
