"""Shared fixtures: one thread, and the folder of real models and texts beside the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests import tiny_pipeline
from tests.once import once

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may depend on the network
os.environ["TRITON_INTERPRET"] = "1"  # kernels run on CPU tensors; read when Triton is imported


# by the time that their tests take, the slow ones included
_LONG = (
    "workflow/test_pipeline.py",
    "faults/test_fuzz_configurations.py",
    "workflow/test_dvc.py",
    "studies/test_every_figure.py",
    "faults/test_fuzz_runs.py",
    "docs/test_commands.py",
    "workflow/test_train_together.py",
    "workflow/test_stories260k.py",
    "training/test_run.py",
    "workflow/test_trust.py",
    "faults/test_table.py",
    "plan/test_every_key.py",
    "training/test_same_bytes.py",
    "studies/umap/test_measure.py",
    "studies/errors/test_measure.py",
    "studies/test_every_study.py",
    "studies/errors/test_notebook.py",
    "studies/test_notebook.py",
    "sae/execution/test_packed.py",
    "studies/test_claims.py",
    "lm/test_decoder.py",
    "training/test_packed_steps.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that they run beside the others instead of after them (with `--no-loadscope-reorder`)."""
    ranks = {name: rank for rank, name in enumerate(_LONG)}
    items.sort(key=lambda item: ranks.get(item.location[0].removeprefix("tests/"), len(ranks)))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # for every test: libraries that share its thread pool, as UMAP's do, set it too


@pytest.fixture(autouse=True, scope="session")
def _one_thread_for_what_modules_share() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder `shared` beside the repository, with small real models and texts; tests that need it skip without it."""
    folder = Path(__file__).resolve().parents[1].parent / "shared"
    if not folder.is_dir():
        pytest.skip("the folder `shared` with real models and texts is not beside the repository")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared model folder (read only)."""
    return once(tmp_path_factory, "tiny_model", lambda folder: tiny_pipeline.write_model(folder / "tiny")) / "tiny"


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A corpus folder sampled from `tiny_model` (read only)."""
    return once(tmp_path_factory, "tiny_corpus", lambda folder: tiny_pipeline.write_corpus(folder / "tiny", tiny_model)) / "tiny"
