"""A pruner whose step failed: the step is taken again, in the same process or from a checkpoint."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import earlycrop
from earlycrop import METHODS, Pruner, PrunerOptions
from tests.toy import Net, loss, mlp, vectors


def test_a_failed_step_can_be_taken_again() -> None:
    model = mlp()
    pruner = Pruner(model, torch.optim.SGD(model.parameters(), 0.1), loss, "snap", 0.5, epochs=3)
    with pytest.raises(ValueError, match="no batch to score on"):
        pruner.step([])
    event = pruner.step(vectors())
    assert event is not None
    assert (event.epoch, event.reason) == (0, "before training")


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize(("method", "calls"), [("cropit-s", 40), ("cropit-u", 14)])
def test_a_step_that_failed_between_rounds_is_taken_up_where_it_was(
    method: str, calls: int, resumed: bool, tmp_path: Path
) -> None:
    model, left = mlp(6, 64, 64, 3), [calls]
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    dense = sum(p.numel() for p in model.parameters() if p.ndim > 1)

    def failing(m: nn.Module, batch: Any) -> Tensor:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("out of memory")
        return loss(m, batch)

    limits = earlycrop.Limits(floors={"0": 0.25})
    pruner = Pruner(
        model, optimizer, failing, method, 0.8, epochs=3, limits=limits, options=PrunerOptions(log_triggers=resumed)
    )
    with pytest.raises(RuntimeError, match="out of memory"):
        pruner.step(vectors())
    assert not all(bool(p.all()) for p in model.parameters()) or sum(p.numel() for p in model.parameters()) < dense
    left[0] = 1000
    if resumed:
        state = earlycrop.load_state(earlycrop.save_state(pruner.state_dict(), tmp_path / "state"))
        model, optimizer = copy.deepcopy((model, optimizer))
        pruner = Pruner(
            model, optimizer, failing, method, 0.8, epochs=3, limits=limits, options=PrunerOptions(log_triggers=True)
        )
        pruner.load_state_dict(state)
    event = pruner.step(vectors())
    assert event is not None
    assert event.dense == dense
    assert 0.8 <= event.achieved < 0.83
    assert event.left == sum(int(p.count_nonzero()) for p in model.parameters() if p.ndim > 1)
    assert event.layers["0"][0] == (64 if METHODS[method].structured else 64 * 6)
    assert event.layers["0"][1] >= event.layers["0"][0] / 4
    if event.masks is not None:
        event.masks.release()
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())  # type: ignore[attr-defined]
    assert not optimizer._optimizer_step_post_hooks


def test_a_model_that_is_mended_before_anything_was_cut_is_taken_as_it_is_then() -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = m.inside(x)
        return y + m.extra(x).mean() / 0 if hasattr(m, "extra") else y

    model = Net(forward, inside=mlp(), extra=nn.Linear(6, 64))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    pruner = Pruner(model, optimizer, loss, "crop-s", 0.5, epochs=3)
    with pytest.raises(earlycrop.FlowError, match=r"the loss is (nan|inf)"):
        pruner.step(vectors())
    del model.extra
    event = pruner.step(vectors())
    assert event is not None
    assert event.dense == sum(p.numel() for p in mlp().parameters() if p.ndim > 1)
    assert event.left == sum(p.numel() for p in model.parameters() if p.ndim > 1) <= event.dense / 2
