"""Graphs of several batches that are kept between the gradient and the Hessian product."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from earlycrop import flow
from earlycrop.scoring import graph_cache
from earlycrop.scoring.memory import saved_bytes


def make_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 3))


def make_batches(sizes: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(n, 6), torch.randint(0, 3, (n,))) for n in sizes]


class CountingLoss:
    """The cross-entropy, which counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        self.calls += 1
        return functional.cross_entropy(model(batch[0]), batch[1])


@pytest.mark.parametrize(("kept", "calls"), [(4, 4), (2, 6), (0, 8)])
def test_as_many_graphs_are_kept_as_fit_and_no_digit_changes(
    kept: int, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batches = make_network(), make_batches((8, 8, 8, 8))
    expected = flow(model, CountingLoss(), batches)
    with saved_bytes() as sizes:
        g = torch.autograd.grad(CountingLoss()(model, batches[0]), list(model.parameters()), create_graph=True)
    assert all(x.requires_grad for x in g)
    assert sum(sizes.values()) > 0
    monkeypatch.setattr(graph_cache, "MAX_BYTES", int((kept + 0.5) * sum(sizes.values())))
    loss = CountingLoss()
    derivatives = flow(model, loss, batches)
    assert loss.calls == calls
    assert derivatives.product is not None
    assert expected.product is not None
    for name, _ in model.named_parameters():
        torch.testing.assert_close(derivatives.gradient[name], expected.gradient[name], rtol=0, atol=0)
        torch.testing.assert_close(derivatives.product[name], expected.product[name], rtol=0, atol=0)


def test_all_saved_memory_counts_once() -> None:
    """Products save their inputs, and an exponential its result. Two products of one input save the same memory."""
    x, w = torch.randn(100, 10), nn.Parameter(torch.randn(10, 10))
    with saved_bytes() as sizes:
        y = (x @ w).exp() + x @ w + (x * 2) @ w
    assert y.requires_grad
    assert sum(sizes.values()) == 3 * x.nbytes


class Derivative(nn.Module):
    """A network whose output is a derivative by its input, computed by torch.func."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        slopes: Tensor = torch.func.vmap(torch.func.grad(lambda row: self.energy(row).sum()))(x)
        return slopes[:, :3]


class Neighbours(nn.Module):
    """A layer over a sparse matrix of neighbours, which autograd saves."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sparse.mm(torch.eye(len(x)).to_sparse(), self.linear(x).tanh())


class Mapped(nn.Module):
    """A network that runs sample by sample under torch.func.vmap."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.func.vmap(self.layers)(x)
        return y


@pytest.mark.parametrize("network", [Derivative, Neighbours, Mapped])
def test_tensors_without_a_plain_storage_are_scored_on_several_batches(network: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, batches = network(), make_batches((4, 4))
    both = flow(model, CountingLoss(), batches)
    single = [flow(model, CountingLoss(), [batch]) for batch in batches]
    for name, g in both.gradient.items():
        torch.testing.assert_close(g, single[0].gradient[name] + single[1].gradient[name])
