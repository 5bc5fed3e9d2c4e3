"""Masks follow a model that is moved or converted, once, and hold its weights at zero there."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from earlycrop import prune
from earlycrop.surgery.masks import Masks
from tests.device.networks import moved
from tests.toy import loss, mlp, vectors


def masked(optimizer: bool = True) -> tuple[nn.Module, torch.optim.Optimizer, Masks]:
    """A model on the CPU of which half of the weights are removed, and an optimizer with momentum."""
    model = mlp()
    sgd = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-3)
    step(model, sgd, vectors(1)[0])
    masks = prune(model, loss, vectors(), "snip", 0.5, structured=False, optimizer=sgd).masks
    assert masks is not None
    return model, sgd, masks


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> None:
    optimizer.zero_grad()
    loss(model, batch).backward()
    optimizer.step()


def move(model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Move a model, and then its optimizer's state as loading it does."""
    state = copy.deepcopy(optimizer.state_dict())
    model.to(device)
    optimizer.load_state_dict(state)


def check_zeros(model: nn.Module, masks: Masks) -> None:
    for name, gone in masks.removed.items():
        p = model.get_parameter(name)
        assert bool(gone.any())
        assert not bool(p[gone].any()), name


def test_masks_of_a_model_that_was_moved(device: torch.device) -> None:
    model, optimizer, masks = masked()
    move(model, optimizer, device)
    for batch in moved(vectors(), device):
        step(model, optimizer, batch)
    check_zeros(model, masks)


def test_state_from_before_the_pruning_is_set_to_zero_after_a_move(device: torch.device) -> None:
    model, optimizer, masks = masked()
    move(model, optimizer, device)
    for p in model.parameters():
        p.data.add_(1)
        optimizer.state[p]["momentum_buffer"].fill_(1)
    masks.enforce(optimizer)
    check_zeros(model, masks)
    for name, gone in masks.removed.items():
        assert not bool(optimizer.state[model.get_parameter(name)]["momentum_buffer"][gone].any())


class _CopiesFromTheCPU(TorchDispatchMode):
    """Counts the tensors that are copied from the CPU to another device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default:
            self.count += args[0].device.type == "cpu" and result.device.type != "cpu"
        return result


def test_masks_are_moved_once(device: torch.device) -> None:
    model, optimizer, masks = masked()
    move(model, optimizer, device)
    batches = moved(vectors(), device)
    step(model, optimizer, batches[0])
    with _CopiesFromTheCPU() as copies:
        for batch in batches:
            step(model, optimizer, batch)
    assert copies.count == 0
    assert {gone.device.type for gone in masks.removed.values()} == {device.type}
    model.to("cpu")
    masks.hold()
    check_zeros(model, masks)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_masks_of_a_model_that_was_converted(dtype: torch.dtype, device: torch.device) -> None:
    model, _, masks = masked()
    model.to(device, dtype)
    for p in model.parameters():
        p.data.add_(1)
    masks.hold()
    check_zeros(model, masks)
