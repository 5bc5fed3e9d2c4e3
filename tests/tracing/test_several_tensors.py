"""Rules for operations on several tensors: message passing, lookups by index, writes, packed sequences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from earlycrop import shrink, trace
from tests.oracles import certified, some_nodes
from tests.tracing.layers import Forward, net, rows

EDGES = torch.tensor([[0, 1, 2, 3, 4, 5, 0], [1, 0, 3, 2, 5, 4, 3]])
SOURCE, TARGET = EDGES


def adjacency() -> Tensor:
    ones = torch.ones(7, dtype=torch.float64)
    return torch.sparse_coo_tensor(EDGES.flip(0), ones, (6, 6), check_invariants=True).coalesce()


def sums(y: Tensor) -> Tensor:
    """Zeros with a row a node."""
    return y.new_zeros(6, y.shape[1])


def mean_of_neighbours(y: Tensor) -> Tensor:
    degree = torch.zeros(6, dtype=y.dtype).index_add_(0, TARGET, torch.ones(7, dtype=y.dtype))
    return torch.zeros_like(y).index_add_(0, TARGET, y[SOURCE]) / degree.clamp(1)[:, None]


def attended(y: Tensor) -> Tensor:
    """Weights of the edges from the features of both ends, with indices that are repeated along the channels."""
    score = (y[SOURCE] * y[TARGET]).tanh()
    to = TARGET[:, None].repeat(1, y.shape[1])
    return sums(y).scatter_add_(0, to, score * y[SOURCE]) / (1 + sums(y).scatter_add_(0, to, score.abs()))


def wide(y: Tensor) -> Tensor:
    return TARGET[:, None].expand_as(y)


MESSAGES: dict[str, Callable[[Tensor], Tensor]] = {
    "scatter_add": lambda y: sums(y).scatter_add(0, wide(y[SOURCE]), y[SOURCE]),
    "scatter_reduce": lambda y: sums(y).scatter_reduce(0, wide(y[SOURCE]), y[SOURCE], "amax", include_self=False),
    "scatter": lambda y: y.scatter(0, wide(y[SOURCE]), y[SOURCE].sin()),
    "index_add": lambda y: sums(y).index_add(0, TARGET, y[SOURCE]),
    "index_reduce": lambda y: y.index_reduce(0, TARGET, y[SOURCE], "mean"),
    "index_copy": lambda y: y.index_copy(0, TARGET[:3], y[SOURCE[:3]].sin()),
    "index_put": lambda y: sums(y).index_put((TARGET,), y[SOURCE], accumulate=True),
    "mean": mean_of_neighbours,
    "attention": attended,
    "sparse.mm": lambda y: torch.sparse.mm(adjacency(), y),
    "sparse @": lambda y: adjacency() @ y,
    "sparse rows": lambda y: adjacency().to_sparse_csr() @ y,
    "sparse.mm of the mean": lambda y: torch.sparse.mm(adjacency().to_sparse_csr(), y, "mean"),
    "sparse.addmm": lambda y: torch.sparse.addmm(y, adjacency(), y.sin()),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR:UserWarning", "ignore:index_reduce.*beta:UserWarning")
@pytest.mark.parametrize("name", list(MESSAGES))
def test_messages_along_edges_leave_the_features_removable(name: str) -> None:
    passing = MESSAGES[name]
    certified(net(lambda self, x: self.b(passing(self.a(x).tanh()).relu())), rows(), 8)


@pytest.mark.filterwarnings("ignore:Sparse CSR:UserWarning")
@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_a_sparse_adjacency_may_be_a_buffer(layout: str) -> None:
    model = net(lambda self, x: self.b((self.adjacency @ self.a(x)).relu()))
    model.register_buffer("adjacency", adjacency() if layout == "coo" else adjacency().to_sparse_csr())
    certified(model, rows(), 8)
    assert model.adjacency._nnz() == 7


def test_the_cost_of_a_sparse_product_is_that_of_its_entries() -> None:
    graph = trace(net(lambda self, x: self.b(torch.sparse.mm(adjacency(), self.a(x)))), rows())
    assert graph.cost("macs") == 6 * 5 * 8 + 7 * 8 + 6 * 8 * 3


def collect(self: Any, x: Tensor) -> Tensor:
    """The states of a recurrence, each written into a row of zeros."""
    state = self.a(x)
    states = torch.zeros(4, 6, self.width, dtype=x.dtype)
    for t in range(4):
        state = state + self.c(x * t).tanh()
        states[t] = state
    return self.b(states)


def collect_as_wide(self: Any, x: Tensor) -> Tensor:
    y = self.a(x)
    states = y.new_zeros(6, 2, y.shape[1])
    states[:, 0], states[:, 1] = y.sin(), self.c(x)
    return self.b(states)


def write_rows(self: Any, x: Tensor) -> Tensor:
    y = self.a(x).clone()
    y[2:4] = self.c(x)[:2]
    y[[0, 1]] += self.c(x)[4:]
    y[y > 1] = 1.0
    return self.b(y)


def fill_empty(self: Any, x: Tensor) -> Tensor:
    ones, zeros = x.new_empty(6, self.width), x.new_zeros(6, self.width)
    return self.b(self.a(x) * ones.fill_(1) + zeros.add_(self.c(x)))  # type: ignore[no-any-return]


WRITES: dict[str, Forward] = {"states": collect, "as wide": collect_as_wide, "rows": write_rows, "whole": fill_empty}


@pytest.mark.parametrize("name", list(WRITES))
def test_writes_couple_what_they_write_with_the_rest(name: str) -> None:
    model = net(WRITES[name])
    model.width = 8
    certified(model, rows(), 8)


def looked_up(self: Any, x: Tensor) -> Tensor:
    """Whether each channel is positive says which row of a table is added."""
    return self.b(self.table((self.a(x) > 0).long()).sum(1))


FROZEN: dict[str, tuple[Forward, str]] = {
    "half of the channels": (lambda self, x: part(x, self.a(x)), "it is written into a part of another tensor"),
    "data into the rest": (lambda self, x: self.b(rest(self.a(x), x)), "it meets a tensor of a fixed size"),
    "a table by channels": (looked_up, "it is summed, averaged or compared over"),
    "an order of channels": (
        lambda self, x: self.b(self.a(x).index_select(1, self.c(x).mean(0).argsort())),
        "it is looked up by index",
    ),
    "another order of channels": (
        lambda self, x: self.b(self.a(x).gather(1, self.c(x).argsort(1))),
        "looked up by index",
    ),
    "a mask of data": (lambda self, x: self.b(masked(self.a(x))), "it meets a tensor of a fixed size"),
    "fewer indices": (lambda self, x: self.b(fewer(self.a(x))), "it is looked up by index"),
}


def part(x: Tensor, y: Tensor) -> Tensor:
    wide = x.new_zeros(6, 16)
    wide[:, :8] = y
    return wide.sin() @ x.new_ones(16, 3)


def rest(y: Tensor, x: Tensor) -> Tensor:
    y = y.clone()
    y[2:4] = torch.arange(8, dtype=x.dtype)
    return y


def masked(y: Tensor) -> Tensor:
    y = y.clone()
    y[torch.arange(48).view(6, 8) % 5 == 0] = 0.0
    return y


def fewer(y: Tensor) -> Tensor:
    return y.scatter(0, torch.zeros(1, 1, dtype=torch.long).expand(1, 4), y[:, :8].sin())


@pytest.mark.parametrize("name", list(FROZEN))
def test_what_reads_or_writes_some_channels_only_freezes_them(name: str) -> None:
    forward, why = FROZEN[name]
    model = net(forward, table=nn.Embedding(2, 8))
    axis = trace(model, rows()).axis["a.weight", 0]
    assert (axis.nodes < 0).all()
    assert why in axis.reasons[0].why


def test_a_buffer_that_was_filled_in_part_is_zero_no_longer() -> None:
    """A masked channel of keys is 1 in the first row, so that it counts in the product of keys and queries."""

    def forward(self: Any, x: Tensor) -> Tensor:
        keys, queries = self.a(x), self.c(x) + 1
        keys[0] = 1.0
        return (queries @ keys.T).softmax(-1)

    graph = trace(net(forward), rows())
    assert (graph.axis["a.weight", 0].nodes < 0).all()
    assert "a product of two activations" in graph.axis["a.weight", 0].reasons[0].why


class Tagger(nn.Module):
    """Tokens of several lengths, packed for an LSTM."""

    def __init__(self, batch_first: bool, is_sorted: bool) -> None:
        super().__init__()
        self.batch_first, self.is_sorted = batch_first, is_sorted
        self.embedding, self.out = nn.Embedding(30, 16), nn.Linear(24, 5)
        self.lstm = nn.LSTM(16, 24, batch_first=batch_first)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        embedded = self.embedding(tokens)
        packed = pack_padded_sequence(embedded, lengths, self.batch_first, enforce_sorted=self.is_sorted)
        return self.out(pad_packed_sequence(self.lstm(packed)[0], self.batch_first)[0])  # type: ignore[no-any-return]


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("is_sorted", [True, False])
def test_a_packed_lstm_and_the_embedding_before_it_lose_width(batch_first: bool, is_sorted: bool) -> None:
    torch.manual_seed(0)
    model = Tagger(batch_first, is_sorted).double()
    lengths = torch.tensor([7, 5, 3, 1] if is_sorted else [3, 7, 1, 5])
    tokens = torch.randint(1, 30, (4, 7) if batch_first else (7, 4))
    graph = trace(model, (tokens, lengths))
    assert graph.count == 24 + 16
    cut = shrink(model, graph, some_nodes(graph, 0.5, 0))
    assert cut.difference is not None
    assert cut.difference <= 1e-10
