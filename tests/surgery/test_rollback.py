"""Failures at every stage of a cut: model, EMA models and optimizers are as they were, by identity and by value."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from earlycrop import SurgeryError, shrink, trace
from earlycrop.graph.graph import Graph


class Failing(nn.Module):
    """Raises when it is called for the n-th time; keeps what it saw last, and counts in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.at, self.error = 0, 0, RuntimeError
        self.last: Tensor | None = None
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        CALLS.append(self)
        self.last = x.detach()
        self.count += 1
        if self.at and len(CALLS) == self.at:
            raise self.error("on purpose")
        return x


CALLS: list[Failing] = []
ARMED = ("at", "min_rows", "fixed")
"""Attributes by which a test makes a module fail."""


class Setter(nn.Linear):
    """Takes no weight with fewer rows than ``min_rows``."""

    min_rows = 0

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight" and isinstance(value, Tensor) and len(value) < self.min_rows:
            raise KeyError("this layer takes no smaller weight")
        super().__setattr__(name, value)


class Sizes(nn.Linear):
    """A number of inputs that may not change."""

    fixed = False

    @property
    def in_features(self) -> int:
        return self.__dict__["inputs"]

    @in_features.setter
    def in_features(self, value: int) -> None:
        if self.fixed and value != self.inputs:
            raise MemoryError("no smaller input")
        self.__dict__["inputs"] = value


class State(dict[Any, Any]):
    """An optimizer's state that fails at the n-th write or deletion."""

    left = -1
    error: type[BaseException] = MemoryError

    def _count(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error("on purpose")

    def __setitem__(self, key: Any, value: Any) -> None:
        self._count()
        super().__setitem__(key, value)

    def __delitem__(self, key: Any) -> None:
        self._count()
        super().__delitem__(key)

    def __missing__(self, key: Any) -> Any:
        dict.__setitem__(self, key, {})
        return self[key]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(2, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), Failing(), nn.Flatten(), Setter(32, 10), nn.ReLU(),
        Sizes(10, 3),
    )  # fmt: skip


def around(model: nn.Module, ema: AveragedModel, optimizers: list[torch.optim.Optimizer]) -> tuple[Any, Any]:
    """Everything that a cut may touch: objects by identity, and their values."""
    identities: list[Any] = []
    values: list[Any] = []
    for module in (*model.modules(), *ema.modules()):
        identities.append({k: id(v) for k, v in vars(module).items() if not isinstance(v, bool | int)})
        values.append({k: v for k, v in vars(module).items() if isinstance(v, bool | int) and k not in ARMED})
        for tensors in (module._parameters, module._buffers):
            identities.append([(k, id(t), id(getattr(t, "grad", None))) for k, t in tensors.items()])
            values += [t.detach().clone() for t in tensors.values() if t is not None]
            values += [t.grad.clone() for t in tensors.values() if t is not None and t.grad is not None]
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._forward_hooks_with_kwargs):
            identities.append([(k, id(hook)) for k, hook in hooks.items()])
        identities.append(list(module._forward_pre_hooks_with_kwargs))
    for o in optimizers:
        identities.append([(id(g), id(g["params"]), [id(p) for p in g["params"]]) for g in o.param_groups])
        identities.append((id(o.state), {id(p): {k: id(v) for k, v in s.items()} for p, s in o.state.items()}))
        values.append([{k: copy.deepcopy(v) for k, v in s.items()} for _, s in sorted_state(o)])
        values.append([{k: v for k, v in g.items() if k != "params"} for g in o.param_groups])
    rng = torch.get_rng_state()
    return identities, [*values, rng]


def sorted_state(optimizer: torch.optim.Optimizer) -> list[tuple[Any, Any]]:
    return sorted(optimizer.state.items(), key=lambda item: id(item[0]))


