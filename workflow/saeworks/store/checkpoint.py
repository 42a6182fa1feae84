"""Checkpoints: a flat dictionary of tensors and a JSON state, replaced atomically, never pickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from .errors import UserError
from .files import write_tensors


def save_checkpoint(path: Path, tensors: dict[str, Any], state: dict[str, Any]) -> None:
    """Write `tensors` and the JSON-serialisable `state` to one safetensors file, atomically."""
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    write_tensors(path, tensors, {"state": json.dumps(state, sort_keys=True)})


def load_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return `(tensors, state)`, or None when there is no checkpoint.

    Raises:
        UserError: the file cannot be read.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as handle:
            state = json.loads(handle.metadata()["state"])
            return {name: handle.get_tensor(name) for name in handle.keys()}, state  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise UserError(f"checkpoint {path} cannot be read ({error}); delete it to start that run over.") from None
