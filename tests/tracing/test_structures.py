"""Structures of networks that are cut as a whole: heads and their parts, feature maps, pixel shuffles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from earlycrop import shrink, trace
from tests.oracles import certified, some_nodes
from tests.toy import Net

Rotation = Callable[[Tensor], Tensor]
SEQUENCE = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0)).double()


def projections(**widths: int) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {name: nn.Linear(32, width) for name, width in widths.items()}


def attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Each (N, H, T, D); the output is (N, T, H D), and the weights are (N, H, T, T)."""
    weights = (q @ k.mT / 3).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2), weights


class Attention(nn.Module):
    """Attention that returns its weights beside its output, with the number of heads in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.head_dim = 4, 8
        self.q, self.k, self.v, self.out = (nn.Linear(32, 32) for _ in range(4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shape = (*x.shape[:2], self.num_heads, self.head_dim)
        y, weights = attend(*(f(x).view(shape).transpose(1, 2) for f in (self.q, self.k, self.v)))
        return self.out(y.reshape(*x.shape[:2], self.num_heads * self.head_dim)), weights


def test_heads_of_an_attention_go_if_the_weights_that_it_returns_are_dropped() -> None:
    model = Net(lambda self, x: self.out(x + self.attention(x)[0]), attention=Attention(), out=nn.Linear(32, 3))
    certified(model.double(), SEQUENCE, 4)
    assert model.attention.num_heads == model.attention.out.in_features // 8 < 4


def test_heads_stay_if_the_model_returns_the_weights_of_its_attention() -> None:
    graph = trace(Net(lambda self, x: self.attention(x), attention=Attention()).double(), SEQUENCE)
    assert graph.count == 0
    assert "the model returns it" in graph.report()


ROTATIONS: dict[str, Rotation] = {
    "half of a head": lambda t: torch.cat([t[..., :4] * 0.5, t[..., 4:]], -1),
    "a quarter of a head": lambda t: torch.cat([t[..., :2] * 0.5, t[..., 2:]], -1),
    "three channels of a head": lambda t: torch.cat([t[..., :3] * 0.5, t[..., 3:]], -1),
    "every other channel": lambda t: torch.stack((-t[..., 1::2], t[..., ::2]), -1).flatten(-2) + t,
    "every other channel of a part": lambda t: torch.cat(
        [ROTATIONS["every other channel"](t[..., :6]), t[..., 6:]], -1
    ),
}


@pytest.mark.parametrize("name", list(ROTATIONS))
def test_whole_heads_go_if_their_parts_are_treated_differently(name: str) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (-1, 8)).transpose(1, 2) for f in (self.q, self.k, self.v))
        return self.out(attend(ROTATIONS[name](q), ROTATIONS[name](k), v)[0])

    certified(Net(forward, **projections(q=32, k=32, v=32, out=3)).double(), SEQUENCE, 4)


def test_pairs_of_channels_go_if_each_channel_gates_its_neighbour() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        gates_and_values = self.up(x)
        return self.out(gates_and_values[..., ::2].sigmoid() * gates_and_values[..., 1::2])

    model = Net(forward, up=nn.Linear(32, 24), out=nn.Linear(12, 3)).double()
    assert certified(model, SEQUENCE, 12).nodes[0].owns[0] == ("up.weight", 0, (0, 1))


def test_heads_go_from_compressed_keys_and_values_with_a_part_that_all_heads_share() -> None:
    """Multi-head latent attention: keys are 6 channels of a head and 4 that are the same for all heads."""

    def forward(self: Any, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (-1, 10)).transpose(1, 2)
        latent, shared = self.down(x).split([12, 4], -1)
        k, v = self.up(latent).unflatten(-1, (-1, 6 + 8)).transpose(1, 2).split([6, 8], -1)
        k = torch.cat([k, shared[:, None].expand(*k.shape[:-1], -1)], -1)
        return self.out(attend(q, k, v)[0])

    model = Net(forward, **projections(q=40, down=16), up=nn.Linear(12, 56), out=nn.Linear(32, 3)).double()
    certified(model, SEQUENCE, 4)


def test_groups_of_channels_go_before_a_pixel_shuffle() -> None:
    layers = nn.Conv2d(3, 24, 3, padding=1), nn.PixelShuffle(2), nn.ReLU(), nn.Conv2d(6, 3, 3, padding=1)
    graph = certified(nn.Sequential(*layers).double(), torch.randn(2, 3, 4, 4).double(), 6)
    assert graph.nodes[1].owns[0] == ("0.weight", 0, (4, 5, 6, 7))


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_feature_maps_go_that_a_linear_layer_makes(normed: bool, transposed: bool) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.out(self.norm(self.fc(x).relu().view(len(x), -1, 4, 4)))

    norm = nn.BatchNorm2d(8) if normed else nn.Identity()
    out = nn.ConvTranspose2d(8, 3, 4, 2, 1) if transposed else nn.Conv2d(8, 3, 3)
    graph = certified(Net(forward, fc=nn.Linear(10, 128), norm=norm, out=out).double(), torch.randn(2, 10).double(), 8)
    assert graph.nodes[1].owns[0] == ("fc.weight", 0, tuple(range(16, 32)))


def test_the_samples_of_a_convolution_stay() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        hidden = self.fc(x)  # each of the 6 channels is convolved by itself
        return self.out(hidden) + self.conv(hidden.mT.reshape(-1, 1, 5)).reshape(2, -1).mean(1)[:, None, None]

    graph = trace(Net(forward, fc=nn.Linear(32, 6), conv=nn.Conv1d(1, 1, 3), out=nn.Linear(6, 3)).double(), SEQUENCE)
    assert graph.count == 0
    assert "it runs along the samples of a convolution" in graph.report()


class Experts(nn.Module):
    """A mixture of experts in two stacks of matrices. The rows are sorted by expert, and each uses one."""

    def __init__(self, hidden: int, interleaved: bool) -> None:
        super().__init__()
        self.first, self.router, self.interleaved = nn.Linear(6, 16), nn.Linear(16, 3), interleaved
        self.up = nn.Parameter(torch.randn(3, 2 * hidden, 16))
        self.down = nn.Parameter(torch.randn(3, 16, hidden))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        weights, choice = self.router(x).softmax(-1).max(-1)
        expert, order = choice.sort()
        ends = torch.histc(expert.float(), bins=3, min=0, max=2).cumsum(0, dtype=torch.int32)
        hidden = functional.grouped_mm(x[order], self.up.mT, offs=ends)
        gate, value = (hidden[:, ::2], hidden[:, 1::2]) if self.interleaved else hidden.chunk(2, -1)
        y = functional.grouped_mm(functional.silu(gate) * value, self.down.mT, offs=ends)
        return x + (y * weights[order, None])[order.argsort()]


@pytest.mark.skipif(not hasattr(functional, "grouped_mm"), reason="torch has no grouped matrix product")
@pytest.mark.parametrize(("interleaved", "hidden", "nodes"), [(False, 48, 6), (True, 48, 6), (False, 20, 0)])
def test_experts_in_one_stack_of_matrices_lose_hidden_units_by_eights(
    interleaved: bool, hidden: int, nodes: int
) -> None:
    """Eight units are 16 rows of the first matrix, gates and values, and 8 columns of the second."""
    torch.manual_seed(0)
    model, x = Experts(hidden, interleaved), torch.randn(40, 6)
    graph = trace(model, x)
    assert graph.count == nodes
    if nodes:
        assert shrink(model, graph, some_nodes(graph, 0.5, 0)).difference <= 1e-5  # type: ignore[operator]
        assert model.up.shape[1] == 2 * model.down.shape[2] < 2 * hidden
        model(x).sum().backward()
    assert "which of these matrices is used is decided by data" in str([axis.reasons for axis in graph.axes])


class GroupedQueries(nn.Module):
    """Attention with one projection, whose keys and values have fewer heads than its queries."""

    def __init__(self, queries: int, keys: int) -> None:
        super().__init__()
        self.q_size, self.kv_size = 8 * queries, 8 * keys
        self.qkv, self.out = nn.Linear(32, 8 * (queries + 2 * keys)), nn.Linear(8 * queries, 32)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(x).split([self.q_size, self.kv_size, self.kv_size], -1)
        q, k, v = (t.unflatten(-1, (-1, 8)).transpose(1, 2) for t in parts)
        k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
        return self.out(attend(q, k, v)[0])


class Sliced(GroupedQueries):
    """The same by slices, of which the first may be one of two halves."""

    def forward(self, x: Tensor) -> Tensor:
        h, end = self.qkv(x), self.q_size + self.kv_size
        parts = h[..., : self.q_size], h[..., self.q_size : end], h[..., end:]
        q, k, v = (t.unflatten(-1, (-1, 8)).transpose(1, 2) for t in parts)
        k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
        return self.out(attend(q, k, v)[0])


@pytest.mark.parametrize("kind", [GroupedQueries, Sliced])
@pytest.mark.parametrize(("queries", "keys"), [(6, 3), (4, 2), (8, 4), (6, 2)])
def test_groups_of_heads_go_from_one_projection_of_queries_keys_and_values(kind: Any, queries: int, keys: int) -> None:
    model = kind(queries, keys).double()
    certified(model, SEQUENCE, keys)
    assert (model.q_size, model.kv_size) == (model.out.in_features, model.out.in_features * keys // queries)
    assert model.kv_size < 8 * keys
