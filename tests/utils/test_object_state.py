"""Whatever a module keeps besides its parameters is as it was after scoring, tracing and cutting."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import earlycrop
from earlycrop.scoring.derivatives import flow
from earlycrop.scoring.model_inputs import record_arguments
from earlycrop.triggers.ntk import NTKDistance
from earlycrop.utils.contexts import preserve_state
from tests.toy import mlp


class Average:
    """A plain object that counts."""

    def __init__(self) -> None:
        self.count, self.seen = 0, OrderedDict[int, Tensor]()

    def update(self, value: Tensor) -> None:
        self.count += 1
        self.seen[self.count] = value
        self.last = value


class Mean(nn.Module):
    """A metric, whose sums are neither parameters nor buffers, as those of torchmetrics."""

    def __init__(self) -> None:
        super().__init__()
        self.sum, self.count = torch.zeros(()), 0

    def update(self, value: Tensor) -> None:
        self.sum += value
        self.count += 1


class Gathering(nn.Module):
    """Gathers in its forward whatever a module may gather in."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.metric = mlp(), Mean()
        self.register_buffer("calls", torch.zeros(()))
        self.losses: list[Tensor] = []
        self.last = deque([1.0], maxlen=2)
        self.by_name, self.names = defaultdict[str, list[float]](list), {"first"}
        self.average, self.inside = Average(), (Average(), [Average()])
        self.total, self.histogram = torch.zeros(3), np.zeros(4)
        self.generator = torch.Generator().manual_seed(5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x + torch.rand(x.shape, generator=self.generator))
        value = y.detach().mean() if not y.is_meta else torch.zeros(())
        self.metric.update(value)
        self.calls += 1
        self.losses.append(value)
        self.last.append(2.0)
        self.by_name["loss"].append(3.0)
        self.names.add("second")
        for average in (self.average, self.inside[0], self.inside[1][0]):
            average.update(value)
        self.total += 1
        self.total.add_(1)
        self.histogram[1] += 1
        self.newest = value
        return y


def contents(model: Gathering) -> list[Any]:
    averages = [(a.count, list(a.seen), hasattr(a, "last")) for a in (model.average, *model.inside[1], model.inside[0])]
    metric = float(model.metric.sum), model.metric.count
    return [
        averages, metric, float(model.calls), len(model.losses), list(model.last), dict(model.by_name), model.names,
        model.total.tolist(), model.histogram.tolist(), model.generator.get_state().tolist(), hasattr(model, "newest"),
    ]  # fmt: skip


def loss(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).square().mean()  # type: ignore[no-any-return]


USES: dict[str, Callable[[Any, Tensor], Any]] = {
    "flow": lambda model, x: flow(model, loss, [x, x]),
    "trace": lambda model, x: earlycrop.trace(model, x),
    "cut": lambda model, x: earlycrop.prune(model, loss, [x], sparsity=0.3),
    "synflow": lambda model, x: earlycrop.prune(model, loss, [x], "synflow", sparsity=0.3),
    "zeros": lambda model, x: earlycrop.prune(model, loss, [x], sparsity=0.3, structured=False),
    "time": lambda model, x: earlycrop.prune(model, loss, [x], sparsity=0.1, of="time"),
    "tangent kernel": lambda model, x: NTKDistance(model, loss, x),
    "arguments": lambda model, x: record_arguments(model, lambda m, b: m(m.total.add_(1) * b), x[:, :3]),
}


@pytest.mark.filterwarnings("ignore:asked to remove .* of the time")
@pytest.mark.parametrize("use", list(USES))
@pytest.mark.parametrize("training", [True, False])
def test_what_a_module_gathers_is_as_it_was(use: str, training: bool) -> None:
    model = Gathering().train(training)
    model(torch.randn(4, 6))
    objects = model.losses, model.total, model.average, model.histogram
    before = contents(model)
    USES[use](model, torch.randn(4, 6))
    assert contents(model) == before
    assert all(
        a is b for a, b in zip(objects, (model.losses, model.total, model.average, model.histogram), strict=True)
    )
    assert all(m.training is training for m in model.modules())
    model(torch.randn(4, 6))
    assert contents(model) != before


def test_state_is_restored_after_an_error_and_hooks_with_it() -> None:
    def change() -> None:
        model.register_forward_hook(lambda *_: None)
        model.eval()
        model(torch.randn(2, 6))
        raise ValueError("in between")

    model = Gathering()
    before = contents(model)
    with pytest.raises(ValueError, match="in between"), preserve_state(model):
        change()
    assert contents(model) == before
    assert not model._forward_hooks
    assert model.training


def test_what_holds_itself_or_cannot_be_copied_is_no_obstacle(tmp_path: Path) -> None:
    model = mlp()
    with (tmp_path / "log").open("w") as file:
        model.owner, model.file, model.kind, model.numbers = [model], file, Average, np.broadcast_to(np.zeros(1), (3,))
        model.owner.append(model.owner)
        with preserve_state(model):
            model.owner.append(1)
        assert model.owner == [model, model.owner]


def test_values_of_parameters_and_optimizers_are_left_alone() -> None:
    model = mlp()
    model.optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    with preserve_state(model):
        loss(model, torch.randn(2, 6)).backward()
        model.optimizer.step()
        weight = model[0].weight.detach().clone()
    assert torch.equal(model[0].weight, weight)
    assert model.optimizer.state[model[0].weight]["momentum_buffer"].any()
