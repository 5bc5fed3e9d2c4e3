"""What is added to the gradients of a step, and gathered of them: whoever makes them, scales them or takes the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from earlycrop import Pruner
from earlycrop.gates import TickTock
from tests.test_pruner import data, loss, network

Step = Callable[[nn.Module, torch.optim.Optimizer, Any], None]


def gradients(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> Tensor:
    optimizer.zero_grad()
    value = loss(model, batch)
    value.backward()
    return value


def plain(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> None:
    gradients(model, optimizer, batch)
    optimizer.step()


def by_closure(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> None:
    optimizer.step(lambda: float(gradients(model, optimizer, batch).detach()))


def by_named_closure(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> None:
    """As Lightning calls it."""
    optimizer.step(closure=lambda: float(gradients(model, optimizer, batch).detach()))


def trained(step: Step, method: str = "earlybird", penalty: float = 0.5, fused: bool = False) -> tuple[Any, Pruner]:
    """Two epochs: those of earlybird have its penalty, the second of gatedecorators is a tick."""
    torch.manual_seed(0)
    model: Any = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, fused=fused)
    pruner = Pruner(model, optimizer, loss, method, 0.5, epochs=4, penalty=penalty)
    pruner.step(data())
    for epoch in range(2):
        for batch in data():
            step(model, optimizer, batch)
        if not epoch:
            pruner.step(data())
    return model, pruner


def gathered(step: Step, fused: bool = False) -> dict[str, Tensor]:
    procedure = trained(step, "gatedecorators", fused=fused)[1]._procedure
    assert isinstance(procedure, TickTock)
    assert procedure.phase(2) == "tick"
    return procedure._gathered


def require_same(step: Step, rtol: float = 0, fused: bool = False) -> None:
    """Both the penalised training and what a tick gathers are those of plain steps."""
    expected, _ = trained(plain, fused=fused)
    unpenalised, _ = trained(plain, penalty=0.0, fused=fused)
    assert not torch.allclose(expected[1].weight, unpenalised[1].weight, rtol=0.05)
    torch.testing.assert_close(trained(step, fused=fused)[0].state_dict(), expected.state_dict(), rtol=rtol, atol=rtol)
    torch.testing.assert_close(gathered(step, fused), gathered(plain, fused), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("step", [by_closure, by_named_closure])
def test_a_closure_s_gradients_are_penalised_and_gathered_like_those_before_a_step(step: Step) -> None:
    require_same(step)


def test_each_run_of_a_closure_is_penalised_once() -> None:
    model: Any = network().eval()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    pruner = Pruner(model, optimizer, loss, "earlybird", 0.5, epochs=4, penalty=0.5)
    pruner.step(data())
    seen = []

    def closure() -> float:
        if seen:
            torch.testing.assert_close(model[1].weight.grad - seen[-1][0], 0.5 * seen[-1][1])
        value = gradients(model, optimizer, data()[0])
        seen.append((model[1].weight.grad.clone(), model[1].weight.detach().sign()))
        return float(value.detach())

    optimizer.step(closure)
    assert len(seen) > 2
