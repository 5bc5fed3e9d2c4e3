"""An epoch of training goes on with the optimizer's state, however it lies in memory."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from tasks.runner.training import lay_state_as_parameters


@pytest.mark.parametrize("options", [{"fused": True}, {"foreach": True}, {"foreach": False}])
def test_a_loaded_state_lies_as_its_parameters(options: dict[str, Any]) -> None:
    """A file has contiguous tensors, and a model of images may be in channels last."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(model.parameters(), 0.1, **options)
    x = torch.randn(2, 3, 8, 8)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    step(model, optimizer)
    resumed, state = copy.deepcopy(model), copy.deepcopy(optimizer.state_dict())
    for values in state["state"].values():
        values.update({name: t.contiguous() for name, t in values.items()})
    other = torch.optim.Adam(resumed.parameters(), 0.1, **options)
    other.load_state_dict(state)

    lay_state_as_parameters(other)
    step(resumed, other)
    step(model, optimizer)
    assert [p.stride() for p in resumed.parameters()] == [p.stride() for p in model.parameters()]
    torch.testing.assert_close(list(resumed.parameters()), list(model.parameters()), rtol=0, atol=0)
