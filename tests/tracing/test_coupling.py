"""Which channels a trace says can go, with which others, and why some cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from earlycrop import shrink, trace
from tests.oracles import certified
from tests.toy import Net, drop_unused


def attention(x: Tensor, net: Any, heads: int) -> Tensor:
    q, k, v = (t.view(*x.shape[:2], heads, -1).transpose(1, 2) for t in net.qkv(x).chunk(3, -1))
    y = (q @ k.transpose(-1, -2) / 2).softmax(-1) @ v
    out: Tensor = net.b(y.transpose(1, 2).flatten(2))
    return out


def linear_attention(x: Tensor, net: Any) -> Tensor:
    q, k = functional.elu(net.a(x)) + 1, functional.elu(net.k(x)) + 1
    return net.b((q @ k.transpose(1, 2)) @ net.v(x))  # type: ignore[no-any-return]


def shifted_attention(x: Tensor, net: Any) -> Tensor:
    """After a batch norm: what is known of its statistics says nothing of other tensors."""
    v, scale = net.v(x).mT, net.v.bias
    v = functional.batch_norm(v, v.new_zeros(8), v.new_ones(8), scale, scale).mT
    q, k = net.a(x) + x[..., :1], net.k(x) + x[..., :1]
    return net.b((q @ k.transpose(1, 2)) @ v)  # type: ignore[no-any-return]


def sampled(x: Tensor, net: Any) -> Tensor:
    std = net.k(x).exp()
    return net.b(net.a(x) + std * torch.randn_like(std))  # type: ignore[no-any-return]


def written(x: Tensor, net: Any) -> Tensor:
    """Two of eight channels; of four that are left, all coupled, two would be another share."""
    x = net.a(x)
    x[..., :2].tanh_()
    return net.b(x)  # type: ignore[no-any-return]


FROZEN: dict[str, tuple[Callable[[Tensor, Any], Tensor], str]] = {
    "a roll along channels": (lambda x, n: n.b(n.a(x).roll(1, -1)), "it is rolled along"),
    "heads": (lambda x, n: attention(x, n, 2), "a size seems to be hard-coded in it"),
    "slices": (lambda x, n: n.b(torch.cat([n.a(x)[..., :4].tanh(), n.a(x)[..., 4:]], -1)), "parts of different sizes"),
    "a small slice": (written, "parts of different sizes"),
    "groups of a norm": (
        lambda x, n: n.b(functional.group_norm(n.a(x).mT, 2).mT),
        "channels that were coupled are separate",
    ),
    "a masked key is not zero": (linear_attention, "a product of two activations is summed over it"),
    "nor is a shifted one": (shifted_attention, "a product of two activations is summed over it"),
    "random numbers": (sampled, "random numbers are drawn for it"),
    "a scale": (lambda x, n: n.b(n.a(x) * n.a(x).shape[-1] ** -0.5), "taken from its own width"),
    "a scale in a tensor": (lambda x, n: n.b(n.a(x) / torch.tensor(n.a(x).shape[-1])), "taken from its own width"),
}


def net(forward: Callable[[Tensor, Any], Tensor], **more: Any) -> Net:
    torch.manual_seed(0)
    layers = {"a": nn.Linear(6, 8), "k": nn.Linear(6, 8), "v": nn.Linear(6, 8), "qkv": nn.Linear(6, 24)}
    model = Net(lambda self, x: forward(x, self), **layers, b=nn.Linear(8, 3))
    for name, value in more.items():
        setattr(model, name, value)
    return drop_unused(model, torch.randn(2, 3, 6)).double()


@pytest.mark.parametrize("name", list(FROZEN))
def test_channels_whose_cut_would_change_the_meaning_are_frozen(name: str) -> None:
    forward, why = FROZEN[name]
    graph = trace(net(forward), torch.randn(2, 3, 6).double())
    columns = next(s for s in graph.axes if s.tensor == "b.weight" and s.dim == 1)
    if forward in (linear_attention, shifted_attention):  # the values may go, the keys may not
        columns = next(s for s in graph.axes if s.tensor == "k.weight" and s.dim == 0)
    assert (columns.nodes < 0).all()
    assert why in graph.report() + str(columns.reasons)


def test_a_number_of_groups_or_heads_that_a_module_keeps_follows() -> None:
    model = nn.Sequential(nn.Conv1d(3, 16, 1), nn.GroupNorm(4, 16, affine=False), nn.Conv1d(16, 3, 1)).double()
    certified(model, torch.randn(2, 3, 5).double(), 4)
    assert model[1].num_groups == model[0].out_channels // 4 < 4
    attention_net = net(lambda x, n: attention(x, n, n.heads), heads=4)
    certified(attention_net, torch.randn(2, 3, 6).double(), 4)
    assert attention_net.heads == attention_net.b.in_features // 2 < 4


def test_matrices_under_weight_norm_lose_rows() -> None:
    normed = parametrizations.weight_norm
    model = nn.Sequential(nn.Linear(4, 8), normed(nn.Linear(8, 9)), nn.ReLU(), nn.Linear(9, 2)).double()
    graph = certified(model, torch.randn(5, 4).double(), 9)
    assert "a norm of weights is taken over it" in graph.report()

    def attend(x: Tensor, n: Any) -> Tensor:
        return n.b((n.q(x) @ n.keys(x).mT).softmax(-1) @ n.v(x))  # type: ignore[no-any-return]

    wide = net(attend, q=normed(nn.Linear(6, 7)), keys=normed(nn.Linear(6, 7)))
    certified(wide, torch.randn(2, 3, 6).double(), 7 + 8)


def test_grouped_transposed_convolutions_lose_groups_or_positions() -> None:
    x = torch.randn(2, 3, 5).double()
    wide = nn.ConvTranspose1d(8, 12, 3, groups=2)
    few = nn.Sequential(nn.Conv1d(3, 8, 1), nn.ReLU(), wide, nn.ReLU(), nn.Conv1d(12, 2, 1)).double()
    certified(few, x, 4 + 6)
    many = nn.Sequential(nn.Conv1d(3, 8, 1), nn.ConvTranspose1d(8, 16, 3, groups=8), nn.Conv1d(16, 2, 1)).double()
    certified(many, x, 8)


@pytest.mark.parametrize("kind", [lambda x: functional.glu(x, 1), lambda x: functional.channel_shuffle(x, 2)])
def test_gates_and_shuffles_are_cut_through(kind: Callable[[Tensor], Tensor]) -> None:
    first, width = nn.Conv2d(3, 8, 1), kind(torch.zeros(1, 8, 2, 2)).shape[1]
    model = Net(lambda self, x: self.b(kind(self.a(x))), a=first, b=nn.Conv2d(width, 2, 1)).double()
    certified(model, torch.randn(2, 3, 4, 4).double(), 4)


def test_a_factored_matrix_loses_rank_and_indices_leave_the_other_dimensions_free() -> None:
    low = Net(lambda self, x: x @ (self.u @ self.v)).double()
    low.u, low.v = nn.Parameter(torch.randn(6, 5).double()), nn.Parameter(torch.randn(5, 3).double())
    certified(low, torch.randn(4, 6).double(), 5)
    table = Net(lambda self, x: self.b(self.t[x].relu()), b=nn.Linear(8, 3)).double()
    table.t = nn.Parameter(torch.randn(11, 8).double())
    graph = trace(table, torch.randint(0, 11, (2, 5)))
    assert graph.count == 8
    assert shrink(table, graph, [0, 3]).difference <= 1e-10  # type: ignore[operator]


class Pointer(nn.Module):
    """A word is copied from where an attention points, or drawn from the vocabulary; a trained sentinel is the gate."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.rnn = nn.Embedding(11, 6), nn.LSTM(6, 9, batch_first=True)
        self.query, self.key, self.words = nn.Linear(9, 7), nn.Linear(9, 7), nn.Linear(9, 11)
        self.sentinel = nn.Parameter(torch.randn(7))

    def forward(self, tokens: Tensor) -> Tensor:
        states = self.rnn(self.embedding(tokens))[0]
        query = self.query(states[:, -1]).tanh()
        scores = torch.cat([self.key(states) @ query[..., None], (query @ self.sentinel)[:, None, None]], 1)[..., 0]
        shares = scores.softmax(1)
        drawn = shares[:, -1:] * self.words(states[:, -1]).softmax(1)
        return drawn.scatter_add(1, tokens, shares[:, :-1]).log()


