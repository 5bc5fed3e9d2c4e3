"""Networks built on the meta device: the same weights as built on the CPU, and pruned like those."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import earlycrop
from tests.toy import loss


class Tied(nn.Module):
    """An embedding whose weight is also the head's, an LSTM, attention and norms."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.lstm = nn.LSTM(8, 8, 2, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.Sequential(nn.BatchNorm1d(8), nn.LayerNorm(8))
        self.head = nn.Linear(8, 11)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        """(N, T) -> (N, 11)."""
        y, _ = self.lstm(self.embedding(x))
        z: Tensor = self.head(self.norm(self.attention(y, y, y)[0].mean(1)))
        return z


def convolutional() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 5)
    )


@pytest.mark.parametrize(
    "made",
    [
        convolutional,
        lambda: nn.MultiheadAttention(8, 2, kdim=5),  # it fills the bias of the projection inside with zeros
        lambda: nn.TransformerEncoderLayer(8, 2, 16),
    ],
)
def test_a_network_from_the_meta_device_has_the_weights_of_one_from_the_cpu(made: Callable[[], nn.Module]) -> None:
    torch.manual_seed(3)
    usual = made()
    with torch.device("meta"):
        model = made()
    torch.manual_seed(3)
    assert earlycrop.materialise(model) is model
    for (name, value), expected in zip(model.state_dict().items(), usual.state_dict().values(), strict=True):
        assert torch.equal(value, expected), name


def test_tied_weights_stay_tied_and_recurrent_layers_run() -> None:
    with torch.device("meta"):
        model = Tied()
    earlycrop.materialise(model)
    assert model.head.weight is model.embedding.weight
    assert not any(t.is_meta for t in model.state_dict().values())
    model(torch.randint(11, (4, 6))).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_what_has_values_is_left_alone() -> None:
    model = convolutional()
    weight = copy.deepcopy(model[0].weight)
    with torch.device("meta"):
        model[5] = nn.Linear(128, 5)
    earlycrop.materialise(model, initialise=lambda m: [nn.init.ones_(p) for p in m.parameters(recurse=False)])
    assert torch.equal(model[0].weight, weight)
    assert torch.equal(model[5].weight, torch.ones(5, 128))


def test_a_module_that_cannot_initialise_itself_is_named_before_anything_is_made() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.ones(3))

    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(3, 3), Scale())
    with pytest.raises(ValueError, match=r"no reset_parameters method in '1' \(Scale\): give initialise"):
        earlycrop.materialise(model)
    assert model[0].weight.is_meta


@pytest.mark.parametrize("structured", [True, False])
def test_a_network_is_pruned_once_it_has_values_and_refused_before(structured: bool) -> None:
    with torch.device("meta"):
        model = convolutional()
    batch = (torch.randn(4, 3, 8, 8), torch.randint(5, (4,)))
    message = "'0.weight' and 10 more have no values, on the meta device: call earlycrop.materialise first"
    with pytest.raises(ValueError, match=message):
        earlycrop.prune(model, loss, [batch], sparsity=0.5, structured=structured)
    with pytest.raises(ValueError, match=message):
        earlycrop.Pruner(model, torch.optim.SGD(model.parameters(), 0.1), loss, epochs=2)
    earlycrop.materialise(model)
    assert earlycrop.prune(model, loss, [batch], sparsity=0.5, structured=structured).weight_sparsity >= 0.5


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak of memory as Linux tells it")
def test_memory_is_the_weights_and_not_more() -> None:
    code = """
import torch, earlycrop
from earlycrop import measure
from torch import nn
with torch.device("meta"):
    small, model = (nn.Sequential(*(nn.Linear(n, n, bias=False) for _ in range(20))) for n in (10, 2000))
earlycrop.materialise(small)
cpu = torch.device("cpu")
before = measure.step_memory_bytes(lambda: None, cpu)
print(measure.step_memory_bytes(lambda: earlycrop.materialise(model), cpu) - before)
"""
    taken = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 0.95 < taken / (20 * 4 * 2000**2) < 1.1


def test_a_lazy_module_is_named_before_anything_is_made() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(3, 3), nn.LazyLinear(3))
    with pytest.raises(ValueError, match=r"'1.weight' has no shape yet: run the model on one batch first"):
        earlycrop.materialise(model)
    assert model[0].weight.is_meta
