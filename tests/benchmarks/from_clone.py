"""How long a newcomer waits: `make install`, then `make figures`, in a fresh clone of this repository.

`python tests/benchmarks/from_clone.py --out results/benchmarks/from_clone.json`

Packages come from where pip takes them on this machine, PIP_EXTRA_INDEX_URL included.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path

from machine import describe

from saeworks.store.files import write_json

ROOT = Path(__file__).resolve().parents[2]
_OF_ENVIRONMENT = ("PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS")  # that a newcomer does not have


def main() -> None:
    """Clone what is committed, make both targets one after the other, and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    environment = {key: value for key, value in os.environ.items() if key not in _OF_ENVIRONMENT}
    load, seconds = os.getloadavg(), {}
    with tempfile.TemporaryDirectory() as place:
        clone = Path(place) / "saeworks"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        for target in ("install", "figures"):
            started = time.perf_counter()
            subprocess.run(["make", target], check=True, cwd=clone, env=environment)
            seconds[f"{target}_s"] = time.perf_counter() - started
        files = (path.lstat() for path in (clone / ".venv").rglob("*"))
        size = sum(512 * file.st_blocks for file in files)
    result = {
        "command": f"python tests/benchmarks/from_clone.py --out {out}",
        "machine": describe(os.cpu_count() or 1),
        "load_average": {"before": load, "after": os.getloadavg()},
        **seconds,
        "environment_gb": size / 1e9,
    }
    write_json(out, result)
    print(result)


if __name__ == "__main__":
    main()
