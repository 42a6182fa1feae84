"""Checkpoints: a flat dictionary of tensors and a JSON state, replaced atomically, never pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from .errors import UserError
from .files import write_tensors

if TYPE_CHECKING:
    from torch import Tensor

_MEND = "delete it and run the same command again to start that run over"


def save_checkpoint(path: Path, tensors: dict[str, Any], state: dict[str, Any]) -> None:
    """Write `tensors` and the JSON-serialisable `state` to one safetensors file, atomically."""
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    write_tensors(path, tensors, {"state": json.dumps(state, sort_keys=True)})


def load_checkpoint(path: Path, *keys: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return `(tensors, state)`, or None when there is no checkpoint. `keys` are those that the state must have.

    Raises:
        UserError: the file cannot be read.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as handle:
            state = json.loads(handle.metadata()["state"])
            if missing := [key for key in keys if key not in state]:
                raise KeyError(missing[0])
            return {name: handle.get_tensor(name) for name in handle.keys()}, state  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"checkpoint {path} cannot be read ({error}); {_MEND}.") from None


def restore(path: Path, saved: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> None:
    """Copy the tensors of the checkpoint at `path` into those of equal name.

    Raises:
        UserError: a name, a shape or a type differs.
    """
    for name in sorted(saved.keys() ^ into.keys()):
        raise UserError(f"checkpoint {path} {'lacks' if name in into else 'has an unknown'} tensor {name}; {_MEND}.")
    for name, tensor in into.items():
        if (saved[name].shape, saved[name].dtype) != (tensor.shape, tensor.dtype):
            found, wanted = ((tuple(t.shape), str(t.dtype).removeprefix("torch.")) for t in (saved[name], tensor))
            raise UserError(f"checkpoint {path} has a tensor {name} of {found} where {wanted} belongs; {_MEND}.")
    for name, tensor in into.items():
        tensor.copy_(saved[name])
