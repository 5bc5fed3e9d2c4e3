"""Scores of nodes against autograd on gates that stand in the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from earlycrop import CRITERIA, trace
from earlycrop.scoring.scores import node_scores, unscorable_nodes, weight_scores
from tests.scoring.smooth import plain, square


class Gated(nn.Module):
    """An MLP with a gate on each hidden unit, before its activation (rows) or after it (columns)."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self.one, self.two, self.out = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 2)
        self.register_buffer("gates", torch.ones(11))

    def forward(self, x: Tensor) -> Tensor:
        c1, c2 = self.gates[:6], self.gates[6:]
        if self.where == "rows":
            return self.out((c2 * self.two((c1 * self.one(x)).tanh())).tanh())
        return self.out(c2 * self.two(c1 * self.one(x).tanh()).tanh())


@pytest.mark.parametrize("where", ["rows", "columns"])
@pytest.mark.parametrize("batches", [1, 2])
@pytest.mark.parametrize("criterion", ["snip", "crop", "crop-gate", "grasp"])
def test_node_scores_are_those_of_explicit_gates(where: str, batches: int, criterion: str) -> None:
    model = plain()
    data = [torch.randn(7, 4, dtype=torch.float64) for _ in range(batches)]
    graph = trace(model, data[0])
    got = node_scores(model, graph, CRITERIA[criterion], lambda m, x: square(m(x), x), data, where)  # type: ignore[arg-type]

    gated = Gated(where).double()
    weights = dict(zip([n for n, _ in gated.named_parameters()], model.parameters(), strict=True))
    gates = torch.ones(11, dtype=torch.float64, requires_grad=True)
    total = sum(square(functional_call(gated, {**weights, "gates": gates}, x), x) for x in data)
    if criterion in ("snip", "crop-gate"):  # dL/dc, and H(c) g(c): gates alone
        (g,) = torch.autograd.grad(total, gates, create_graph=True)
        wanted = g if criterion == "snip" else torch.autograd.grad(g @ g.detach(), gates)[0]
    else:  # the mixed form: d <g_w, dL/dw(c)> / dc, with g_w held fixed; GraSP is that without the g g term
        gw = torch.autograd.grad(total, list(weights.values()), create_graph=True)
        (wanted,) = torch.autograd.grad(sum((g * g.detach()).sum() for g in gw), gates)
    wanted = wanted.detach()
    if criterion == "grasp":
        norms = [g.detach().square() for g in gw]
        w1, b1, w2, b2, w3, _ = norms
        squares = [w1.sum(1) + b1, w2.sum(1) + b2] if where == "rows" else [w2.sum(0), w3.sum(0)]
        wanted = wanted - torch.cat(squares)
    torch.testing.assert_close(got, wanted if criterion == "grasp" else wanted.abs())


def test_a_residual_channel_is_gated_on_all_of_its_producers() -> None:
    """Rows: one gate on both convolutions that add into a channel. Columns: one gate on the sum."""

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.a(x) + self.b(x).tanh())

    model, x = Sum().double(), torch.randn(6, 3, dtype=torch.float64)
    graph = trace(model, x)
    gates = torch.ones(4, dtype=torch.float64, requires_grad=True)
    parameters = dict(model.named_parameters())

    def oracle(forward: Callable[[], Tensor]) -> Tensor:
        gw = torch.autograd.grad(square(forward(), x), list(parameters.values()), create_graph=True)
        return torch.autograd.grad(sum((g * g.detach()).sum() for g in gw), gates)[0].abs()

    rows = oracle(lambda: model.out(gates * model.a(x) + (gates * model.b(x)).tanh()))
    columns = oracle(lambda: model.out(gates * (model.a(x) + model.b(x).tanh())))
    for where, wanted in (("rows", rows), ("columns", columns)):
        got = node_scores(model, graph, CRITERIA["crop"], lambda m, x: square(m(x), x), [x], where)  # type: ignore[arg-type]
        torch.testing.assert_close(got, wanted)


