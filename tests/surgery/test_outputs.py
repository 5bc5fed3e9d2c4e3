"""Reproducible runs of a network: each starts from the same state, and on exit the network is as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from earlycrop.graph.graph import Graph
from earlycrop.surgery.certificate import reference_outputs
from earlycrop.surgery.outputs import reproducible_runs
from earlycrop.tracing.trace import trace


class Stateful(nn.Module):
    """Its output depends on earlier calls, on a random number and on the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.linear = nn.Embedding(5, 4, sparse=True), nn.Linear(4, 3)
        self.calls, self.history = 0, [0.0]
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.count += 1
        self.history.append(1.0)
        factor = self.calls + float(self.count) + sum(self.history) + torch.rand(()) + self.training
        return self.linear(self.embedding(x)) * factor


def test_each_run_starts_from_the_same_state() -> None:
    model, x = Stateful(), torch.tensor([1, 2])
    with reproducible_runs(model, x, {}) as run:
        outputs = [run(None)[0] for _ in range(3)]
        assert not model.embedding.sparse
        assert not model.training
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])
    assert (model.calls, float(model.count), model.history) == (0, 0.0, [0.0])
    assert model.embedding.sparse
    assert model.training


def test_a_run_after_one_that_fails_starts_from_the_same_state() -> None:
    model, x = Stateful(), torch.tensor([1, 2])

    def out_of_range(call: int, inputs: Any) -> Any:
        return (inputs[0][0] + 10,), inputs[1]

    with reproducible_runs(model, x, {}) as run:
        expected = run(None)[0]
        with pytest.raises(IndexError):
            run(out_of_range)
        assert torch.equal(run(None)[0], expected)
    assert model.calls == 0


@pytest.mark.parametrize("layer", ["linear", "transposed", "convolution", "channels last"])
def test_the_reference_masks_columns_and_keeps_values_and_strides_of_the_rest(layer: str) -> None:
    torch.manual_seed(0)
    if layer in ("linear", "transposed"):
        first, second, x = nn.Linear(3, 6), nn.Linear(6, 2), torch.randn(2, 3)
    else:
        first, second, x = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 3), torch.randn(2, 3, 8, 8)
    if layer == "transposed":
        second.weight = nn.Parameter(second.weight.detach().t().contiguous().t())
    model = nn.Sequential(first, nn.ReLU(), second)
    if layer == "channels last":
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    graph, weight, seen = trace(model, x), second.weight, []

    def record(module: nn.Module, inputs: Any) -> None:
        seen.append(module.weight.detach())

    handle = second.register_forward_pre_hook(record)
    outputs = reference_outputs(model, graph, _removed(graph, [1, 4])).outputs
    handle.remove()
    with torch.no_grad():
        expected = weight.clone()
        expected[:, [1, 4]] = 0
    assert torch.equal(seen[0], expected)
    assert seen[0].stride() == weight.stride()
    assert second.weight is weight
    assert outputs[0].shape[1] == 2


def _removed(graph: Graph, channels: list[int]) -> Any:
    """Return the mask of the nodes that are these channels of the first layer."""
    axis = next(a for a in graph.axes if (a.tensor, a.dim) == ("0.weight", 0))
    return graph.mask(axis.nodes[channels])
