"""Sizes that follow a cut in many modules of one kind, and in the module that is given the channels."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from earlycrop import shrink, trace
from tests.oracles import certified


class Widening(nn.Module):
    """A block that adds its input to the first of its channels, as in ReXNet."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_channels = width
        self.hidden, self.out = nn.Linear(width, 5), nn.Linear(5, width + 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.out(self.hidden(x).tanh())
        return torch.cat([y[:, : self.in_channels] + x, y[:, self.in_channels :]], 1)


def test_a_width_follows_in_more_blocks_than_attributes_are_searched() -> None:
    """The blocks have different widths, and a search of one attribute finds those of all."""
    widths = range(5, 23, 3)
    model = nn.Sequential(nn.Linear(6, 5), *map(Widening, widths), nn.Linear(23, 2)).double()
    certified(model, torch.randn(5, 6, dtype=torch.float64), 5 + len(widths) * (5 + 3))
    blocks = [m for m in model if isinstance(m, Widening)]
    assert [m.in_channels for m in blocks] == [m.hidden.in_features for m in blocks] != list(widths)


class Similarities(nn.Module):
    """Compares positions by features that no other layer of its own consumes."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 8
        self.embed = nn.Sequential(nn.Linear(6, 8), nn.Tanh())
        self.out = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        features = self.embed(x).view(-1, 5, self.width)
        return self.out(features @ features.transpose(-1, -2))


def test_a_size_follows_outside_the_module_that_has_the_channels() -> None:
    model = Similarities().double()
    certified(model, torch.randn(2, 5, 6, dtype=torch.float64), 8)
    assert model.width == model.embed[0].out_features < 8


class Parts(nn.Module):
    """Linear layers, each on a part of the channels, whose sizes are listed, as in MixNet."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.sizes = [width // 2, width // 2]
        self.parts = nn.ModuleList(nn.Linear(size, outputs) for size in self.sizes)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(y) for part, y in zip(self.parts, x.split(self.sizes, 1), strict=True)], 1)


class PartsBlock(nn.Module):
    """Widens its input, and takes each half of the wide features by a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.widen, self.narrow = nn.Linear(6, 24), Parts(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(self.widen(x).tanh())  # type: ignore[no-any-return]


def test_sizes_of_parts_follow_the_layer_of_their_own_block() -> None:
    """The blocks are of one size: an attribute that follows another block's layer fits as long as both lose as much."""
    model = nn.Sequential(nn.Linear(5, 6), *(PartsBlock() for _ in range(3)), nn.Linear(6, 2)).double()
    graph = trace(model, torch.randn(4, 5, dtype=torch.float64))
    assert graph.count == 6 + 3 * 12
    removed = [i for i in range(graph.count) if graph.nodes[i].layer == "1.widen"][:5]
    small = copy.deepcopy(model)
    shrink(small, graph, removed)
    blocks = [block for block in small if isinstance(block, PartsBlock)]
    assert [sum(block.narrow.sizes) for block in blocks] == [14, 24, 24]
