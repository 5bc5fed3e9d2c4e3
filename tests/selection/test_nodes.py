"""Exact counts: what is left is at most what was asked for, nothing more would fit, and no layer is emptied."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from earlycrop import trace
from earlycrop.selection.nodes import choose_nodes
from earlycrop.selection.targets import MEASURES, max_remaining
from earlycrop.selection.weights import choose_weights
from tests.networks import CASES, build, graph_of


@pytest.mark.parametrize(
    ("dense", "sparsity", "left"),
    [
        (1000, 0.9, 100),
        (33664, 0.9, 3366),
        (10, 0.3, 7),
        (7, 0.5, 3),
        (100, 0.99, 1),
        (3, 0.1, 2),
        (10**9, 0.999, 10**6),
    ],
)
def test_limit_takes_the_sparsity_as_it_is_written(dense: int, sparsity: float, left: int) -> None:
    """(1 - 0.9) * 1000 is 99.99... in floating point, and 100 for whoever typed it."""
    assert max_remaining(dense, sparsity) == left


@pytest.mark.parametrize("sparsity", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_sparsity_out_of_range_is_refused(sparsity: float) -> None:
    with pytest.raises(ValueError, match="sparsity must be above 0 and below 1"):
        max_remaining(10, sparsity)


def best(scores: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The last of each matrix's best weights, as a floor."""
    floor = {n: torch.zeros_like(s, dtype=torch.bool) for n, s in scores.items()}
    for n, s in scores.items():
        floor[n][tuple((s == s.max()).nonzero()[-1].tolist())] = True
    return floor


def test_weights_by_hand_with_ties_by_index() -> None:
    scores = {"a": torch.tensor([[3.0, 1.0], [1.0, 1.0]]), "b": torch.tensor([[1.0, 0.5]])}
    chosen = choose_weights(scores, 3, best(scores))
    assert chosen.left == 3
    assert chosen.floors == ()
    # 0.5 goes, then the first two of the four ones; b keeps its best, whatever its rank
    assert chosen.removed["a"].tolist() == [[False, True], [True, False]]
    assert chosen.removed["b"].tolist() == [[False, True]]


def test_the_last_weight_of_a_matrix_stays_and_is_reported() -> None:
    scores = {"weak": torch.tensor([[0.1, 0.2]]), "strong": torch.tensor([[5.0, 6.0, 7.0, 8.0]])}
    chosen = choose_weights(scores, 2, best(scores))
    assert chosen.removed["weak"].tolist() == [[True, False]]
    assert chosen.removed["strong"].tolist() == [[True, True, True, False]]
    assert chosen.floors == ("weak",)
    assert choose_weights(scores, 0, best(scores)).left == 2


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_weights_are_counted_exactly(data: st.DataObject) -> None:
    """Also where most scores are equal, and some weights are gone already."""
    sizes = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    draw = st.integers(0, 3)
    scores = {f"m{i}": torch.tensor([[float(data.draw(draw)) for _ in range(n)]]) for i, n in enumerate(sizes)}
    alive = {
        n: torch.tensor([[data.draw(st.booleans()) or j == 0 for j in range(s.numel())]]) for n, s in scores.items()
    }
    living = sum(int(a.sum()) for a in alive.values())
    allowed = data.draw(st.integers(0, living))
    floor = best({n: s.masked_fill(~alive[n], -1) for n, s in scores.items()})
    chosen = choose_weights(scores, allowed, floor, alive)
    kept = {n: ~gone for n, gone in chosen.removed.items()}
    left = sum(int(k.sum()) for k in kept.values())
    assert chosen.left == left == max(min(allowed, living), len(sizes))
    for n, k in kept.items():
        assert bool(k.any())
        assert not bool((k & ~alive[n]).any()), "what is gone never comes back"
    free = [
        (float(s), bool(k)) for n in scores for s, k, a in zip(scores[n][0], kept[n][0], alive[n][0], strict=True) if a
    ]
    floors = {float(scores[n][kept[n]].max()) for n in scores}
    worst_kept = min((s for s, k in free if k and s not in floors), default=float("inf"))
    best_gone = max((s for s, k in free if not k), default=-float("inf"))
    assert best_gone <= worst_kept


@pytest.mark.parametrize("of", [of for of in MEASURES if of != "time"])
@pytest.mark.parametrize("name", list(CASES))
def test_nodes_meet_every_target_to_the_last_one_that_fits(name: str, of: str) -> None:
    graph = graph_of(name)
    for seed, sparsity in enumerate((0.1, 0.5, 0.9)):
        torch.manual_seed(seed)
        scores = torch.rand(graph.count)
        allowed = max_remaining(graph.cost(of), sparsity)
        chosen = choose_nodes(graph, scores, allowed, of)
        assert chosen.left == graph.cost(of, chosen.removed)
        for slot in graph.axes:
            assert not ((slot.nodes >= 0) & chosen.removed[slot.nodes]).all(), "a layer was emptied"
        if chosen.left > allowed:  # only where the floor stands in the way: nothing more can go
            assert chosen.floors
            for i in np.flatnonzero(~chosen.removed):
                more = chosen.removed.copy()
                more[i] = True
                emptied = any((slot.nodes >= 0).all() and more[slot.nodes].all() for slot in graph.axes)
                assert emptied
        for i in np.flatnonzero(chosen.removed):
            back = chosen.removed.copy()
            back[i] = False
            assert chosen.left > allowed or graph.cost(of, back) > allowed, "a removed node would have fitted"


def test_nodes_by_hand() -> None:
    """6-10-8-3: a node of the first layer owns 6 + 8 weights while all are there, one of the second 10 + 3."""
    graph = trace(*build("mlp"))
    scores = torch.arange(18.0).flip(0)  # the second layer's last node is the least worth
    dense = 6 * 10 + 10 * 8 + 8 * 3
    chosen = choose_nodes(graph, scores, dense - 13)
    assert np.flatnonzero(chosen.removed).tolist() == [17]
    chosen = choose_nodes(graph, scores, dense - 14)
    # two from the second layer save 26; then the better one of them is still too much to take back
    assert np.flatnonzero(chosen.removed).tolist() == [16, 17]
    assert chosen.left == 6 * 10 + 10 * 6 + 6 * 3


def test_a_cheaper_node_comes_back_where_it_fits() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 50), nn.ReLU(), nn.Linear(50, 2))
    graph = trace(model, torch.zeros(1, 2))
    scores = torch.cat([torch.tensor([1.0, 99, 99, 99]), torch.arange(2.0, 52)])
    dense = 8 + 200 + 100
    # the first layer's node 0 saves 52; then nodes of 4 + 2 - 1 = 5 go until 100 are saved: 10 of them, 102 in all
    chosen = choose_nodes(graph, scores, dense - 100)
    assert chosen.left == dense - 102
    # for 53 one small node would do beside the large one, 57 in all
    chosen = choose_nodes(graph, scores, dense - 53)
    assert np.flatnonzero(chosen.removed).tolist() == [0, 4]


def test_equal_scores_go_by_index() -> None:
    graph = trace(*build("mlp"))
    chosen = choose_nodes(graph, torch.ones(18), 17, "nodes")
    assert np.flatnonzero(chosen.removed).tolist() == [0]


def test_an_impossible_target_says_which_layers_hold_it() -> None:
    graph = trace(*build("mlp"))
    chosen = choose_nodes(graph, torch.rand(18), 1)
    assert chosen.left == 6 + 1 + 3
    assert chosen.floors == ("0", "2")
