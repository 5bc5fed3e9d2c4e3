"""Penalties on gradients and sums of them, with closures, gradient scalers and optimizers around others."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler, OptState
from torch.optim import SGD

from earlycrop import Pruner, PrunerOptions
from earlycrop.procedures.gate_decorators import GateDecorators
from earlycrop.procedures.l1_penalty import NormScaleL1
from tests.toy import Forwarding, data, loss, network

Step = Callable[[nn.Module, torch.optim.Optimizer, Any], None]


def gradients(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> Tensor:
    optimizer.zero_grad()
    torch.manual_seed(0)  # dropout of its own for each run would tell them apart
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
    pruner = Pruner(model, optimizer, loss, method, 0.5, epochs=4, options=PrunerOptions(penalty=penalty))
    pruner.step(data())
    for epoch in range(2):
        for batch in data():
            step(model, optimizer, batch)
        if not epoch:
            pruner.step(data())
    return model, pruner


def gathered(step: Step, kind: Any = SGD) -> dict[str, Tensor]:
    procedure = trained(step, "gatedecorators", kind=kind)[1]._procedure
    assert isinstance(procedure, GateDecorators)
    assert procedure.phase(2) == "tick"
    return procedure._scores


@cache
def plainly_trained(penalty: float) -> dict[str, Tensor]:
    """The parameters after plain steps of plain SGD, which most tests compare with."""
    return dict(trained(plain, penalty=penalty)[0].named_parameters())


@cache
def plainly_gathered() -> dict[str, Tensor]:
    return gathered(plain)


def require_same(step: Step, kind: Any = SGD, rtol: float = 0) -> None:
    """Both the penalised training and what a tick gathers are those of plain steps of plain SGD."""
    expected, unpenalised = plainly_trained(0.5), plainly_trained(0.0)
    assert not torch.allclose(expected["1.weight"], unpenalised["1.weight"], rtol=0.05)
    got = dict(trained(step, kind=kind)[0].named_parameters())
    torch.testing.assert_close(got, expected, rtol=rtol, atol=rtol)
    torch.testing.assert_close(gathered(step, kind), plainly_gathered(), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("step", [by_closure, by_named_closure])
def test_a_closure_s_gradients_are_penalised_and_gathered_like_those_before_a_step(step: Step) -> None:
    require_same(step)


def test_each_run_of_a_closure_is_penalised_once() -> None:
    model: Any = network().eval()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    pruner = Pruner(model, optimizer, loss, "earlybird", 0.5, epochs=4, options=PrunerOptions(penalty=0.5))
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
        torch.manual_seed(0)
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


class Around(torch.optim.Optimizer):
    """Steps by another one, with the same groups, as Lookahead does."""

    def __init__(self, parameters: Any, *given: Any, **options: Any) -> None:
        self.base_optimizer = SGD(parameters, *given, **options)
        super().__init__(self.base_optimizer.param_groups, {})
        self.param_groups = self.base_optimizer.param_groups

    def step(self, closure: Any = None) -> Any:
        return self.base_optimizer.step(closure)


class Climbing(Around):
    """SAM whose climb has the length 0, and which so is what it wraps."""

    def moved(self) -> list[Any]:
        return [p for p in self.param_groups[0]["params"] if p.grad is not None]

    def first_step(self) -> None:
        for p in self.moved():
            self.state[p]["climb"] = 0.0 * p.grad
            p.data += self.state[p]["climb"]

    def second_step(self) -> None:
        for p in self.moved():
            p.data -= self.state[p]["climb"]
        self.base_optimizer.step()

    def step(self, closure: Any = None) -> Any:
        self.first_step()
        closure()
        self.second_step()


def climbing(model: nn.Module, optimizer: Any, batch: Any) -> None:
    gradients(model, optimizer, batch)
    optimizer.first_step()
    gradients(model, optimizer, batch)
    optimizer.second_step()


def climbing_by_closure(model: nn.Module, optimizer: Any, batch: Any) -> None:
    gradients(model, optimizer, batch)
    optimizer.step(lambda: gradients(model, optimizer, batch))


@pytest.mark.parametrize(
    ("kind", "step"),
    [
        (Around, plain),
        (Around, by_closure),
        (Forwarding, plain),
        (Forwarding, by_closure),
        (Climbing, climbing),
        (Climbing, climbing_by_closure),
    ],
)
def test_an_optimizer_around_another_is_penalised_and_gathered_once(kind: Any, step: Step) -> None:
    require_same(step, kind)


class Derived(SGD):
    """Calls the step of its base class, which torch hooks as well once it has made one of that."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


@pytest.mark.parametrize("step", [plain, by_closure])
def test_a_step_that_calls_its_base_class_s_is_penalised_and_gathered_once(step: Step) -> None:
    require_same(step, Derived)


def test_a_step_that_failed_does_not_end_the_penalty() -> None:
    def failing(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> None:
        with pytest.raises(ZeroDivisionError):
            optimizer.step(lambda: 1 / 0)
        plain(model, optimizer, batch)

    require_same(failing, Derived)


def test_a_step_that_failed_does_not_end_the_penalty_while_its_traceback_is_kept() -> None:
    """As a notebook keeps it."""
    norm = nn.BatchNorm1d(4)
    optimizer = SGD(norm.parameters(), 1.0)
    penalty = NormScaleL1(norm, optimizer, 0.5)

    def moved(closure: Callable[[], float] | None = None) -> Tensor:
        for p in norm.parameters():
            p.grad = torch.zeros_like(p)
        before = norm.weight.detach().clone()
        optimizer.step(closure)
        return before - norm.weight.detach()

    def interrupted() -> float:
        raise KeyboardInterrupt

    kept = None
    try:
        moved(interrupted)
    except KeyboardInterrupt as error:
        kept = error
    assert kept is not None
    torch.testing.assert_close(moved(), torch.full((4,), 0.5))
    penalty.release()
