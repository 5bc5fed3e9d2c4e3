"""Optimizers, gradient scaling and averages of weights go on with a network that is cut on the device."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import swa_utils
from torch.testing import assert_close

import earlycrop
from tests.device.networks import NETWORKS, moved
from tests.toy import loss

pytestmark = pytest.mark.usefixtures("without_type_checks")
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "SGD": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    "Adam": (torch.optim.Adam, {"lr": 1e-2, "amsgrad": True}),
    "AdamW": (torch.optim.AdamW, {"lr": 1e-2}),
    "Adagrad": (torch.optim.Adagrad, {"lr": 1e-2}),
}
WAYS: dict[str, dict[str, bool]] = {
    "fused": {"fused": True}, "foreach": {"foreach": True}, "one by one": {"foreach": False},
}  # fmt: skip


def trained(model: nn.Module, optimizer: Any, batches: Any, scaler: Any = None) -> None:
    model.train()
    for batch in batches:
        optimizer.zero_grad()
        if scaler is None:
            loss(model, batch).backward()
            optimizer.step()
        else:
            scaler.scale(loss(model, batch)).backward()
            scaler.step(optimizer)
            scaler.update()


@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("network", list(NETWORKS))
def test_an_optimizer_steps_as_the_cpu_s(
    network: str, kind: str, way: str, structured: bool, device: torch.device
) -> None:
    make, options = KINDS[kind]
    models = []
    for place in (torch.device("cpu"), device):
        model, batches = NETWORKS[network][0]().double(), [(x.double(), y) for x, y in NETWORKS[network][1]()]
        for m in model.modules():
            if isinstance(m, nn.Dropout):
                m.p = 0.0
        model, batches = model.to(place), moved(batches, place)
        optimizer = make(model.parameters(), **options, **WAYS[way])
        trained(model, optimizer, batches)
        earlycrop.prune(model, loss, batches, "snip", 0.5, structured=structured, optimizer=optimizer)
        trained(model, optimizer, batches)
        assert {p.device.type for p in model.parameters()} == {place.type}
        models.append(moved([p.detach() for p in model.parameters()], "cpu"))
    assert_close(models[1], models[0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", ["crop-s", "crop-u", "gatedecorators"])
def test_gradscaler(method: Any, device: torch.device) -> None:
    make, data = NETWORKS["convolutions"]
    model, batches = make().to(device), moved(data(), device)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    scaler = torch.amp.GradScaler(device.type, init_scale=1024.0)
    pruner = earlycrop.Pruner(model, optimizer, loss, method, 0.5, epochs=6)
    pruner.step(batches)
    while pruner.epoch < pruner.total_epochs:
        with torch.autocast(device.type, torch.bfloat16):
            trained(model, optimizer, batches, scaler)
        pruner.step(batches)
    assert pruner.event is not None
    if (masks := pruner.event.masks) is not None:
        assert not any(bool(model.get_parameter(name)[gone].any()) for name, gone in masks.removed.items())
    assert scaler.get_scale() == 1024.0


@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize("place", ["beside the model", "on the CPU"])
def test_averages_of_weights(place: str, structured: bool, device: torch.device) -> None:
    make, data = NETWORKS["LSTM"]
    model, batches = make().to(device), moved(data(), device)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    ema = swa_utils.AveragedModel(
        model, "cpu" if place == "on the CPU" else None, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.8)
    )
    trained(model, optimizer, batches)
    ema.update_parameters(model)
    result = earlycrop.prune(
        model, loss, batches, "snip", 0.5, structured=structured, optimizer=optimizer, ema_models=ema
    )
    trained(model, optimizer, batches)
    ema.update_parameters(model)
    for p, average in zip(model.parameters(), ema.module.parameters(), strict=True):
        assert average.shape == p.shape
        assert average.device.type == ("cpu" if place == "on the CPU" else device.type)
    if result.masks is not None:
        for name, gone in result.masks.removed.items():
            assert not bool(ema.module.get_parameter(name).cpu()[gone.cpu()].any())


def test_a_copy_of_model_and_masks_is_held_at_zero(device: torch.device) -> None:
    make, data = NETWORKS["convolutions"]
    model, batches = make().to(device), moved(data(), device)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    masks = earlycrop.prune(model, loss, batches, "snip", 0.5, structured=False, optimizer=optimizer).masks
    model, optimizer, masks = copy.deepcopy((model, optimizer, masks))
    trained(model, optimizer, batches)
    assert masks is not None
    assert not any(bool(model.get_parameter(name)[gone].any()) for name, gone in masks.removed.items())
