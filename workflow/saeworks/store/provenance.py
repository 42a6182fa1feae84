"""What results may depend on besides settings, code and inputs; recorded, not a reason to run again."""

from __future__ import annotations

import platform
from importlib.metadata import version


def environment() -> dict[str, str]:
    """Versions of Python and of the packages that compute."""
    packages = ("torch", "numpy", "transformers", "transformer_lens")
    return {"python": platform.python_version()} | {name: version(name).split("+")[0] for name in packages}
