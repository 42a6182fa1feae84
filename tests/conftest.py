"""Shared fixtures: one thread, and the folder of real models and texts beside the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests import tiny_pipeline

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may depend on the network
os.environ["TRITON_INTERPRET"] = "1"  # kernels run on CPU tensors; read when Triton is imported


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that they run beside the others instead of after them."""
    items.sort(key=lambda item: "tests/workflow/" not in item.nodeid)


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
    return tiny_pipeline.write_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A corpus folder sampled from `tiny_model` (read only)."""
    return tiny_pipeline.write_corpus(tmp_path_factory.mktemp("corpus") / "tiny", tiny_model)
