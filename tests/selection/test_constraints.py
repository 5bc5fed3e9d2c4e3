"""Limits hold whatever the scores (floors, ceilings, layers left alone, multiples), and targets stay exact in them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from earlycrop import Limits, Pruner, prune, shrink, trace
from earlycrop.events import Event
from earlycrop.graph.graph import Graph
from earlycrop.graph.types import NodeMask
from earlycrop.selection.constraints import Bounds
from earlycrop.selection.nodes import choose_nodes, remaining_outputs
from earlycrop.selection.targets import max_remaining
from earlycrop.selection.weights import choose_weights, weight_bounds
from tests import toy
from tests.networks import build, graph_of
from tests.toy import mean_square as loss

SLOW = pytest.mark.slow


def mlp() -> tuple[nn.Module, Tensor]:
    """20-24-12-3."""
    torch.manual_seed(0)
    return toy.mlp(20, 24, 12, 3), torch.randn(16, 20)


# --- nodes, on graphs


def test_floors_and_ceilings_by_hand() -> None:
    model, x = mlp()
    graph = trace(model, x)
    scores = torch.arange(36.0)  # the first layer's nodes are the worst
    chosen = choose_nodes(graph, scores, 11, "nodes", Limits(floors={"0": 5, "2": 0.25}))
    assert np.flatnonzero(~chosen.removed).tolist() == [*range(19, 24), *range(30, 36)]
    assert chosen.floors == ("0",)
    chosen = choose_nodes(graph, scores, 20, "nodes", Limits(ceilings={"2": 4}))
    # eight of the second layer go first, though eight of the first layer are worth less; then eight of those
    assert np.flatnonzero(~chosen.removed).tolist() == [*range(8, 24), *range(32, 36)]
    assert chosen.floors == ()
    chosen = choose_nodes(graph, scores, 35, "nodes", Limits(ceilings={"2": 0.7}))
    assert np.flatnonzero(chosen.removed).tolist() == [24, 25, 26, 27]  # 0.7 of 12 is 8.4; the target is met by that
    chosen = choose_nodes(graph, scores, 1, "nodes", Limits(exclude=["2"]))
    assert np.flatnonzero(~chosen.removed).tolist() == [23, *range(24, 36)]
    assert chosen.floors == ("0", "2")


def test_multiples_by_hand() -> None:
    model, x = mlp()
    graph = trace(model, x)
    scores = torch.cat([torch.arange(24.0), torch.arange(0.5, 12)])
    chosen = choose_nodes(graph, scores, 30, "nodes", Limits(multiple=8))
    # four of the second layer go, which leaves 8; then eight of the first; then there is room for the four again
    assert remaining_outputs(graph, chosen.removed) == {"0": 16, "2": 12, "4": 3}
    chosen = choose_nodes(graph, scores, 27, "nodes", Limits(multiple=8))
    assert remaining_outputs(graph, chosen.removed) == {"0": 16, "2": 8, "4": 3}
    chosen = choose_nodes(graph, scores, 1, "nodes", Limits(multiple=8))
    assert remaining_outputs(graph, chosen.removed) == {"0": 8, "2": 8, "4": 3}
    assert chosen.floors == ("0", "2")
    chosen = choose_nodes(graph, scores, 1, "nodes", Limits(multiple=16))  # 12 is less than one multiple
    assert remaining_outputs(graph, chosen.removed) == {"0": 16, "2": 12, "4": 3}
    chosen = choose_nodes(graph, scores, 1, "nodes", Limits(multiple=8, floors={"0": 9}))
    assert remaining_outputs(graph, chosen.removed)["0"] == 16


def test_a_layer_that_shares_its_nodes_is_limited_with_the_other() -> None:
    graph = trace(*build("residual"))
    scores = torch.arange(14.0)  # the shared stem's are the worst
    for layer in ("stem", "conv2"):
        left = remaining_outputs(graph, choose_nodes(graph, scores, 1, "macs", Limits(floors={layer: 3})).removed)
        assert left == {"stem": 3, "conv1": 1, "conv2": 3, "fc": 4}
        left = remaining_outputs(
            graph, choose_nodes(graph, -scores, 10**9, "macs", Limits(ceilings={layer: 3})).removed
        )
        assert left == {"stem": 3, "conv1": 6, "conv2": 3, "fc": 4}


def test_amounts_count_outputs_that_go_together_once() -> None:
    """12 channels of the grouped convolutions are 3 outputs of 4 each; an LSTM's unit has four rows."""
    graph = trace(*build("groups"))
    chosen = choose_nodes(graph, torch.rand(9), 1, "macs", Limits(floors={"narrow": 2}, ceilings={"first": 5}))
    assert remaining_outputs(graph, chosen.removed) == {"first": 1, "wide": 2, "narrow": 2, "depthwise": 2, "last": 4}
    graph = trace(*build("lstm"))
    chosen = choose_nodes(graph, torch.rand(13), 1, "macs", Limits(floors={"rnn": 5}))
    assert remaining_outputs(graph, chosen.removed) == {"embedding": 1, "rnn": 5, "decoder": 11}


