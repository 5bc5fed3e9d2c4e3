"""Layers whose matrix is computed from several parameters: a gain, noise, gates, an orthogonal parametrization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from earlycrop import Limits, prune, trace
from earlycrop.scoring.criteria import CRITERIA
from earlycrop.scoring.scores import node_scores
from tests.oracles import certified
from tests.toy import Net


class Standardised(nn.Conv2d):
    """A convolution whose kernels have mean 0 and deviation 1, and a gain each."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3)
        self.gain = nn.Parameter(torch.rand(outputs, 1, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        w, dims = self.weight, (1, 2, 3)
        w = (w - w.mean(dims, keepdim=True)) / (w.std(dims, keepdim=True) + 1e-5)
        return functional.conv2d(x, w * self.gain, self.bias)


class Noisy(nn.Module):
    """A linear layer with a fixed pattern of noise on its weights, scaled by parameters."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.mu, self.sigma = nn.Parameter(torch.randn(outputs, inputs)), nn.Parameter(torch.rand(outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.mu + self.sigma * torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype).sign())


class Gated(nn.Module):
    """A linear layer with a gate on each weight."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.value, self.gate = nn.Parameter(torch.randn(outputs, inputs)), nn.Parameter(torch.randn(outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.value * self.gate.sigmoid())


def images(layer: nn.Module) -> nn.Sequential:
    head = (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 3))
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), layer, *head).double()


def vectors_through(layer: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), layer, nn.ReLU(), nn.Linear(12, 3)).double()


LAYERS: dict[str, tuple[Callable[[], nn.Sequential], int]] = {
    "standardised": (lambda: images(Standardised(8, 12)), 12),  # its inputs are averaged over
    "noisy": (lambda: vectors_through(Noisy(8, 12)), 12),  # the noise has a value for each of its inputs
    "gated": (lambda: vectors_through(Gated(8, 12)), 8 + 12),
    "orthogonal": (lambda: vectors_through(parametrizations.orthogonal(nn.Linear(8, 12))), 12),
}


def example_of(model: nn.Sequential) -> Tensor:
    torch.manual_seed(1)
    shape = (4, 3, 7, 7) if isinstance(model[0], nn.Conv2d) else (4, 6)
    return torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("name", list(LAYERS))
def test_their_nodes_are_counted_as_outputs_of_the_layer(name: str) -> None:
    make, nodes = LAYERS[name]
    torch.manual_seed(0)
    model = make()
    graph = trace(model, example_of(model))
    outputs = {layer.name: layer.nodes for layer in graph.layers}
    assert list(outputs)[:2] == ["0", "2"]
    assert (outputs["2"] >= 0).sum() == outputs["2"].size == 12
    assert graph.cost("nodes") == 8 + 12
    assert {graph.nodes[i].layer for i in outputs["2"].tolist()} == {"2"}
    certified(model, example_of(model), nodes)


@pytest.mark.parametrize("name", list(LAYERS))
def test_targets_and_limits_count_them(name: str) -> None:
    model = LAYERS[name][0]()
    batch = example_of(model)
    limits = Limits(floors={"2": 9}, exclude=["0"])
    event = prune(model, lambda m, x: m(x).square().mean(), [batch], "snip", 0.15, of="nodes", limits=limits)
    assert event.layers["2"] == (12, 9)
    assert event.left == 8 + 9
    assert model[-1].in_features == 9


def test_a_node_is_scored_by_a_gate_behind_it_where_no_row_is_its_own() -> None:
    """The scale of a standardised kernel has no effect, and its bias is a part of the node only."""
    torch.manual_seed(0)
    model = LAYERS["standardised"][0]()
    x = example_of(model)
    graph = trace(model, x)
    scores = node_scores(model, graph, CRITERIA["snip"], lambda m, b: m(b).square().mean(), [x], "rows")
    gate = torch.ones(12, dtype=torch.float64, requires_grad=True)
    h = model[:4](x) * gate[:, None, None]
    (expected,) = torch.autograd.grad(model[4:](h).square().mean(), gate)
    outputs = next(layer.nodes for layer in graph.layers if layer.name == "2")
    torch.testing.assert_close(scores[outputs], expected.abs())


def test_the_report_says_why_one_that_is_returned_stays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Standardised(8, 2)).double()
    graph = trace(model, torch.randn(2, 3, 7, 7).double())
    assert graph.count == 0
    assert "the model returns it" in graph.report()


def test_a_table_of_positions_is_no_layer() -> None:
    model = Net(
        lambda self, x: self.head((self.embed(x) + self.positions).relu()), embed=nn.Linear(6, 8), head=nn.Linear(8, 3)
    )
    model.positions = nn.Parameter(torch.randn(1, 5, 8))
    graph = trace(model.double(), torch.randn(2, 5, 6).double())
    assert graph.count == 8
    assert [layer.name for layer in graph.layers] == ["embed", "head"]
    assert graph.cost("nodes") == 8


def test_latents_that_start_a_stream_are_outputs_of_their_module() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        weights = (self.latents @ self.keys(x).mT).softmax(-1)
        y: Tensor = self.head((weights @ self.values(x) + self.start).relu())
        return y

    model = Net(forward, keys=nn.Linear(6, 7), values=nn.Linear(6, 8), head=nn.Linear(8, 3)).double()
    model.latents = nn.Parameter(torch.randn(4, 7).double())
    model.start = nn.Parameter(torch.randn(4, 8).double())
    certified(model, torch.randn(2, 5, 6).double(), 7 + 8)