def test_a_pointer_network_loses_embedding_width_hidden_units_and_projections() -> None:
    torch.manual_seed(0)
    model, tokens = Pointer().double(), torch.randint(0, 11, (3, 5))
    certified(model, tokens, 6 + 9 + 7)
    assert model.rnn.hidden_size < 9
    assert model.query.out_features == model.key.out_features == len(model.sentinel) < 7


@pytest.mark.parametrize(
    ("write", "why"), [("slice", "different sizes"), ("select", "only go together"), ("scatter", "not understood")]
)
def test_a_constant_that_is_written_into_is_constant_no_more(write: str, why: str) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        hidden = self.a(x)
        scale = torch.ones_like(hidden)
        if write == "slice":
            scale[:, 1::3] = -1.0
        elif write == "select":
            scale[:, 0] = 3.0
        else:
            scale = scale.scatter(1, torch.zeros(len(x), 1, dtype=torch.long), -2.0)
        return self.b((hidden * scale).relu())

    model = Net(forward, a=nn.Linear(6, 16), b=nn.Linear(16, 3))
    graph = trace(model, torch.randn(4, 6))
    assert graph.count == 0
    assert why in graph.report()


def test_channels_that_can_only_go_together_are_not_removable() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.GroupNorm(1, 16), nn.ReLU(), nn.Conv2d(16, 3, 1), nn.Flatten())
    graph = trace(model, torch.randn(2, 3, 5, 5))
    assert graph.count == 0
    assert "all its channels can only go together" in graph.report()
