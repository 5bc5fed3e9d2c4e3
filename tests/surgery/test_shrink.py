"""Cuts against networks that were masked another way, the optimizer's next step, and models left as they were."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from earlycrop import SurgeryError, shrink, trace
from tests.networks import CASES, build
from tests.oracles import outputs, some_nodes, zeroed
from tests.toy import Net

pytestmark = pytest.mark.usefixtures("without_type_checks")


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("name", list(CASES))
def test_the_small_network_computes_what_the_masked_one_does(name: str, share: float, seed: int) -> None:
    model, example = build(name, seed=seed)
    graph = trace(model, example)
    remove = some_nodes(graph, share, seed)
    masked = zeroed(model, graph, remove)
    weights = graph.cost("weights", graph.mask(remove))
    cut = shrink(model, graph, remove)
    assert cut.difference is not None
    assert cut.difference <= 1e-10
    assert cut.nodes == len(remove)
    assert cut.weights_after == weights == sum(p.numel() for p in model.parameters() if p.ndim > 1)
    for a, b in zip(outputs(masked, example), outputs(model, example), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n == "gru" else n for n in CASES])
def test_a_shrunk_network_can_be_traced_and_cut_again(name: str) -> None:
    model, example = build(name)
    for seed in range(3):
        graph = trace(model, example)
        shrink(model, graph, some_nodes(graph, 0.3, seed))
    assert trace(model, example).count < CASES[name].nodes


def test_sizes_that_modules_keep_follow() -> None:
    model, example = build("groups")
    graph = trace(model, example)
    shrink(model, graph, [0, 6])  # channels 0 and 6 of the first; group 0 and 3 of the others
    first, wide, narrow, depthwise, last = model.children()
    assert [(m.in_channels, m.out_channels, m.groups) for m in (first, wide, narrow, depthwise, last)] == [
        (3, 10, 1), (10, 8, 2), (8, 8, 4), (8, 8, 8), (8, 4, 1),
    ]  # fmt: skip
    model, example = build("lstm")
    graph = trace(model, example)
    shrink(model, graph, [0, 1, 6])
    assert (model.embedding.embedding_dim, model.rnn.input_size, model.rnn.hidden_size) == (4, 4, 6)
    assert model.rnn._flat_weights[0] is model.rnn.weight_ih_l0
    assert model.decoder.in_features == 12


def test_tied_weights_stay_tied() -> None:
    model, example = build("tied")
    shrink(model, trace(model, example), [1, 4])
    assert model.decoder.weight is model.embedding.weight
    assert model.embedding.weight.shape == (9, 4)
    assert (model.embedding.embedding_dim, model.decoder.in_features) == (4, 4)


OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, 0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01),
    "fused": lambda p: torch.optim.Adam(p, 0.01, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.5, centered=True),
    "adadelta": lambda p: torch.optim.Adadelta(p),
    "groups": lambda p: torch.optim.Adam([{"params": p[:2], "lr": 0.1}, {"params": p[2:], "lr": 0.01}]),
}


@pytest.mark.parametrize(
    "optimizer_name", [o if o in ("sgd", "groups") else pytest.param(o, marks=pytest.mark.slow) for o in OPTIMIZERS]
)
@pytest.mark.parametrize("name", ["conv-norm", "residual", "lstm", "tied"])
def test_the_step_after_a_cut_is_that_of_the_masked_network(name: str, optimizer_name: str) -> None:
    """Entry for entry, on everything that was kept; the cut is in the middle of training, with gradients at hand."""
    model, example = build(name)
    graph = trace(model, example)
    remove = some_nodes(graph, 0.4, 1)
    columns = {(s.tensor, s.dim): graph.mask(remove)[s.nodes] & (s.nodes >= 0) for s in graph.axes}

    def step(m: nn.Module, o: torch.optim.Optimizer) -> None:
        o.zero_grad()
        output = m.eval()(example)
        (output.tanh() ** 2).mean().backward()
        o.step()

    optimizer = OPTIMIZERS[optimizer_name](list(model.parameters()))
    step(model, optimizer)
    step(model, optimizer)
    masked = zeroed(model, graph, remove)
    other = OPTIMIZERS[optimizer_name](list(masked.parameters()))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    cut = shrink(model, graph, remove, optimizer)
    assert cut.difference is not None
    for p in model.parameters():
        assert p.grad is not None
        assert p.grad.shape == p.shape
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in parameters} == {id(p) for p in model.parameters()} == {id(p) for p in optimizer.state}
    step(model, optimizer)
    step(masked, other)
    small = dict(model.named_parameters())
    for n, p in masked.named_parameters():
        kept = p.detach()
        for d in range(p.ndim):
            gone = columns.get((n, d))
            if gone is not None:
                kept = kept.index_select(d, torch.from_numpy((~gone).nonzero()[0]))
        torch.testing.assert_close(small[n].detach(), kept, rtol=1e-9, atol=1e-11)


class OwnWidth(nn.Module):
    """Divides by a tensor that holds its own width, whose value no tracer sees."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.out = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x).relu()
        return self.out(x / torch.tensor([x.shape[-1]]))