def test_an_lstm_unit_is_scored_where_it_is_consumed() -> None:
    """Its four rows are gates of its own, so a gate on the unit stands on the recurrent and the decoder's columns."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.out = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.rnn(x)[0])

    model, x = Net().double(), torch.randn(2, 5, 3, dtype=torch.float64)
    graph = trace(model, x)
    got = node_scores(model, graph, CRITERIA["snip"], lambda m, x: m(x).square().mean(), [x], "rows")
    g = dict(
        zip(
            dict(model.named_parameters()),
            torch.autograd.grad(model(x).square().mean(), model.parameters()),
            strict=True,
        )
    )
    effect = (model.rnn.weight_hh_l0 * g["rnn.weight_hh_l0"]).sum(0) + (model.out.weight * g["out.weight"]).sum(0)
    torch.testing.assert_close(got, effect.detach().abs())


def test_random_numbers_do_not_depend_on_the_size_of_a_node() -> None:
    model = nn.Sequential(nn.Linear(500, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 2))
    graph = trace(model, torch.zeros(1, 500))
    score = node_scores(model, graph, CRITERIA["random"], lambda m, x: m(x).sum(), [])
    assert abs(float(score[:400].mean()) - 0.5) < 0.1
    assert abs(float(score[400:].mean()) - 0.5) < 0.1
    assert score.unique().numel() > 750


def test_batch_norm_scales_are_summed_over_what_is_coupled_and_nothing_else_counts() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2)
    )
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([0.5, -3.0, 1.0]))
    graph = trace(model, torch.randn(2, 1, 1, 1))
    skipped = unscorable_nodes(model, graph, CRITERIA["norm-scale"])
    assert sorted(skipped) == [3, 4, 5, 6], "no batch norm follows the second layer"
    assert "no batch norm follows it" in str(skipped[3])
    scores = node_scores(model, graph.freeze(skipped), CRITERIA["norm-scale"], square, [])
    assert scores.tolist() == [0.5, 3.0, 1.0]
    plain_network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        plain_network[0].weight.copy_(torch.tensor([[1.0, -2.0], [0.5, 0.0]]))
    graph = trace(plain_network, torch.randn(3, 2))
    assert not unscorable_nodes(plain_network, graph, CRITERIA["norm-scale"])
    assert node_scores(plain_network, graph, CRITERIA["norm-scale"], square, []).tolist() == [3.0, 0.5]


def test_filter_norms_are_ranked_in_their_layer_and_summed_over_what_is_coupled() -> None:
    """A residual stream of three channels: each is made by the stem and by the block, and the norms of both count."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.inner, self.outer = (nn.Linear(2, 3, False), nn.Linear(3, 2, False), nn.Linear(2, 3, False))
            self.head = nn.Linear(3, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.head(x + self.outer(self.inner(x).relu()))

    model = Block()
    with torch.no_grad():
        model.stem.weight.copy_(torch.tensor([[9.0, 0.0], [4.0, 0.0], [5.0, 0.0]]))
        model.outer.weight.copy_(torch.tensor([[0.0, 1.0], [0.0, 3.0], [0.0, 7.0]]))  # sums 10, 7, 12
        model.inner.weight.copy_(torch.tensor([[100.0, 0.0, 0.0], [200.0, 0.0, 0.0]]))
    graph = trace(model, torch.randn(4, 2))
    scores = node_scores(model, graph, CRITERIA["filter-norm"], square, [])
    stream = next(s.nodes for s in graph.axes if s.tensor == "stem.weight" and s.dim == 0)
    inner = next(s.nodes for s in graph.axes if s.tensor == "inner.weight" and s.dim == 0)
    assert scores[stream].tolist() == pytest.approx([2 / 3, 1 / 3, 1.0])
    assert scores[inner].tolist() == pytest.approx([1 / 2, 1.0]), "large norms in one layer do not spare it"


class GatedNorm(nn.Module):
    """A convolution and a batch norm with a gate on each channel after the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.out = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)
        self.register_buffer("gates", torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        gates = self.gates if self.gates.requires_grad else 1.0  # ones of a fixed width would freeze it in a trace
        return self.out((gates * self.norm(self.conv(x))).tanh())


@pytest.mark.parametrize("batch_statistics", [False, True])
@pytest.mark.parametrize("criterion", ["snip", "crop"])
def test_a_gate_after_the_norm_is_its_scale_and_shift(criterion: str, batch_statistics: bool) -> None:
    """By autograd on a gate that stands there: dL/dc, and d<g, dL/dw>/dc over the norm's parameters."""
    torch.manual_seed(2)
    model, x = GatedNorm().double(), torch.randn(9, 4, dtype=torch.float64)
    with torch.no_grad():
        for t in (model.norm.weight, model.norm.bias, model.norm.running_mean, model.norm.running_var):
            t.uniform_(0.5, 1.5)
    graph = trace(model, x)
    assert graph.count == 6
    scores = node_scores(
        model, graph, CRITERIA[criterion], lambda m, b: square(m(b), b), [x], "norms", batch_statistics
    )
    model.train(batch_statistics)
    gates = torch.ones(6, dtype=torch.float64, requires_grad=True)
    parameters = dict(model.named_parameters())
    output = functional_call(model, {**parameters, "gates": gates}, (x,))
    value = square(output, x)
    if criterion == "snip":
        (expected,) = torch.autograd.grad(value, gates)
    else:
        every = list(parameters.values())
        plain_gradients = torch.autograd.grad(square(model(x), x), every)
        gradients = torch.autograd.grad(value, every, create_graph=True)
        flow = sum((g.detach() * h).sum() for g, h in zip(plain_gradients, gradients, strict=True))
        (expected,) = torch.autograd.grad(flow, gates)
    torch.testing.assert_close(scores, expected.abs())


class Spectral(nn.Module):
    """A complex matrix, whose nodes are its columns."""

    def __init__(self) -> None:
        super().__init__()
        self.wave = nn.Parameter(torch.randn(8, 6, dtype=torch.complex128) * 0.3)
        self.out = nn.Linear(6, 4, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.out((x.to(torch.complex128) @ self.wave).abs().relu())


def test_scores_of_complex_nodes_are_derivatives_by_real_gates() -> None:
    torch.manual_seed(0)
    model, x = Spectral(), torch.randn(5, 8, dtype=torch.float64)

    def squared(m: nn.Module, batch: Tensor) -> Tensor:
        return m(batch).square().mean()

    gates = torch.ones(6, dtype=torch.float64, requires_grad=True)
    gated = model.wave * gates
    value = functional_call(model, {"wave": gated}, (x,)).square().mean()
    gradients = torch.autograd.grad(value, [gated, *model.out.parameters()], create_graph=True)
    (first,) = torch.autograd.grad(value, gates, retain_graph=True)
    along = sum((g.detach().conj() * g).real.sum() for g in gradients)
    second = torch.autograd.grad(along, gates)[0]  # w Hg, without the term of crop that is g g
    graph = trace(model, x)
    scores = {name: node_scores(model, graph, CRITERIA[name], squared, [x], "rows") for name in ("snip", "crop-flow")}
    torch.testing.assert_close(scores["snip"], first.abs())
    torch.testing.assert_close(scores["crop-flow"], second.abs())
    weights = weight_scores(model, CRITERIA["snip"], squared, [x])["wave"]
    assert not weights.is_complex()
    assert weights.shape == (8, 6)
    flow_through = weight_scores(model, CRITERIA["synflow"], squared, [x])["wave"]
    assert bool((flow_through > 0).all())


@pytest.mark.parametrize("batches", [1, 2])
def test_a_flow_of_matrices_alone_is_that_of_the_authors_code(batches: int) -> None:
    """Nodes: d/dc sum(g_W * g_W(c)) with gates c on the first layer's outputs; weights: w d/dw of sum(g_W * g_W)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    data = [torch.randn(6, 4, dtype=torch.float64) for _ in range(batches)]

    def squared(m: nn.Module, x: Tensor) -> Tensor:
        return m(x).square().sum()

    first, _, last = model
    weights = [first.weight, last.weight]
    gates = torch.ones(5, dtype=torch.float64, requires_grad=True)
    g = torch.autograd.grad(sum(squared(model, x) for x in data), weights)
    gated = sum(last((first(x) * gates).tanh()).square().sum() for x in data)
    with_graph = torch.autograd.grad(gated, weights, create_graph=True)
    flow_of_gates = sum((a * b).sum() for a, b in zip(g, with_graph, strict=True))
    by_gates, *by_weights = torch.autograd.grad(flow_of_gates, [gates, *weights])  # type: ignore[list-item]
    criterion = replace(CRITERIA["crop"], matrices_only=True)
    nodes = node_scores(model, trace(model, data[0]), criterion, squared, data, "rows")
    torch.testing.assert_close(nodes, by_gates.abs())
    scores = weight_scores(model, criterion, squared, data)
    for w, product, score in zip(weights, by_weights, scores.values(), strict=True):
        torch.testing.assert_close(score, (w * product).detach().abs())
