"""Prunings where torch is to use deterministic algorithms, and refuses what has none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import earlycrop
from tests.device.networks import moved
from tests.toy import loss, mlp, vectors

pytestmark = pytest.mark.usefixtures("without_type_checks")


@pytest.fixture(autouse=True)
def _deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize("criterion", list(earlycrop.CRITERIA))
def test_a_pruning(criterion: Any, structured: bool, device: torch.device) -> None:
    model = mlp(6, 12, 8, 3).to(device)
    result = earlycrop.prune(model, loss, moved(vectors(), device), criterion, 0.4, structured=structured, rounds=2)
    assert result.achieved >= 0.35


def test_a_pruning_removes_what_it_removes_otherwise(device: torch.device) -> None:
    removed = []
    for deterministic in (True, False):
        torch.use_deterministic_algorithms(deterministic)
        torch.manual_seed(0)
        model = mlp().to(device)
        masks = earlycrop.prune(model, loss, moved(vectors(seed=1), device), "snip", 0.7, structured=False).masks
        assert masks is not None
        removed.append(masks.removed)
    torch.testing.assert_close(removed[0], removed[1])