class PartlyShared(nn.Module):
    """The wide layer's 12 outputs are those of two others side by side; of the last one's 16, four are the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.wide = nn.Linear(4, 8), nn.Linear(4, 4), nn.Linear(4, 12)
        self.side, self.last, self.out = nn.Linear(12, 12), nn.Linear(12, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        t = (torch.cat([self.left(x), self.right(x)], 1) + self.wide(x)).relu()
        return self.out((torch.cat([x, self.side(t)], 1) + self.last(t)).relu())


def test_layers_that_share_some_nodes_or_have_some_frozen() -> None:
    torch.manual_seed(0)
    graph = trace(PartlyShared(), torch.randn(3, 4))
    scores = torch.arange(float(graph.count))

    def left(allowed: int, **limits: Any) -> dict[str, int]:
        return remaining_outputs(graph, choose_nodes(graph, scores, allowed, "nodes", Limits(**limits)).removed)

    assert left(10**9) == {"left": 8, "right": 4, "wide": 12, "side": 12, "last": 16, "out": 2}
    # the five that go of the shared eight count for both
    assert left(10**9, ceilings={"left": 3, "wide": 5})["wide"] == 5
    assert left(10**9, ceilings={"right": 1, "wide": 8}) == left(10**9, ceilings={"right": 1}) | {"wide": 8, "left": 7}
    # the four that are added to the inputs cannot go, and count
    assert left(10**9, ceilings={"last": 7})["last"] == 7
    assert left(1, floors={"last": 6})["last"] == 6
    assert left(1, floors={"last": 3})["last"] == left(1)["last"] == 5
    assert left(10**9, ceilings={"last": 3})["last"] == 4 + 1  # as far as it can


def without_one(graph: Graph, removed: NodeMask, step: dict[tuple[int, ...], int], back: bool) -> list[NodeMask]:
    """The removals one step away for a group of coupled layers: the next multiple (or the whole group) back or gone.

    Which of a group's nodes they are matters to no count here: all own the same.
    """
    neighbours = []
    for ids in graph.groups.values():
        left = int((~removed[list(ids)]).sum())
        legal = sorted({len(ids), *range(0, len(ids), step[ids])})
        others = [n for n in legal if (n > left if back else n < left)]
        if others:
            n = others[0] if back else others[-1]
            changed = removed.copy()
            changed[list(ids)] = True
            changed[list(ids)[:n]] = False
            neighbours.append(changed)
    return neighbours


def emptied(graph: Graph, removed: NodeMask) -> bool:
    return any((slot.nodes >= 0).all() and removed[slot.nodes].all() for slot in graph.axes)


GRAPHS = ("mlp", "conv-norm", "residual", "concatenation", "lstm", "heads")


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_whatever_the_limits_targets_are_met_to_the_last_step_that_fits(data: st.DataObject) -> None:
    graph = graph_of(data.draw(st.sampled_from(GRAPHS)))
    of = data.draw(st.sampled_from(["weights", "nodes", "macs", "bytes"]))
    multiple = data.draw(st.sampled_from([1, 1, 2, 3, 4]))
    widths = {layer.name: layer.nodes.size for layer in graph.layers if (layer.nodes >= 0).all()}
    floors = data.draw(st.dictionaries(st.sampled_from(list(widths)), st.integers(1, 6), max_size=2))
    exclude = data.draw(st.lists(st.sampled_from(list(widths)), max_size=1))
    floors = {n: min(k, widths[n]) for n, k in floors.items()}
    free = [n for n in widths if not shared(graph, n, {*floors, *exclude})]
    ceilings = data.draw(st.dictionaries(st.sampled_from(free), st.integers(1, 6), max_size=2)) if free else {}
    scores = torch.tensor(data.draw(st.lists(st.integers(0, 9), min_size=graph.count, max_size=graph.count))).float()
    allowed = data.draw(st.integers(0, graph.cost(of)))
    limits = Limits(floors=floors, ceilings=ceilings, exclude=exclude, multiple=multiple)
    chosen = choose_nodes(graph, scores, allowed, of, limits)

    left = remaining_outputs(graph, chosen.removed)
    minimums = {**floors, **{n: widths[n] for n in exclude}}
    assert all(left[n] >= k for n, k in minimums.items())
    assert all(left[n] <= (k if multiple == 1 else max(k, multiple)) for n, k in ceilings.items())
    assert not emptied(graph, chosen.removed)
    assert chosen.left == graph.cost(of, chosen.removed)
    step = dict.fromkeys(graph.groups.values(), multiple)
    for ids in graph.groups.values():
        kept = [i for i in ids if not chosen.removed[i]]
        assert len(kept) % multiple == 0 or len(kept) == len(ids)
        gone = scores[list(set(ids) - set(kept))]
        assert not kept or not gone.numel() or float(gone.max()) <= float(scores[kept].min()), "not by score"

    def broken(removed: NodeMask) -> bool:
        now = remaining_outputs(graph, removed)
        return emptied(graph, removed) or any(now[n] < k for n, k in minimums.items())

    if chosen.left > allowed:
        assert chosen.floors
        assert all(broken(more) for more in without_one(graph, chosen.removed, step, back=False))
    for back in without_one(graph, chosen.removed, step, back=True):
        now = remaining_outputs(graph, back)
        too_wide = any(now[n] > k for n, k in ceilings.items())
        assert chosen.left > allowed or graph.cost(of, back) > allowed or too_wide, "more would have fitted"


def shared(graph: Graph, name: str, others: set[str]) -> bool:
    """Whether the layer has nodes in common with one of the others."""
    nodes = {layer.name: set(layer.nodes.tolist()) for layer in graph.layers}
    return any(nodes[name] & nodes[other] for other in others)


# --- modules


class Attention(nn.Module):
    """Heads written out, so that they can go: queries and keys ``wide`` each, and values ``deep``."""

    def __init__(self, heads: int = 4, wide: int = 6, deep: int = 6) -> None:
        super().__init__()
        self.wide, self.deep = wide, deep
        self.q, self.k, self.v = (nn.Linear(20, heads * n) for n in (wide, wide, deep))
        self.out = nn.Linear(heads * deep, 5)

    def forward(self, x: Tensor) -> Tensor:
        q, k = (p(x).view(2, 8, -1, self.wide).transpose(1, 2) for p in (self.q, self.k))
        v = self.v(x).view(2, 8, -1, self.deep).transpose(1, 2)
        return self.out((q @ k.mT).softmax(-1).matmul(v).transpose(1, 2).flatten(2))


class Recurrent(nn.Module):
    """An LSTM of 21 units, and what makes of its last state an output."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.out = nn.LSTM(10, 21, 2, batch_first=True), nn.Linear(21, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0][:, -1])


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 20, 3), nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 32, 3, groups=2), nn.ReLU(),
        nn.Conv2d(32, 32, 1, groups=32), nn.ReLU(), nn.Conv2d(32, 24, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(96, 17), nn.ReLU(), nn.Linear(17, 4),
    )  # fmt: skip


