"""What a benchmark ran on."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def describe(threads: int) -> dict:
    """Processor, versions and thread count."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cpu = f"{names[0]}, {len(names)} cores" if names else platform.processor()
    return {"cpu": cpu, "python": platform.python_version(), "torch": torch.__version__, "threads": threads}
