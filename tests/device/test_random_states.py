"""What happens to a model leaves the random numbers of every device as they were."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import earlycrop
from tests.device.networks import moved
from tests.toy import Net, loss, mlp, vectors

pytestmark = pytest.mark.usefixtures("without_type_checks")


def drawing(model: nn.Module, batch: Any) -> Tensor:
    """A loss with random numbers of the batch's device, and of the CPU."""
    x, y = batch
    return loss(model, (x + torch.randn_like(x) + float(torch.rand((), device="cpu")), y))


def noisy() -> nn.Module:
    return Net(lambda m, x: m.net(nn.functional.dropout(x)), net=mlp())


USES: dict[str, dict[str, Any]] = {
    "nodes": {"criterion": "snip", "sparsity": 0.5},
    "weights": {"criterion": "crop", "sparsity": 0.5, "structured": False},
    "by random numbers": {"criterion": "random", "sparsity": 0.5},
    "weights by random numbers": {"criterion": "random", "sparsity": 0.5, "structured": False},
}


def states(device: torch.device) -> list[Tensor]:
    return [torch.get_rng_state(), torch.get_device_module(device).get_rng_state()]


@pytest.mark.parametrize("where", ["on the CPU", "on the device"])
@pytest.mark.parametrize("name", ["nodes", "weights"])
def test_a_pruning_leaves_both_random_states(name: str, where: str, device: torch.device) -> None:
    place = torch.device("cpu") if where == "on the CPU" else device
    model, batches = noisy().to(place), moved(vectors(), place)
    torch.rand(3, device=device)
    before = states(device)
    earlycrop.prune(model, drawing, batches, **USES[name])
    for now, then in zip(states(device), before, strict=True):
        assert torch.equal(now, then)


@pytest.mark.parametrize("name", list(USES))
def test_a_model_on_the_cpu_leaves_the_device_s_random_state(name: str, device: torch.device) -> None:
    """Every seed would have the same dropout on the device after a pruning on the CPU, otherwise."""
    torch.rand(3, device=device)
    before = torch.get_device_module(device).get_rng_state()
    earlycrop.prune(noisy(), drawing, vectors(), **USES[name])
    assert torch.equal(torch.get_device_module(device).get_rng_state(), before)


def test_seeds_decide_what_is_drawn(device: torch.device) -> None:
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(0)
        model = mlp().to(device)
        torch.manual_seed(seed)
        pruning = earlycrop.prune(model, loss, moved(vectors(), device), "random", 0.5, structured=False)
        assert pruning.masks is not None
        masks.append(torch.cat([gone.flatten() for gone in pruning.masks.removed.values()]))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