MODULES: dict[str, Any] = {
    "linear": mlp,
    "convolutions": lambda: (convolutions(), torch.randn(2, 3, 8, 8)),
    "lstm": lambda: (Recurrent(), torch.randn(2, 4, 10)),
    "attention": lambda: (Attention(), torch.randn(2, 8, 20)),
    "residual": lambda: build("residual", torch.float32),
}


@pytest.mark.parametrize(
    ("name", "sparsity", "multiple"),
    [
        pytest.param(name, sparsity, multiple, marks=[] if (sparsity, multiple) in ((0.2, 8), (0.6, 4)) else SLOW)
        for name in MODULES
        for sparsity in (0.2, 0.6)
        for multiple in (2, 4, 8)
    ],
)
@pytest.mark.filterwarnings("ignore:asked to remove")
def test_widths_are_multiples_after_the_cut(name: str, sparsity: float, multiple: int) -> None:
    """Every dimension of every weight, in every round: a multiple, or as wide as it was."""
    torch.manual_seed(0)
    model, x = MODULES[name]()
    model.train()
    before = {n: p.shape for n, p in model.named_parameters()}
    prune(model, loss, [x], "magnitude", sparsity, rounds=3, limits=Limits(multiple=multiple))
    narrower = 0
    for n, p in model.named_parameters():
        for now, then in zip(p.shape, before[n], strict=True):
            assert now == then or now % multiple == 0, f"{n}: {tuple(before[n])} became {tuple(p.shape)}"
            narrower += now < then
    assert narrower or multiple == 8 or name == "residual"
    if isinstance(model, Recurrent):
        assert model.rnn.hidden_size % multiple == 0


