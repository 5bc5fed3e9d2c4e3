"""Everything works where new tensors are made on the device unless another one is named."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import orthogonal, weight_norm

import earlycrop
from earlycrop import Limits, Pruner
from tests.device.networks import moved
from tests.pruner_arguments import with_options
from tests.toy import EPOCHS, data, loss, network, train_epoch

pytestmark = [
    pytest.mark.usefixtures("without_type_checks", "default_device"),
    pytest.mark.filterwarnings("ignore:asked to remove .* of the time"),
]
PRUNINGS: dict[str, dict[str, Any]] = {
    "nodes": {"criterion": "crop"},
    "nodes by synaptic flow": {"criterion": "synflow"},
    "nodes of batch norms": {"criterion": "norm-scale"},
    "nodes of each layer": {"criterion": "filter-norm"},
    "random nodes": {"criterion": "random"},
    "nodes that cost time": {"criterion": "snip", "of": "time", "sparsity": 0.1},
    "nodes under limits": {"criterion": "snip", "limits": Limits(floors={"*": 2}, multiple=2)},
    "weights": {"criterion": "crop", "structured": False},
    "weights under limits": {"criterion": "snip", "structured": False, "limits": Limits(floors={"*": 2})},
    "random weights": {"criterion": "random", "structured": False},
}


@pytest.mark.parametrize("place", ["cpu", "device"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if "time" in name else name for name in PRUNINGS]
)
def test_a_pruning(name: str, place: str, device: torch.device) -> None:
    where = torch.device("cpu") if place == "cpu" else device
    with torch.device("cpu"):
        model, batches = network().to(where), moved(data(), where)
    options = {"sparsity": 0.4, "rounds": 2, **PRUNINGS[name]}
    result = earlycrop.prune(model, loss, batches, **options)
    assert result.achieved > 0
    assert {p.device.type for p in model.parameters()} == {where.type}


@pytest.mark.parametrize("parametrization", [weight_norm, orthogonal])
def test_a_parametrized_network(parametrization: Any, device: torch.device) -> None:
    model = nn.Sequential(parametrization(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3))
    batch = (torch.randn(4, 6), torch.tensor([0, 1, 2, 0]))
    assert earlycrop.prune(model, loss, [batch], "snip", 0.3, structured=False).achieved > 0


@pytest.mark.parametrize("method", ["earlycrop-s", "earlycrop-u", "ltr", "gatedecorators"])
@pytest.mark.parametrize("shuffled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_pruner(method: Any, shuffled: bool, device: torch.device) -> None:
    if shuffled and method in ("ltr", "gatedecorators"):
        pytest.skip("only what is pruned at one time is drawn again")
    with torch.device("cpu"):
        model, batches = network().to(device), moved(data(), device)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    options = with_options(epochs=EPOCHS, shuffled=shuffled, log_triggers=True, ntk_probe=batches[0])
    pruner = Pruner(model, optimizer, loss, method, 0.5, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # hardly anything is left
        pruner.step(batches)
        while pruner.epoch < pruner.total_epochs:
            train_epoch(model, optimizer, batches)
            pruner.step(batches)
    assert pruner.events
