"""Forward passes in training mode, and numbers that change with each call: which of them freeze a width."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from earlycrop import prune, trace
from tests.oracles import certified
from tests.toy import mlp, vectors


@pytest.mark.parametrize("drawn", ["numpy", "python", "counter"])
def test_a_number_that_differs_from_call_to_call_is_no_size(drawn: str) -> None:
    """Mixup draws its share, an annealed loss counts its calls: neither has anything to do with a width."""
    calls = iter(range(1, 1000))

    def mixed(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        share = {"numpy": np.random.rand, "python": random.random, "counter": lambda: 1 / next(calls)}[drawn]()
        of_inputs = 1.0 if drawn == "counter" else share
        outputs = model(of_inputs * batch[0] + (1 - of_inputs) * batch[0].flip(0))
        return share * functional.cross_entropy(outputs, batch[1]) + (1 - share) * outputs.square().mean()

    model, batches = mlp(), vectors()
    before = np.random.get_state()[1].copy(), random.getstate()  # type: ignore[union-attr,call-overload]
    graph = trace(model, lambda m: mixed(m, batches[0]))
    assert (np.random.get_state()[1] == before[0]).all()  # type: ignore[union-attr,call-overload]
    assert random.getstate() == before[1]
    assert graph.count == trace(model, batches[0][0]).count == 32
    assert prune(model, mixed, batches, sparsity=0.5).node_sparsity > 0


class InTraining(nn.Module):
    """Does something more in training mode."""

    def __init__(self, more: Callable[[Any, Tensor], Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.more, self.width = more, 8
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 9), nn.Linear(9, 3)
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).tanh()
        y: Tensor = self.c(self.b(self.more(self, h) if self.training else h).tanh())
        return y


TRAINING: dict[str, tuple[Callable[[Any, Tensor], Tensor], str]] = {
    "noise of a size": (lambda n, h: h * torch.randn(len(h), 8), "a size is hard-coded in it"),
    "a mask of a size": (lambda n, h: h * h.new_empty(8).bernoulli_(0.5), "a size is hard-coded in it"),
    "a slice": (lambda n, h: torch.cat([h[:, :2].sin(), h[:, 2:]], 1), "it is cut into parts of different sizes"),
    "a scale": (lambda n, h: h / h.shape[1], "taken from its own width"),
}


@pytest.mark.parametrize("name", list(TRAINING))
def test_a_size_that_only_training_uses_freezes_what_it_concerns(name: str) -> None:
    more, why = TRAINING[name]
    model = InTraining(more).double()
    graph = certified(model, torch.randn(4, 6).double(), 9)
    assert why in graph.report()
    model.train()(torch.randn(4, 6).double()).sum().backward()


def test_what_a_network_keeps_in_training_is_put_back_after_each_trial() -> None:
    def once(network: Any, h: Tensor) -> Tensor:
        if network.kept:
            raise ValueError("it was run in training mode before")
        network.kept.append(h)
        return h

    model = InTraining(once).double()
    model.kept = []  # type: ignore[assignment]
    assert certified(model, torch.randn(4, 6).double(), 8 + 9)


STAYING: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "noise": lambda n, h: h * torch.randn(h.shape) + torch.randn_like(h),
    "dropout": lambda n, h: functional.dropout1d(functional.dropout(h, 0.3)[..., None], 0.3)[..., 0],
    "an attribute": lambda n, h: h * torch.randn(len(h), n.width),
    "a decision": lambda n, h: h if np.random.rand() < 0.5 else 2 * h,
    "what cannot run": lambda n, h: h * 2 if float(h.detach().sum()) > 0 else h,
}


@pytest.mark.parametrize("name", list(STAYING))
def test_what_training_does_at_any_width_freezes_nothing(name: str) -> None:
    model = InTraining(STAYING[name]).double()
    states = torch.get_rng_state(), np.random.get_state()[1]
    certified(model, torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).double(), 8 + 9)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    model.train()(torch.randn(4, 6).double()).sum().backward()


def test_statistics_that_training_keeps_freeze_nothing() -> None:
    tracked = nn.InstanceNorm1d(9, affine=True, track_running_stats=True)
    model = nn.Sequential(
        nn.Conv1d(3, 8, 1), nn.BatchNorm1d(8), nn.RReLU(0.2, 0.2), nn.Conv1d(8, 9, 1), tracked, nn.Conv1d(9, 8, 1),
        parametrizations.spectral_norm(nn.Conv1d(8, 2, 1)),
    ).double()  # fmt: skip
    certified(model, torch.randn(4, 3, 5).double(), 8 + 9 + 8)