def test_a_head_is_as_many_channels_as_it_is_wide() -> None:
    """Heads of 6 channels: two of them make a multiple of 4, or of 12; one makes a multiple of 3."""
    model, x = MODULES["attention"]()
    graph = trace(model, x)
    assert graph.count == 4
    for multiple, heads in ((3, 1), (4, 2), (12, 2), (8, 4)):
        chosen = choose_nodes(graph, torch.rand(4), 1, "macs", Limits(multiple=multiple))
        assert int((~chosen.removed).sum()) == heads
    graph = trace(Attention(12, 2, 3), x)  # three heads make a multiple of 6 in queries and keys, two in values
    assert graph.count == 12
    chosen = choose_nodes(graph, torch.rand(12), 1, "macs", Limits(multiple=6))
    assert int((~chosen.removed).sum()) == 6


@pytest.mark.parametrize("rounds", [1, 4])
@pytest.mark.parametrize("structured", [True, False])
def test_an_event_tells_what_was_asked_and_what_is_left(structured: bool, rounds: int) -> None:
    model, x = mlp()
    limits = Limits(floors={"2": 0.75}, ceilings={"0": 0.4}, exclude=["4"])
    event = prune(model, loss, [x], "magnitude", 0.55, structured=structured, rounds=rounds, limits=limits)
    assert event.limits == limits
    dense = 20 * 24 + 24 * 12 + 12 * 3
    assert event.left <= max_remaining(dense, 0.55)
    if structured:
        assert [(n, p.shape[0]) for n, p in ((n, model.get_parameter(f"{n}.weight")) for n in "024")] == [
            (n, left) for n, (_, left) in event.layers.items()
        ]
        assert {n: before for n, (before, _) in event.layers.items()} == {"0": 24, "2": 12, "4": 3}
        assert event.layers["0"][1] <= 9
        assert event.layers["2"][1] >= 9
        assert event.layers["4"] == (3, 3)
    else:
        assert event.left == max_remaining(dense, 0.55)
        counts = {n: int(model.get_parameter(f"{n}.weight").count_nonzero()) for n in "024"}
        assert counts == {n: left for n, (_, left) in event.layers.items()}
        assert event.layers["0"][1] <= 480 * 0.4
        assert event.layers["2"][1] >= 288 * 0.75
        assert event.layers["4"] == (36, 36)
    assert Event.from_record(event.record(), event.masks) == event
    assert event.record()["layers"]["4"] == list(event.layers["4"])
    amounts = {"floors": {"2": 0.75}, "ceilings": {"0": 0.4}, "exclude": ["4"], "multiple": 1, "include": []}
    assert event.record()["limits"] == amounts


