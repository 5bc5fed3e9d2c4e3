"""Pruning in several rounds: the same units, counted the same way, as in one."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from earlycrop import Pruner, PrunerOptions, prune
from tests.toy import Batch, Net, loss, mlp, sgd, vectors

HEADS, SIZE, WIDTH = 4, 6, 32


class Attention(nn.Module):
    """Four heads and a layer of neurons, and an output that stays."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, HEADS * SIZE) for _ in range(3))
        self.out, self.wide, self.narrow = nn.Linear(HEADS * SIZE, 8), nn.Linear(8, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (-1, SIZE)).transpose(1, 2) for f in (self.q, self.k, self.v))
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.narrow(self.wide(self.out(mixed)).relu()).mean(1)


@pytest.mark.parametrize(("of", "sparsity"), [("nodes", 0.95), ("weights", 0.9)])
def test_a_last_head_is_one_unit_still_and_a_last_neuron_is_counted(of: str, sparsity: float) -> None:
    events = []
    for rounds in (1, 5):
        torch.manual_seed(0)
        model, batch = Attention(), (torch.randn(16, 5, 8), torch.randint(0, 3, (16,)))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "asked to remove")
            events.append(prune(model, loss, [batch], "magnitude", sparsity, of, rounds=rounds))
    one, five = events
    assert one.layers["q"] == five.layers["q"] == (HEADS, 1)
    assert five.layers["wide"][0] == WIDTH
    left = sum(after for name, (_, after) in five.layers.items() if name != "narrow")
    assert five.node_sparsity == 1 - left / (3 * HEADS + 8 + WIDTH)
    assert five.layers["wide"] == (WIDTH, 1) or of == "weights"
    assert (five.left, five.achieved) == (one.left, one.achieved) or of == "weights"


def test_a_layer_whose_cut_cannot_be_certified_stays_whole_and_the_rest_is_cut() -> None:
    """A tensor holds its own width, which a run on shapes cannot tell from another."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        return self.c(self.b(x / torch.tensor([x.shape[-1]])).relu())

    model = Net(forward, a=nn.Linear(6, 16), b=nn.Linear(16, 40), c=nn.Linear(40, 3))
    event = prune(model, loss, vectors(), sparsity=0.5, rounds=3)
    assert event.left <= event.dense // 2
    assert model.a.out_features == 16
    assert model.b.out_features < 40
    assert "a.weight" in event.uncertified
    assert event.difference is not None
    assert event.difference <= 1e-5


@pytest.mark.parametrize("method", ["cropit-s", "cropit-u"])
def test_early_rounds_may_be_scored_on_fewer_batches(method: Any) -> None:
    """Two rounds of three on a share of five batches: on 5, on 2, and on 1, as no share comes to nothing."""
    calls = {}
    for share in (1.0, 0.4, 0.01):
        read: list[Batch] = []

        def counted(network: nn.Module, batch: Batch, read: list[Batch] = read) -> Tensor:
            read.append(batch)
            return loss(network, batch)

        model = mlp()
        options = PrunerOptions(early_batches=share)
        Pruner(model, sgd(model), counted, method, 0.5, epochs=2, rounds=3, options=options).step(vectors(5))
        calls[share] = len(read)
    fewer, fewest = calls[1.0] - calls[0.4], calls[1.0] - calls[0.01]
    assert fewer > 0
    assert (fewer % 6, fewest) == (0, fewer // 6 * 8)