def snapshot(model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    tensors = {n: (id(t), t.detach().clone()) for n, t in model.state_dict(keep_vars=True).items()}
    sizes = {n: (getattr(m, "in_features", None), getattr(m, "out_features", None)) for n, m in model.named_modules()}
    state = {id(p): {k: v.clone() for k, v in s.items()} for p, s in optimizer.state.items()}
    return tensors, sizes, state, [[id(p) for p in g["params"]] for g in optimizer.param_groups]


def test_a_failed_certificate_leaves_everything_as_it_was() -> None:
    model, x = OwnWidth(), torch.randn(3, 4)
    optimizer = torch.optim.Adam(model.parameters())
    model(x).sum().backward()
    optimizer.step()
    graph = trace(model, x)
    before = snapshot(model, optimizer)
    with pytest.raises(SurgeryError, match="differs from the masked dense one's by"):
        shrink(model, graph, [0, 3], optimizer)
    torch.testing.assert_close(snapshot(model, optimizer), before, rtol=0, atol=0)
    assert shrink(model, graph, [0, 3], optimizer, certify=False).difference is None
    assert model.one.out_features == 6


def test_state_that_cannot_be_cut_is_refused_before_anything_is_changed() -> None:
    model, x = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)), torch.randn(3, 4)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = model(x).square().mean()
        value.backward()
        return value

    optimizer.step(closure)
    shapes = [p.shape for p in model.parameters()]
    with pytest.raises(SurgeryError, match=r"LBFGS keeps the curvature .*optimizer.state.clear\(\)"):
        shrink(model, trace(model, x), [0], optimizer)
    assert [p.shape for p in model.parameters()] == shapes


def test_bad_calls_are_refused() -> None:
    model, x = build("mlp")
    graph = trace(model, x)
    with pytest.raises(ValueError, match="there is no node 18"):
        shrink(model, graph, [18])
    with pytest.raises(ValueError, match=r"would leave nothing of dimension 0 of '0.weight'"):
        shrink(model, graph, range(10))
    other = torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1)
    with pytest.raises(ValueError, match="the optimizer holds none of the model's parameters"):
        shrink(model, graph, [0], other)
    shrink(model, graph, [0])
    with pytest.raises(ValueError, match="trace it again"):
        shrink(model, graph, [0])


def indices() -> dict[str, Any]:
    """Nodes 0, 5 and 7, or every third, in each form; made anew, as iterators serve once."""
    return {
        "list": [0, 5, 7],
        "set": {0, 5, 7},
        "range": range(0, 10, 3),
        "iterator": iter([0, 5, 7]),
        "keys": {0: "", 5: "", 7: ""},
        "numpy array": np.array([0, 5, 7]),
        "numpy array of bytes": np.array([0, 5, 7], np.uint8),
        "numpy integers": list(np.array([0, 5, 7])),
        "tensor": torch.tensor([0, 5, 7]),
        "tensor of int32": torch.tensor([0, 5, 7], dtype=torch.int32),
        "scalar tensors": list(torch.tensor([0, 5, 7])),
    }


@pytest.mark.parametrize("name", list(indices()))
def test_any_iterable_of_indices_says_what_to_remove(name: str) -> None:
    model, x = build("mlp")
    graph = trace(model, x)
    expected = [0, 3, 6, 9] if name == "range" else [0, 5, 7]
    weight = model[0].weight.detach().clone()
    cut = shrink(model, graph, indices()[name])
    assert cut.nodes == len(expected)
    kept = [i for i in range(len(weight)) if i not in expected]
    torch.testing.assert_close(model[0].weight.detach(), weight[kept], rtol=0, atol=0)


