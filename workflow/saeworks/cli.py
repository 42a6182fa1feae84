"""The command line: one command per stage. Rules call it; so can a person."""

from __future__ import annotations

import argparse
import ctypes
import errno
import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .store.errors import Interrupted, UserError


@dataclass(frozen=True)
class Command:
    """A stage: where its `main` lives and the options it takes (name to help text)."""

    module: str
    help: str
    options: dict[str, str]
    function: str = "main"
    repeated: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    optional: dict[str, str | None] = field(default_factory=dict)  # defaults of its own options
    uses_torch: bool = True


_DEFAULTS = {"device": "auto", "fingerprint": None, "start-from": None, "end-to-end": None, "module": None}
_FINGERPRINT = "identity of the step, kept in its record"
_DEVICE = "torch device: cpu, cuda, or auto for cuda where there is one"
COMMANDS = {
    "novels": Command(
        "lm.novels", "download the public novels that novels-1m is trained on", {"out": "folder for train.txt and val.txt"}
    ),
    "pretrain": Command(
        "lm.pretrain",
        "train the small language model",
        {
            "spec": "pretrain block as JSON",
            "name": "model name",
            "out": "model directory",
            "scratch": "folder for checkpoints",
            "fingerprint": _FINGERPRINT,
        },
        function="pretrain_from_json",
    ),
    "prepare": Command("lm.prepare", "load and process the language model", {"spec": "model block as JSON", "out": "folder"}),
    "corpus": Command(
        "lm.shared_corpus",
        "sample or pack the token rows, or take over equal ones",
        {
            "spec": "corpus block as JSON",
            "model": "prepared model",
            "out": "folder",
            "fingerprint": _FINGERPRINT,
            "device": _DEVICE,
        },
    ),
    "cache": Command(
        "activations.cache",
        "cache activations at hook points",
        {
            "spec": "activations block as JSON",
            "hook-points": "comma-separated hook points",
            "end-to-end": "those of them that runs are trained end to end at, comma-separated",
            "model": "prepared model",
            "corpus": "corpus folder",
            "out": "folder",
            "fingerprint": _FINGERPRINT,
            "device": _DEVICE,
        },
    ),
    "train": Command(
        "training.run",
        "train one SAE, or several of one hook point together",
        {
            "spec": "run spec as JSON; several train together",
            "activations": "activations block as JSON",
            "cache": "activation cache",
            "model": "prepared model",
            "corpus": "corpus folder",
            "out": "run folder, one for each spec",
            "scratch": "folder for checkpoints, one for each spec",
            "fingerprint": _FINGERPRINT,
            "start-from": "run folder that a `finetune` run continues",
            "device": _DEVICE,
        },
        repeated=("spec", "out", "scratch", "fingerprint"),
    ),
    "export": Command(
        "export",
        "write a trained SAE for another library",
        {
            "run": "run folder, or any SAE that saeworks loads",
            "to": "saelens or sparsify",
            "out": "folder",
            "module": "sparsify: Hugging Face module whose output the SAE reads; by default that of the run's hook point",
        },
    ),
    "measure": Command(
        "studies.measure",
        "measure one study at one place",
        {
            "study": "name of the study",
            "spec": "its settings as JSON, {} where it has none",
            "experiment": "experiment name",
            "out": "folder for the parts of its tables",
            "at": "the place: hook point and run, a hook point, or nothing",
            "model": "prepared model, for a study that needs it",
            "corpus": "corpus folder, for a study that needs it",
            "device": _DEVICE,
            "runs": "names of all runs, for study `runs`",
        },
        function="measure",
        repeated=("runs",),
        optional={"at": "", "model": "", "corpus": "", "runs": None},
    ),
    "gather": Command(
        "studies.gather",
        "join the parts of a study's tables",
        {"study": "name of the study", "experiment": "experiment name", "parts": "folders of the parts"},
        function="gather",
        repeated=("parts",),
        uses_torch=False,
    ),
    "agreement-data": Command(
        "studies.agreement.data",
        "download the items of one template of subject-verb agreement",
        {"out": "file to write, named after the published one"},
        function="download_items",
    ),
    "figure": Command(
        "studies.draw",
        "draw one figure or write one display table from the tables",
        {"name": "figure", "spec": "its configuration block as JSON", "tables": "folder of tables", "out": "path without suffix"},
        function="figure",
        uses_torch=False,
    ),
    "notebook": Command(
        "studies.notebook",
        "run a notebook on the tables and figures",
        {
            "name": "notebook of workflow/notebooks",
            "tables": "folder of tables",
            "figures": "folder of figures",
            "drawn": "names of the figures and display tables that the experiment has",
            "experiment": "experiment name",
            "out-ipynb": "executed notebook",
            "out-html": "the same as HTML",
        },
        function="notebook",
        repeated=("drawn",),
        uses_torch=False,
    ),
    "test-claims": Command(
        "studies.claims",
        "test the papers' claims on an experiment",
        {"experiment": "experiment name", "studies": "names of the studies that it has"},
        function="write_claims",
        repeated=("studies",),
        uses_torch=False,
    ),
    "claims": Command(
        "studies.claims",
        "print the papers' claims beside the results of experiments, as Markdown",
        {"experiment": "experiment name"},
        function="print_claims",
        repeated=("experiment",),
        uses_torch=False,
    ),
    "document": Command(
        "config.document",
        "write config/README.md and the JSON schema from the configuration models",
        {"root": "repository root"},
        flags=("check",),
        uses_torch=False,
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status: 0, 2 for bad input, 130 when interrupted."""
    options = vars(_parser().parse_args(arguments))
    name, threads = options.pop("command"), options.pop("threads", None)
    try:
        function = _load(COMMANDS[name], options, threads)
        function(**options)
    except UserError as error:
        return _fail(str(error), 2)
    except json.JSONDecodeError as error:
        return _fail(f"an option that takes JSON is not valid JSON: {error}.", 2)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = f" while writing {error.filename}" if error.filename else ""
            return _fail(f"the disk is full{where}; free some space and run the same command again, it continues.", 2)
        raise
    except MemoryError as error:
        return _fail(f"out of memory ({error}); lower the batch size or the number of features, or use a larger machine.", 2)
    except Interrupted as state:
        return _fail(str(state), 130)
    except KeyboardInterrupt:
        return _fail("interrupted; the same command continues.", 130)
    return 0


def _load(command: Command, options: dict, threads: int | None) -> Callable[..., None]:
    if command.uses_torch:
        _prepare_torch(options, threads)
    return getattr(importlib.import_module(f".{command.module}", __package__), command.function)


def _prepare_torch(options: dict, threads: int | None) -> None:
    _keep_freed_memory()
    import torch  # slow import

    if threads is not None:
        torch.set_num_threads(threads)
    if options.get("device") == "auto":
        options["device"] = "cuda" if torch.cuda.is_available() else "cpu"
    if options.get("device", "cpu") != "cpu":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)


def _keep_freed_memory() -> None:
    """Tell glibc not to return large freed blocks to the system: page faults cost a fifth of a training step otherwise."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        m_trim_threshold, m_mmap_threshold = -1, -3
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, (1 << 31) - 1)
    except (OSError, AttributeError):
        pass  # another C library: slower, that is all


def _fail(sentence: str, status: int) -> int:
    print(f"saeworks: {sentence}", file=sys.stderr, flush=True)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="saeworks", description="Train, compare and understand sparse autoencoders, reproducibly."
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, command in COMMANDS.items():
        sub = subparsers.add_parser(name, help=command.help, description=command.help)
        for option, text in command.options.items():
            many = {"nargs": "+", "action": "extend"} if option in command.repeated else {}
            defaults = _DEFAULTS | command.optional
            default = {"default": defaults[option]} if option in defaults else {"required": True}
            sub.add_argument(f"--{option}", help=text, **default, **many)
        for flag in command.flags:
            sub.add_argument(f"--{flag}", action="store_true")
        if command.uses_torch:
            sub.add_argument("--threads", type=int, help="CPU threads")
    return parser
