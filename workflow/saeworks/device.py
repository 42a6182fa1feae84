"""The devices that torch computes on."""

from __future__ import annotations

from .store.errors import UserError


def usable(device: str) -> str:
    """`device`, torch's name of a device, if tensors can be put there.

    Raises:
        UserError: they cannot.
    """
    import torch  # slow import

    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch's three ways
        reason = str(error).strip().splitlines()[0].rstrip(".")
        there = "cpu or cuda" if torch.cuda.is_available() else "cpu, since torch finds no GPU here"
        raise UserError(f"device {device!r} cannot be used ({reason}); use {there}.") from None
    return device