@pytest.mark.parametrize("rounds", [1, 4])
def test_a_ceiling_is_reached_at_the_end(rounds: int) -> None:
    limits = Limits(ceilings={"2": 0.25})
    for structured, left in ((True, (12, 3)), (False, (288, 72))):
        model, x = mlp()
        event = prune(model, loss, [x], "magnitude", 0.1, structured=structured, rounds=rounds, limits=limits)
        assert event.layers["2"] == left


def test_a_ceiling_comes_down_with_the_rounds() -> None:
    bounds = Bounds({"a": 100}, {}, {"a": 40})
    assert [bounds.part(share).max_kept["a"] for share in (0.25, 0.5, 1.0)] == [85, 70, 40]


def test_a_single_output_that_is_left_is_counted() -> None:
    model, x = mlp()
    event = prune(model, loss, [x], "magnitude", 0.6, rounds=2, limits=Limits(ceilings={"0": 1}))
    assert event.layers["0"] == (24, 1)
    assert model[0].out_features == 1


def test_a_target_that_the_limits_do_not_allow_is_reported() -> None:
    model, x = mlp()
    with pytest.warns(
        UserWarning, match=r"asked to remove 90.00% of the weights, and 36.94% could be removed.* \(layers 0, 2\)$"
    ):
        event = prune(model, loss, [x], "magnitude", 0.9, limits=Limits(exclude=["0", "4"], floors={"2": 1}))
    assert event.layers == {"0": (24, 24), "2": (12, 1), "4": (3, 3)}
    assert event.achieved < event.asked
    model, x = mlp()
    with pytest.warns(UserWarning, match="ceilings were not reached: layer 2 keeps 8, not 3"):
        prune(model, loss, [x], "magnitude", 0.5, limits=Limits(ceilings={"2": 3}, multiple=8))


# --- single weights


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_single_weights_within_limits_are_counted_exactly(data: st.DataObject) -> None:
    """Against one weight at a time, worst first, that goes unless something forbids it."""
    model = nn.ModuleDict({"a": nn.LSTM(2, 1, bias=False), "b": nn.Linear(3, 4), "c": nn.Linear(5, 1)})
    for p in (model["b"].weight, model["a"].weight_hh_l0):
        p.requires_grad_(data.draw(st.booleans()))
    trained = {n: p for n, p in model.named_parameters() if p.ndim > 1 and p.requires_grad}
    values = st.integers(0, 6)
    scores = {
        n: torch.tensor([float(data.draw(values)) for _ in range(p.numel())]).reshape(p.shape)
        for n, p in trained.items()
    }
    floors = data.draw(st.dictionaries(st.sampled_from("abc"), st.integers(1, 5), max_size=3))
    ceilings = {"a": data.draw(st.integers(5, 12))} if data.draw(st.booleans()) else {}
    bounds = weight_bounds(model, Limits(floors=floors, ceilings=ceilings))
    fixed = 29 - sum(p.numel() for p in trained.values())
    allowed = data.draw(st.integers(0, 29 - fixed))
    keep = {n: torch.zeros_like(s, dtype=torch.bool) for n, s in scores.items()}
    chosen = choose_weights(scores, allowed, keep, bounds=bounds)

    flat = [
        (float(v), i, n.partition(".")[0])
        for i, (n, v) in enumerate((n, v) for n in scores for v in scores[n].flatten())
    ]
    left = {"a": 12, "b": 12, "c": 5}
    gone: set[int] = set()
    for _, i, layer in sorted(flat):
        if left[layer] > ceilings.get(layer, 99):
            gone.add(i)
            left[layer] -= 1
    for _, i, layer in sorted(flat):
        if i not in gone and sum(left.values()) > allowed + fixed and left[layer] > floors.get(layer, 0):
            gone.add(i)
            left[layer] -= 1
    removed = torch.cat([chosen.removed[n].flatten() for n in scores])
    assert set(removed.nonzero()[:, 0].tolist()) == gone
    assert chosen.left == sum(left.values()) - fixed
    assert bool(chosen.floors) or chosen.left <= allowed


