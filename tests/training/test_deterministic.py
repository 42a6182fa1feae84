"""Training takes deterministic algorithms on a CUDA device by itself, and leaves torch as it was."""

from __future__ import annotations

import pytest
import torch
from tests.each import each

from saeworks.store.determinism import deterministic
from saeworks.store.errors import UserError
from saeworks.training import run as training


@each("device, expected", [("cpu", False), ("cuda", True)])
def test_training_takes_deterministic_algorithms_on_a_gpu(monkeypatch, device, expected):
    seen = []

    def data(*_: object) -> None:
        seen.append(torch.are_deterministic_algorithms_enabled())
        raise UserError("far enough")

    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(training, "Data", data)
    with pytest.raises(UserError, match="far enough"):
        training.train_together([], None, None, None, None, device)
    assert seen == [expected]
    assert not torch.are_deterministic_algorithms_enabled()


def test_what_was_set_before_is_set_again():
    torch.use_deterministic_algorithms(True)
    try:
        with deterministic("cuda"):
            assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
