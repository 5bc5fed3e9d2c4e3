"""Small networks, one for each construct that the tracer must understand, with the expected nodes and costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from earlycrop import trace
from earlycrop.graph.graph import Graph


class ConvNorm(nn.Module):
    """Convolution, batch norm, pooling, flatten into a linear layer: 12 channels own 4 columns each."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.fc = nn.Linear(12 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(functional.adaptive_avg_pool2d(functional.relu(self.norm(self.conv(x))), 2).flatten(1))


class Residual(nn.Module):
    """The stem's 8 channels and the block's second convolution's are one group, matched by identity."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv1, self.norm1 = nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.norm2 = nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        return self.fc(functional.relu(x + y).mean((2, 3)))


class Concatenation(nn.Module):
    """Two branches side by side, and the input between them, which stays."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 5), nn.Linear(6, 7)
        self.out = nn.Linear(5 + 6 + 7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([self.left(x).tanh(), x, self.right(x).tanh()], 1))


class Groups(nn.Module):
    """A grouped convolution of few wide groups (positions are coupled), one of many narrow ones, a depthwise one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 12, 1)
        self.wide = nn.Conv2d(12, 12, 3, padding=1, groups=2)
        self.narrow = nn.Conv2d(12, 12, 3, padding=1, groups=6)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.last = nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.first(x))
        x = functional.relu(self.wide(x))
        x = functional.relu(self.narrow(x))
        return self.last(functional.relu(self.depthwise(x)))


class Language(nn.Module):
    """Embedding, a recurrent layer of two levels in both directions, a decoder."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.rnn = kind(6, 7, num_layers=2, bidirectional=True, batch_first=True)
        self.decoder = nn.Linear(14, 11)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.rnn(self.embedding(x))[0])


class Heads(nn.Module):
    """Two outputs from one trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh())
        self.actor, self.critic = nn.Linear(16, 2), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = self.trunk(x)
        return {"logits": self.actor(hidden), "value": self.critic(hidden).squeeze(-1)}


class Tied(nn.Module):
    """The decoder's weight is the embedding's."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 6)
        self.hidden = nn.Linear(6, 6)
        self.decoder = nn.Linear(6, 9, bias=False)
        self.decoder.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        e = self.embedding(x)
        return self.decoder(e + self.hidden(e).tanh())


class FixedSize(nn.Module):
    """The second layer's width is written into the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Linear(4, 8), nn.Linear(8, 12), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.two(self.one(x).relu()).relu().view(len(x), 4, 3)).sum(1)


class ReadsValues(nn.Module):
    """Control flow on a value, which fake tensors cannot give."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x).relu() if x.sum().item() > -1e9 else self.one(x))


@dataclass(frozen=True)
class Case:
    """A network, what to call it with, how many nodes it has, and how many layer outputs beside the model's outputs."""

    make: Callable[[], nn.Module]
    example: Callable[[], Any]
    nodes: int
    outputs: int


def _images() -> Tensor:
    return torch.randn(4, 3, 8, 8)


def _tokens() -> Tensor:
    return torch.randint(0, 9, (3, 5))


CASES: dict[str, Case] = {
    "mlp": Case(
        lambda: nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3)),
        lambda: torch.randn(5, 6),
        18,
        18,
    ),
    "conv-norm": Case(ConvNorm, _images, 12, 12),
    "residual": Case(Residual, _images, 14, 22),  # stem and conv2 share 8 nodes, and count 8 outputs each
    "concatenation": Case(Concatenation, lambda: torch.randn(5, 6), 12, 12),
    # two groups of 6 are cut by position: first has 6 nodes of 2 channels. Six groups of 2 are cut whole, and the
    # positions of the layer before couple channels 6 apart: 3 nodes of 4 channels in each of the other three.
    "groups": Case(Groups, _images, 9, 15),
    "lstm": Case(lambda: Language(nn.LSTM), _tokens, 13, 13),
    "gru": Case(lambda: Language(nn.GRU), _tokens, 13, 13),
    "heads": Case(Heads, lambda: torch.randn(5, 4), 32, 32),
    "tied": Case(Tied, _tokens, 6, 12),
    "fixed-size": Case(FixedSize, lambda: torch.randn(5, 4), 8, 11),  # (4, 3) of 12 is coupled to 3, and frozen
    "reads-values": Case(ReadsValues, lambda: torch.randn(5, 4), 8, 8),
}


def build(name: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[nn.Module, Any]:
    """The network with random weights, biases and statistics, none of them 0 or 1, and its example."""
    torch.manual_seed(seed)
    model = CASES[name].make().to(dtype)
    with torch.no_grad():
        for t in (*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())):
            t.copy_(torch.rand_like(t) + 0.3 if t.ndim == 1 else torch.randn_like(t) * 0.4)
    example = CASES[name].example()
    return model, example.to(dtype) if example.is_floating_point() else example


@cache
def graph_of(name: str) -> Graph:
    """The graph of a network as ``build`` makes it, traced once for all tests that only read it."""
    return trace(*build(name))
