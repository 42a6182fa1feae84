"""Seeds for random streams that must not be shared."""

from __future__ import annotations

import hashlib
from typing import Any


def derive_seed(*purpose: Any) -> int:
    """A 56-bit seed from a list of names and numbers, so that no two purposes share a random stream."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, purpose)).encode()).digest()[:7], "big")
