"""Removed weights are zero after every step of any optimizer; the rest is trained as if they had never been there."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from earlycrop import Masks
from tests.test_gradients import Forwarding

OPTIMIZERS: dict[str, Any] = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "nesterov": True},
    "Adam": {"weight_decay": 0.1, "amsgrad": True},
    "AdamW": {"weight_decay": 0.1},
    "NAdam": {},
    "RAdam": {},
    "Adamax": {},
    "Adagrad": {"lr_decay": 0.1},
    "Adadelta": {},
    "ASGD": {},
    "RMSprop": {"momentum": 0.5},
    "Rprop": {},
    "Adafactor": {},
    "Muon": {"lr": 0.1},  # orthogonalises the gradient: it moves weights whose gradient is zero
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8, bias=False), nn.Tanh(), nn.Linear(8, 4, bias=False))


def removed_of(model: nn.Module) -> dict[str, Tensor]:
    return {n: torch.rand_like(p) < 0.5 for n, p in model.named_parameters()}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, clip: float | None = None) -> list[float]:
    norms = []
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        x = torch.randn(5, 6)
        (model(x) - x[:, :4]).square().mean().backward()
        if clip is not None:
            norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), clip)))
        optimizer.step()
    return norms


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_weights_stay_at_zero(name: str) -> None:
    model = network()
    optimizer = getattr(torch.optim, name)(model.parameters(), **OPTIMIZERS[name])
    train(model, optimizer, 3)  # momentum is there before the weights go
    removed = removed_of(model)
    Masks(model, removed, optimizer)
    kept_before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for _ in range(3):
        train(model, optimizer, 1)
        for n, p in model.named_parameters():
            assert bool((p[removed[n]] == 0).all())
            assert bool((p.grad[removed[n]] == 0).all())  # type: ignore[index]
    assert any(not torch.equal(p[~removed[n]], kept_before[n][~removed[n]]) for n, p in model.named_parameters())


def test_weights_stay_at_zero_under_a_wrapper_that_takes_no_hooks() -> None:
    model = network()
    optimizer = Forwarding(model.parameters(), lr=0.1, momentum=0.9)
    train(model, optimizer, 3)
    removed = removed_of(model)
    Masks(model, removed, optimizer)
    for p in optimizer.state:
        optimizer.state[p]["momentum_buffer"].fill_(1)
    train(model, optimizer, 1)
    assert all(bool((p[removed[n]] == 0).all()) for n, p in model.named_parameters())


@pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop"])
def test_the_rest_is_trained_as_if_the_removed_had_never_been_there(name: str) -> None:
    """Against a network whose forward multiplies by the mask, with clipping, from a fresh optimizer."""
    model, other = network(), network()
    removed = removed_of(model)
    masks = Masks(model, removed, optimizer := getattr(torch.optim, name)(model.parameters(), lr=0.05))
    assert masks.removed.keys() == removed.keys()
    for i in (0, 2):
        nn.utils.parametrize.register_parametrization(other[i], "weight", Times(~removed[f"{i}.weight"]))
    reference = getattr(torch.optim, name)(other.parameters(), lr=0.05)
    norms = train(model, optimizer, 5, clip=0.1)
    assert norms == pytest.approx(train(other, reference, 5, clip=0.1))
    for i in (0, 2):
        torch.testing.assert_close(model[i].weight, other[i].weight)


class Times(nn.Module):
    def __init__(self, keep: Tensor) -> None:
        super().__init__()
        self.keep = keep

    def forward(self, w: Tensor) -> Tensor:
        return w * self.keep


def test_under_a_gradient_scaler() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    removed = removed_of(model)
    Masks(model, removed, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(4):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = model(torch.randn(5, 6)).float().square().mean()
        if step == 2:
            value = value * float("inf")  # this step is skipped, and the weights must be zero all the same
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()
        for n, p in model.named_parameters():
            assert bool((p[removed[n]] == 0).all())
            assert bool(p.isfinite().all())


def test_gradients_at_hand_are_masked_and_hooks_are_released() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(torch.randn(5, 6)).sum().backward()
    removed = removed_of(model)
    masks = Masks(model, removed, optimizer)
    assert all(bool((p.grad[removed[n]] == 0).all()) for n, p in model.named_parameters())  # type: ignore[index]
    masks.release()
    train(model, optimizer, 1)
    assert any(bool((p[removed[n]] != 0).any()) for n, p in model.named_parameters())


def test_masks_of_zeros_hold_a_loaded_network() -> None:
    model = network()
    with torch.no_grad():
        model[0].weight[2] = 0
    optimizer = torch.optim.AdamW(model.parameters())
    masks = Masks.of_zeros(model, optimizer)
    train(model, optimizer, 2)
    assert int(masks.removed["0.weight"].sum()) == 6
    assert bool((model[0].weight[2] == 0).all())
    assert bool((model[0].weight[3] != 0).all())


def test_a_deep_copy_is_held_by_masks_of_its_own() -> None:
    model = network()
    removed = removed_of(model)
    Masks(model, removed)
    for held in (False, True):
        other = copy.deepcopy(model)
        optimizer = torch.optim.SGD(other.parameters(), 0.1)
        if held:
            Masks.of_zeros(other, optimizer)
        train(other, optimizer, 2)
        assert all(bool((p[removed[n]] == 0).all()) for n, p in other.named_parameters()) == held


def test_a_mask_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="the mask of 'nothing' fits no parameter"):
        Masks(network(), {"nothing": torch.zeros(2, 2, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"the mask of '0.weight' fits no parameter"):
        Masks(network(), {"0.weight": torch.zeros(2, 2, dtype=torch.bool)})
