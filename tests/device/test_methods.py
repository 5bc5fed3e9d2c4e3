"""Every method prunes a network on the device as on the CPU, and goes on from a checkpoint as if it had not stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import earlycrop
from earlycrop import METHODS, Pruner
from tests.device.networks import NETWORKS, moved
from tests.toy import loss as cross_entropy
from tests.toy import train_epoch

pytestmark = [
    pytest.mark.usefixtures("without_type_checks"),
    pytest.mark.filterwarnings("ignore:hardly anything is left"),
    pytest.mark.filterwarnings("ignore:.*nearly empty"),
]
EPOCHS = 6
OFTEN = {"crop-s", "earlycrop-u", "earlycrop-s", "snip", "gatedecorators", "ltr"}
"""Methods that are tried before every commit, each with both networks. All others run by `make test-all`."""


def made(network: str, method: str, device: Any) -> tuple[nn.Module, torch.optim.Optimizer, Pruner]:
    model = NETWORKS[network][0]().to(device)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    return model, optimizer, Pruner(model, optimizer, cross_entropy, method, 0.5, epochs=EPOCHS)  # type: ignore[arg-type]


def trained(model: nn.Module, optimizer: Any, pruner: Pruner, batches: Any, until: int | None = None) -> None:
    """Train from where the pruner is until so many epochs are done, or all are."""
    if pruner.epoch < 0:
        pruner.step(batches)
    while pruner.epoch < (pruner.total_epochs if until is None else until):
        train_epoch(model, optimizer, batches)
        pruner.step(batches)


def matrix() -> list[Any]:
    return [
        pytest.param(network, method, marks=() if method in OFTEN else pytest.mark.slow)
        for network in NETWORKS
        for method in METHODS
    ]


@pytest.mark.parametrize(("network", "method"), matrix())
def test_a_method_on_the_device(network: str, method: str, device: torch.device, tmp_path: Path) -> None:
    batches = NETWORKS[network][1]()
    try:
        cpu_run = made(network, method, "cpu")
    except ValueError as error:  # one of batch norms' scales, where there are none
        pytest.skip(str(error))
    trained(*cpu_run, batches)
    batches = moved(batches, device)

    model, optimizer, pruner = first = made(network, method, device)
    half = pruner.total_epochs // 2
    trained(*first, batches, half)
    earlycrop.save(model, tmp_path)
    state = {"pruner": pruner.state_dict(), "optimizer": optimizer.state_dict()}
    earlycrop.save_state(state, tmp_path / "state.safetensors")
    torch.manual_seed(2)  # of dropout
    trained(*first, batches)
    assert {p.device.type for p in model.parameters()} == {device.type}
    assert [(e.epoch, e.asked) for e in pruner.events] == [(e.epoch, e.asked) for e in cpu_run[2].events]
    assert all(e.achieved >= e.asked - 0.05 for e in pruner.events)

    loaded = earlycrop.load(tmp_path, NETWORKS[network][0]()).to(device)
    optimizer = torch.optim.SGD(loaded.parameters(), 0.05, momentum=0.9)
    state = earlycrop.load_state(tmp_path / "state.safetensors")
    optimizer.load_state_dict(state["optimizer"])
    again = Pruner(loaded, optimizer, cross_entropy, method, 0.5, epochs=EPOCHS)  # type: ignore[arg-type]
    again.load_state_dict(state["pruner"])
    torch.manual_seed(2)
    trained(loaded, optimizer, again, batches)
    assert_close(list(loaded.parameters()), list(model.parameters()), rtol=1e-4, atol=1e-5)
