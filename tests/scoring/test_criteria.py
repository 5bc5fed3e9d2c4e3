"""Scores of weights against numbers worked out by hand, and what holds of every criterion."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from earlycrop import CRITERIA, FlowError, Pruner, trace
from earlycrop.scoring.scores import node_scores, weight_scores
from tests.scoring.smooth import plain, square

A = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=torch.float64)


def quadratic(model: nn.Module, batch: float) -> Tensor:
    """1/2 w A w: at w = (1, -2), g = A w = (0, -5) and Hg = A g = (-5, -15)."""
    w = model.weight[0]
    return batch * 0.5 * w @ A @ w


@pytest.mark.parametrize(
    ("criterion", "scores"),
    [
        ("magnitude", [1.0, 2.0]),
        ("snip", [0.0, 10.0]),  # |w g|
        ("grasp", [-5.0, 30.0]),  # w Hg, with its sign
        ("crop", [5.0, 30.0]),  # |w Hg|
        # a gate on each weight: g(c) = w g = (0, 10); v = w g(c) = (0, -20); H v = A v = (-20, -60); w H v
        ("crop-gate", [20.0, 120.0]),
        ("taylor", [0.0, 100.0]),  # (w g)^2
        ("norm-scale", [1.0, 2.0]),
        ("filter-norm", [1.0, 2.0]),
    ],
)
def test_scores_worked_out_by_hand(criterion: str, scores: list[float]) -> None:
    model = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0]]))
    assert weight_scores(model, CRITERIA[criterion], quadratic, [1.0])["weight"].tolist() == [scores]


def test_grasp_removes_first_what_raises_the_gradient_flow_most() -> None:
    """The true rise of |g|^2 when a weight is made smaller by a thousandth, for each weight in turn."""
    torch.manual_seed(3)
    b = torch.randn(5, 5, dtype=torch.float64)
    a = b @ b.T
    model = nn.Linear(5, 1, bias=False).double()
    w = model.weight.detach()[0].clone()
    score = weight_scores(model, CRITERIA["grasp"], lambda m, _: 0.5 * m.weight[0] @ a @ m.weight[0], [0])["weight"][0]
    rises = []
    for i in range(5):
        moved = w.clone()
        moved[i] *= 1 - 1e-3
        rises.append(float((a @ moved).square().sum() - (a @ w).square().sum()))
    assert sorted(range(5), key=lambda i: -rises[i]) == torch.argsort(score).tolist()


def test_scores_that_are_not_finite_are_refused() -> None:
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight[0, 0] = float("inf")
    with pytest.raises(FlowError, match=r"scores of weight are not finite"):
        weight_scores(model, CRITERIA["magnitude"], lambda m, x: m(x).sum(), [])


@pytest.mark.parametrize("name", list(CRITERIA))
def test_every_criterion_scores_every_unit(name: str) -> None:
    """The contract of the table: finite, one score a unit, and nothing but a sign below zero."""
    model, x = plain(), torch.randn(7, 4, dtype=torch.float64)
    by_weight = weight_scores(model, CRITERIA[name], lambda m, x: square(m(x), x), [x])
    assert {n: s.shape for n, s in by_weight.items()} == {n: p.shape for n, p in model.named_parameters() if p.ndim > 1}
    by_node = node_scores(model, trace(model, x), CRITERIA[name], lambda m, x: square(m(x), x), [x])
    assert by_node.shape == (11,)
    for scores in (*by_weight.values(), by_node):
        assert bool(scores.isfinite().all())
        assert CRITERIA[name].signed or bool((scores >= 0).all())


def test_taylor_squares_each_batch_by_itself() -> None:
    """Two batches of opposite gradients: their sum is nothing, their squares are not."""
    model = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0]]))
    assert weight_scores(model, CRITERIA["taylor"], quadratic, [1.0, -1.0])["weight"].tolist() == [[0.0, 200.0]]
    assert weight_scores(model, CRITERIA["snip"], quadratic, [1.0, -1.0])["weight"].tolist() == [[0.0, 0.0]]
    network, x = plain(), torch.randn(2, 7, 4, dtype=torch.float64)
    graph = trace(network, x[0])
    scores = node_scores(network, graph, CRITERIA["taylor"], lambda m, b: square(m(b), b), list(x))
    by_hand = torch.zeros(11, dtype=torch.float64)
    for batch in x:
        network.zero_grad()
        square(network(batch), batch).backward()
        gates = [(m.weight * m.weight.grad).sum(1) + m.bias * m.bias.grad for m in (network[0], network[2])]
        by_hand += torch.cat(gates).detach().square()
    torch.testing.assert_close(scores, by_hand)


@pytest.mark.parametrize("method", ["snip", "snap", "synflow", "crop-u", "crop-s"])
def test_scores_that_are_all_zero_are_refused_and_nothing_is_removed(method: str) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    batch = torch.randn(6, 4)
    if method == "synflow":  # reads no data
        nn.init.zeros_(model[4].weight)
    before = copy.deepcopy(model.state_dict())

    def constant(m: nn.Module, b: Tensor) -> Tensor:
        return (m(b) * 0).sum()

    pruner = Pruner(model, optimizer, constant, method, 0.5, epochs=3)
    with pytest.raises(FlowError, match="every score is zero, so nothing tells what to keep"):
        pruner.step([batch])
    for name, t in model.state_dict().items():
        assert torch.equal(t, before[name])