def test_an_empty_collection_removes_nothing() -> None:
    model, x = build("mlp")
    graph = trace(model, x)
    for remove in ([], (), np.array([]), np.array([], bool), torch.tensor([])):
        assert not graph.mask(remove).any()


def test_a_mask_is_not_taken_for_indices() -> None:
    model, x = build("mlp")
    graph = trace(model, x)
    mask = np.zeros(graph.count, bool)
    mask[[0, 5, 7]] = True
    tensor = torch.from_numpy(mask)
    for given in (mask, tensor, mask.tolist(), iter(mask), list(tensor)):
        with pytest.raises(ValueError, match=r"a mask of booleans: give the indices of the nodes, .*mask.nonzero"):
            shrink(model, graph, given)
    assert shrink(model, graph, mask.nonzero()[0]).nodes == 3
    model, x = build("mlp")
    assert shrink(model, trace(model, x), tensor.nonzero().flatten()).nodes == 3


def no_indices() -> dict[str, Any]:
    """What cannot be taken for the indices of nodes; made anew, as iterators serve once."""
    return {
        "numpy floats": np.array([0.0, 5.0]),
        "floats in a tensor": torch.tensor([0.0, 5.0]),
        "a float": iter([0, 5.0]),
        "text": iter(["5"]),
        "numpy column": np.array([[0], [5]]),
        "column in a tensor": torch.tensor([[0], [5]]),
        "numpy scalar": np.array(5),
        "scalar tensor": torch.tensor(5),
        "what numpy's nonzero returns": iter(np.array([0, 1]).nonzero()),
    }


@pytest.mark.parametrize("name", list(no_indices()))
def test_what_is_no_integer_is_not_taken_for_an_index(name: str) -> None:
    model, x = build("mlp")
    graph = trace(model, x)
    with pytest.raises(ValueError, match="remove must be one-dimensional and hold the indices of nodes as integers"):
        graph.mask(no_indices()[name])


def test_removing_nothing_changes_nothing() -> None:
    model, x = build("mlp")
    before = list(model.parameters())
    assert shrink(model, trace(model, x), []).nodes == 0
    assert all(a is b for a, b in zip(before, model.parameters(), strict=True))


def test_a_loss_near_zero_does_not_spoil_the_certificate() -> None:
    """A loss that cancels has no scale; the outputs that the model returned on the way have."""
    model, x = build("heads", torch.float32)
    graph = trace(model, lambda m: (lambda out: (out["value"] - out["value"].detach()).sum())(m(x)))
    assert shrink(model, graph, [0, 17]).difference <= 1e-5  # type: ignore[operator]


def test_modules_that_only_training_uses_follow() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        hidden = self.a(x).relu()
        return (self.b(hidden), self.aux(hidden)) if self.training else self.b(hidden)

    model = Net(forward, a=nn.Linear(6, 8), b=nn.Linear(8, 3), aux=nn.Linear(8, 3))
    model.eval()
    shrink(model, trace(model, torch.randn(4, 6)), [0, 5])
    model.train()
    assert [y.shape for y in model(torch.randn(4, 6))] == [(4, 3), (4, 3)]


def test_an_lstm_that_torch_cannot_run_is_refused_in_words() -> None:
    rnn = nn.LSTM(4, 6, proj_size=3, batch_first=True)
    model = Net(lambda self, x: self.b(self.rnn(x)[0]), rnn=rnn, b=nn.Linear(3, 2)).double()
    x = torch.randn(2, 3, 4).double()
    graph = trace(model, x)
    hidden = next(s.nodes for s in graph.axes if s.tensor == "rnn.weight_hr_l0" and s.dim == 1).tolist()
    with pytest.raises(SurgeryError, match="torch cannot run an LSTM with 3 hidden units and 3 projections"):
        shrink(model, graph, hidden[:3])
    assert rnn.hidden_size == 6
    assert shrink(model, graph, hidden[:2]).difference <= 1e-10  # type: ignore[operator]
