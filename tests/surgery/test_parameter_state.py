"""What belongs to parameters follows a cut: gradients, memory formats, lists, hooks, buffers, momentum."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from earlycrop import shrink, trace
from tests.networks import Language
from tests.oracles import step, zeroed
from tests.surgery.test_optimizers import optimizers_of
from tests.toy import tanh_mlp


def test_gradients_and_memory_formats_are_kept() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1)).double()
    model.to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    step(model, [optimizer], x)
    model[0].bias.grad = None
    model[2].weight.grad = model[2].weight.grad.contiguous()  # type: ignore[union-attr]
    model[4].requires_grad_(False)
    before = copy.deepcopy(model)
    gradient = model[2].weight.grad
    shrink(model, trace(model, x), [1, 9], optimizer)
    assert model[0].bias.grad is None
    assert model[2].weight.is_contiguous(memory_format=torch.channels_last)
    assert not model[2].weight.is_contiguous()
    assert optimizer.state[model[0].weight]["momentum_buffer"].is_contiguous(memory_format=torch.channels_last)
    expected = gradient[[0, 2, 3, 4, 5]][:, [0, *range(2, 8)]]  # type: ignore[index]
    assert torch.equal(model[2].weight.grad, expected)
    assert model[2].weight.grad.is_contiguous()
    assert [p.requires_grad for p in model.parameters()] == [True] * 4 + [False] * 2
    assert torch.equal(model[4].weight, before[4].weight[:, [0, 2, 3, 4, 5]])


class Lists(nn.Module):
    """Parameters in a list and a dict, one shared, and a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(8, 6)), nn.Parameter(torch.randn(8, 8))])
        self.named = nn.ParameterDict({"out": nn.Parameter(torch.randn(3, 8))})
        self.again = nn.ParameterList([self.named["out"]])
        self.register_buffer("scale", torch.rand(8) + 1, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        for w in self.weights:
            x = (x @ w.T).tanh()
        return (x * self.scale) @ self.named["out"].T + x @ self.again[0].T


def test_parameters_in_lists_and_buffers_that_are_not_saved() -> None:
    model, x = Lists().double(), torch.randn(5, 6, dtype=torch.float64)
    optimizer = torch.optim.Adam(model.parameters())
    step(model, [optimizer], x)
    graph = trace(model, x)
    assert graph.count == 16
    masked = zeroed(model, graph, [0, 1, 9])
    shrink(model, graph, [0, 1, 9], optimizer)
    torch.testing.assert_close(model(x), masked(x))
    assert [tuple(w.shape) for w in model.weights] == [(6, 6), (7, 6)]
    assert model.named["out"] is model.again[0]
    assert model.scale.shape == (7,)
    assert "scale" not in model.state_dict()
    step(model, [optimizer], x)


def test_module_hooks_stay() -> None:
    model, x = tanh_mlp(), torch.randn(5, 6, dtype=torch.float64)
    seen: list[tuple[int, ...]] = []
    model[0].register_forward_hook(lambda m, i, o: seen.append(tuple(o.shape)))
    model.register_forward_pre_hook(lambda m, i: (i[0] * 2,))
    graph = trace(model, x)
    masked = zeroed(model, graph, [0, 15])
    shrink(model, graph, [0, 15])
    seen.clear()
    torch.testing.assert_close(model(x), masked(x))
    assert seen == [(5, 11), (5, 12)]


def test_recurrent_layers_follow_under_muon() -> None:
    """Gates that are stacked in one matrix lose the same rows in the momentum."""
    model = Language(nn.LSTM).double()
    x = torch.randint(0, 9, (3, 5))
    optimizers = optimizers_of("Muon", {}, model)
    step(model, optimizers, x)
    weight = model.rnn.weight_hh_l0
    momentum = optimizers[0].state[weight]["momentum_buffer"].clone()
    graph = trace(model, x)
    node = next(n for n in graph.nodes if any(name == "rnn.weight_hh_l0" for name, _, _ in n.owns))
    rows, columns = (next(i for name, d, i in node.owns if (name, d) == ("rnn.weight_hh_l0", dim)) for dim in (0, 1))
    shrink(model, graph, [node.index], optimizers)
    expected = momentum[np.setdiff1d(np.arange(28), rows)][:, np.setdiff1d(np.arange(7), columns)]
    assert torch.equal(optimizers[0].state[model.rnn.weight_hh_l0]["momentum_buffer"], expected)
