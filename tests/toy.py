"""Toy networks, losses, batches and optimizers that many tests train by.

What only one folder shares stands in it, such as ``tests.tasks.tiny_data`` and ``tests.leaderboards.results``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD

from earlycrop import Pruner
from tests.pruner_arguments import with_options

Batch: TypeAlias = tuple[Tensor, Tensor]
"""Inputs, and the number of each one's class."""

EPOCHS = 6
"""That ``started`` trains for, if nothing else is said."""


class Net(nn.Module):
    """A forward given as a function of the module and its inputs."""

    def __init__(self, forward: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.function(self, *inputs, **named)


def drop_unused(model: Net, *inputs: Any) -> Net:
    """Delete the submodules that a run on these inputs does not call, and return the model."""
    called: set[nn.Module] = set()
    handles = [m.register_forward_hook(lambda module, *_: called.add(module)) for m in model.modules()]
    with torch.no_grad():
        model(*inputs)
    for handle in handles:
        handle.remove()
    for name, module in list(model.named_children()):
        if not called & set(module.modules()):
            delattr(model, name)
    return model


def mlp(*widths: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers of these widths, the inputs' first, with an activation between them; 6-16-16-3 without widths."""
    widths = widths or (6, 16, 16, 3)
    layers = [nn.Linear(n, m) for n, m in pairwise(widths)]
    return nn.Sequential(*[module for layer in layers for module in (layer, activation())][:-1])


def tanh_mlp(width: int = 12) -> nn.Sequential:
    """A smooth one in float64, always with the same weights."""
    torch.manual_seed(0)
    return mlp(6, width, width, 3, activation=nn.Tanh).double()


def vectors(count: int = 3, size: int = 8, classes: int = 3, seed: int | None = None) -> list[Batch]:
    """Batches of 6 numbers an example and of random classes; drawn from torch's generator where there is no seed."""
    g = torch.default_generator if seed is None else torch.Generator().manual_seed(seed)
    return [(torch.randn(size, 6, generator=g), torch.randint(0, classes, (size,), generator=g)) for _ in range(count)]


def network() -> nn.Module:
    """Convolutions with batch norms, dropout and a linear layer; always with the same weights."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.1), nn.Linear(64, 3),
    )  # fmt: skip


def data() -> list[Batch]:
    """Images for ``network``: three classes told apart by where the light is."""
    g = torch.Generator().manual_seed(1)
    y = torch.randint(0, 3, (96,), generator=g)
    x = torch.randn(96, 1, 6, 6, generator=g) * 0.3
    for i in range(96):
        x[i, 0, 2 * y[i] : 2 * y[i] + 2] += 1
    return list(zip(x.split(32), y.split(32), strict=True))


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def mean_square(model: nn.Module, batch: Tensor) -> Tensor:
    """A loss without targets."""
    return model(batch).square().mean()  # type: ignore[no-any-return]


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), 0.1)


def train_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[Batch]) -> None:
    model.train()
    for batch in batches:
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()


def weights_left(model: nn.Module) -> int:
    """How many entries of the weight matrices are not zero."""
    return sum(int(p.count_nonzero()) for p in model.parameters() if p.ndim > 1)


class Forwarding(torch.optim.Optimizer):
    """As accelerate's: it is set up as no optimizer, and takes no hooks."""

    def __init__(self, parameters: Any, *given: Any, **options: Any) -> None:
        self.optimizer = SGD(parameters, *given, **options)

    @property
    def param_groups(self) -> Any:  # type: ignore[override]
        return self.optimizer.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        return self.optimizer.state

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)


def started(method: str, sparsity: float = 0.5, **options: Any) -> tuple[Any, torch.optim.Optimizer, Pruner]:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    pruner = Pruner(model, optimizer, loss, method, sparsity, **with_options(**{"epochs": EPOCHS, **options}))
    return model, optimizer, pruner
