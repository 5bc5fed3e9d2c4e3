"""What is added to the gradients of a step, and gathered of them: whoever makes them, scales them or takes the step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler, OptState
from torch.optim import SGD

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


def trained(step: Step, method: str = "earlybird", penalty: float = 0.5, kind: Any = SGD) -> tuple[Any, Pruner]:
    """Two epochs: those of earlybird have its penalty, the second of gatedecorators is a tick."""
    torch.manual_seed(0)
    model: Any = network()
    optimizer = kind(model.parameters(), 0.05, momentum=0.9)
    pruner = Pruner(model, optimizer, loss, method, 0.5, epochs=4, penalty=penalty)
    pruner.step(data())
    for epoch in range(2):
        for batch in data():
            step(model, optimizer, batch)
        if not epoch:
            pruner.step(data())
    return model, pruner


def gathered(step: Step, kind: Any = SGD) -> dict[str, Tensor]:
    procedure = trained(step, "gatedecorators", kind=kind)[1]._procedure
    assert isinstance(procedure, TickTock)
    assert procedure.phase(2) == "tick"
    return procedure._gathered


def require_same(step: Step, kind: Any = SGD, rtol: float = 0) -> None:
    """Both the penalised training and what a tick gathers are those of plain steps."""
    expected, _ = trained(plain, kind=kind)
    unpenalised, _ = trained(plain, penalty=0.0, kind=kind)
    assert not torch.allclose(expected[1].weight, unpenalised[1].weight, rtol=0.05)
    torch.testing.assert_close(trained(step, kind=kind)[0].state_dict(), expected.state_dict(), rtol=rtol, atol=rtol)
    torch.testing.assert_close(gathered(step, kind), gathered(plain, kind), rtol=rtol, atol=rtol)


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


def scaled(scale: float, unscale: bool = False) -> Step:
    scaler = GradScaler("cpu", scale)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> None:
        optimizer.zero_grad()
        scaler.scale(loss(model, batch)).backward()
        if unscale:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()

    return step


class Unscaling(SGD):
    """Unscales by itself, in the form that is given the scaler."""

    _step_supports_amp_scaling = True

    def step(self, closure: Any = None, grad_scaler: Any = None) -> Any:
        if grad_scaler is not None and grad_scaler._per_optimizer_states[id(self)]["stage"] is OptState.READY:
            grad_scaler.unscale_(self)
        return super().step(closure)


@pytest.mark.filterwarnings("ignore:GradScaler is going to stop")
@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("kind", [SGD, partial(SGD, fused=True), Unscaling], ids=["plain", "fused", "own"])
def test_gradients_that_are_scaled_are_penalised_and_gathered_by_their_scale(kind: Any, unscale: bool) -> None:
    require_same(scaled(1024.0, unscale), kind, rtol=1e-6)


def test_a_step_that_overflows_is_not_gathered() -> None:
    assert not gathered(scaled(float("inf")), partial(SGD, fused=True)), "no step was made"