# --- what is refused


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        ({"exclude": "0"}, "exclude is a list of patterns, and is a string"),
        ({"floors": {"0": 0}}, r"floors\['0'\] is 0: give a whole number of at least 1"),
        ({"floors": {"0": 1.5}}, r"floors\['0'\] is 1.5: .* share of the layer, above 0 and at most 1"),
        ({"ceilings": {"0": 0.0}}, r"ceilings\['0'\] is 0.0"),
        ({"ceilings": {"0": float("nan")}}, r"ceilings\['0'\] is nan"),
        ({"multiple": 0}, "multiple must be at least 1, and is 0"),
    ],
)
def test_limits_out_of_range_are_refused(limits: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Limits(**limits)


@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        (Limits(exclude=["1"]), r"no layer with a weight matrix matches '1': the nearest are '"),
        (Limits(floors={"head.*": 1}), r"no layer with a weight matrix matches 'head.\*'"),
        (Limits(floors={"*": 10_000}), r"floors\['\*'\] is 10000, and the widest layer that it matches has \d+"),
        (Limits(floors={"2": 0.5}, ceilings={"*": 2}), r"of layer '2' at most 2 of \d+ .* hold \d+: raise its ceiling"),
        (Limits(exclude=["0"], ceilings={"0": 2}), "of layer '0' at most 2 of"),
    ],
)
def test_limits_that_the_model_cannot_keep_are_refused(limits: Limits, sentence: str, structured: bool) -> None:
    model, x = mlp()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=sentence):
        prune(model, loss, [x], "magnitude", 0.5, structured=structured, limits=limits)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))


def test_limits_that_only_one_kind_can_keep_are_refused() -> None:
    model, x = mlp()
    with pytest.raises(ValueError, match="multiple rounds channel counts, which single weights do not change"):
        prune(model, loss, [x], "magnitude", structured=False, limits=Limits(multiple=8))
    with pytest.raises(ValueError, match=r"ceilings\['4'\] is on layers that can lose nothing"):
        prune(model, loss, [x], "magnitude", limits=Limits(ceilings={"4": 1}))
    with pytest.raises(ValueError, match=r"of layer 'conv2' at most 3 of 8 .* hold 4"):
        choose_nodes(graph_of("residual"), torch.rand(14), 1, "macs", Limits(floors={"stem": 4}, ceilings={"conv2": 3}))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(ValueError, match="matches 'body': the nearest are"):  # before the first epoch
        Pruner(model, optimizer, loss, epochs=4, limits=Limits(exclude=["body"]))
    assert Pruner(nn.DataParallel(model), optimizer, loss, epochs=4, limits=Limits(exclude=["0"])).request is not None


def test_a_pattern_may_name_the_module_that_a_layer_is_in() -> None:
    model = nn.Sequential(nn.Sequential(mlp()[0], nn.ReLU()), nn.Linear(3, 2))
    graph = trace(model, torch.randn(4, 20))
    for pattern in ("0", "0.0", "0.0.*", "0.0.[02]"):
        chosen = choose_nodes(graph, torch.rand(graph.count), 1, "nodes", Limits(exclude=[pattern]))
        assert not chosen.removed[:36].any()
    cut = shrink(model, graph, chosen.removed.nonzero()[0].tolist())
    assert cut.nodes == (0 if "[" not in pattern else 2)