def at_call(n: int, error: type[BaseException]) -> Callable[[nn.Sequential, Any], None]:
    def arm(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
        CALLS.clear()
        model[3].at, model[3].error = n, error

    return arm


def state_at(n: int) -> Callable[[nn.Sequential, Any], None]:
    def arm(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
        optimizer.state.left = n

    return arm


def no_smaller_weight(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    model[5].min_rows = 10


def no_smaller_input(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    model[7].fixed = True


# the module runs four times: masked on the example and on noise, small on the example and on noise
STAGES: dict[str, tuple[Callable[[nn.Sequential, Any], None], type[BaseException]]] = {
    "masked run, memory": (at_call(1, MemoryError), MemoryError),
    "masked run, interrupt": (at_call(1, KeyboardInterrupt), KeyboardInterrupt),
    "masked run on noise, memory": (at_call(2, torch.OutOfMemoryError), torch.OutOfMemoryError),
    "masked run on noise, interrupt": (at_call(2, KeyboardInterrupt), KeyboardInterrupt),
    "swap, a setter": (no_smaller_weight, KeyError),
    "swap, a size": (no_smaller_input, MemoryError),
    "small run": (at_call(3, ZeroDivisionError), SurgeryError),
    "small run, memory": (at_call(3, MemoryError), MemoryError),
    "small run, interrupt": (at_call(3, KeyboardInterrupt), KeyboardInterrupt),
    "small run on noise": (at_call(4, ZeroDivisionError), SurgeryError),
    "small run on noise, interrupt": (at_call(4, KeyboardInterrupt), KeyboardInterrupt),
    "state, first write": (state_at(1), MemoryError),
    "state, a deletion": (state_at(2), MemoryError),
    "state, in the middle": (state_at(3), MemoryError),
    "state, the last": (state_at(6), MemoryError),
}


def trained() -> tuple[nn.Sequential, AveragedModel, list[torch.optim.Optimizer], Graph]:
    model, x = network(), torch.randn(4, 2, 6)
    CALLS.clear()
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Adam(list(model[0].parameters()) + list(model[1].parameters())),
        torch.optim.Adam([{"params": model[5].parameters()}, {"params": model[7].parameters()}], amsgrad=True),
    ]
    state = State()
    state.update(optimizers[1].state)
    optimizers[1].state = state  # type: ignore[assignment]
    ema = AveragedModel(model, use_buffers=True)
    for _ in range(2):
        model(x).square().mean().backward()
        for o in optimizers:
            o.step()
        ema.update_parameters(model)
    model[1].eval()
    model.register_forward_hook(lambda m, i, o: None)
    return model, ema, optimizers, trace(model, x)


@pytest.mark.parametrize("stage", list(STAGES))
def test_a_failure_leaves_everything_as_it_was(stage: str) -> None:
    arm, error = STAGES[stage]
    model, ema, optimizers, graph = trained()
    before = around(model, ema, optimizers)
    arm(model, optimizers[1])
    at = model[3].at
    with pytest.raises(error) as raised:
        shrink(model, graph, [0, 3, 9], optimizers, ema_models=[ema])
    assert type(raised.value) is error, "another failure than the one that was made"
    model[3].error = RuntimeError
    after = around(model, ema, optimizers)
    assert before[0] == after[0]
    torch.testing.assert_close(before[1], after[1], rtol=0, atol=0)
    assert not at or len(CALLS) == at
    # and all can go on: the same cut, with nothing in its way
    model[3].at, model[5].min_rows, model[7].fixed, optimizers[1].state.left = 0, 0, False, -1  # type: ignore[attr-defined]
    CALLS.clear()
    assert shrink(model, graph, [0, 3, 9], optimizers, ema_models=[ema]).difference <= 1e-5  # type: ignore[operator]
    assert len(CALLS) == 4
    model(torch.randn(4, 2, 6)).sum().backward()
    for o in optimizers:
        o.step()
    ema.update_parameters(model)


@pytest.mark.parametrize("which", ["shapes", "names", "shared", "itself", "hooks"])
def test_a_copy_that_does_not_fit_is_refused_before_anything_is_changed(which: str) -> None:
    model, ema, optimizers, graph = trained()
    other: nn.Module = ema
    sentence = r"ema_models\[1\] \(.*\) is no copy of the model"
    if which == "shapes":
        other = nn.Sequential(*list(copy.deepcopy(model))[:-1], nn.Linear(10, 4))
    elif which == "names":
        other = nn.ModuleDict({"inner": copy.deepcopy(model)})
    elif which == "shared":
        sentence = r"ema_models\[1\] \(AveragedModel\) shares tensors with the model or another EMA model"
    elif which == "itself":
        other, sentence = model, r"ema_models\[1\] \(Sequential\) shares tensors"
    else:
        other = copy.deepcopy(model)
        other[0].weight.register_hook(lambda g: g)
        sentence = "'0.weight' has hooks that a cut would lose"
    before = around(model, ema, optimizers)
    with pytest.raises(ValueError, match=sentence):
        shrink(model, graph, [0], optimizers, ema_models=[ema, other])
    after = around(model, ema, optimizers)
    assert before[0] == after[0]
    torch.testing.assert_close(before[1], after[1], rtol=0, atol=0)
