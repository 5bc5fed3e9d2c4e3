"""The parameter objects of before a cut, which lists, optimizers and other modules hold, are those of after it."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from earlycrop import prune, shrink, trace
from tests.toy import Net, mlp


def squares(model: nn.Module, x: Tensor) -> Tensor:
    value: Tensor = model(x).square().mean()
    return value


def trained(model: nn.Module, x: Tensor) -> torch.optim.Adam:
    optimizer = torch.optim.Adam(model.parameters())
    squares(model, x).backward()
    optimizer.step()
    return optimizer


def ids(tensors: Iterable[Tensor]) -> list[int]:
    return [id(t) for t in tensors]


def test_lists_optimizers_and_averages_hold_the_same_objects_with_small_tensors() -> None:
    model, x = mlp(), torch.randn(5, 6)
    ema = torch.optim.swa_utils.AveragedModel(model)
    optimizer = trained(model, x)
    parameters, averages = list(model.parameters()), list(ema.parameters())
    loss = squares(model, x)
    loss.backward()  # a graph that has run backward may live on
    shrink(model, trace(model, x), [0, 3, 20], optimizer, ema_models=[ema])
    for before, after in ((parameters, model.parameters()), (averages, ema.parameters())):
        assert ids(before) == ids(after)
    assert [p.shape for p in parameters] == [p.shape for p in averages]
    assert [p.shape[0] for p in parameters[::2]] == [14, 15, 3]
    assert all(p.grad is not None and p.grad.shape == p.shape and p.is_leaf for p in parameters)
    assert ids(optimizer.param_groups[0]["params"]) == ids(parameters)
    assert set(ids(optimizer.state)) == set(ids(parameters))
    assert all(optimizer.state[p]["exp_avg"].shape == p.shape for p in parameters)


def test_clipping_by_a_list_from_before_works() -> None:
    model, x = mlp(), torch.randn(5, 6)
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, 0.1)
    prune(model, lambda m, b: 100 * squares(m, b), [x], "crop", 0.5, of="nodes", optimizer=optimizer)
    (100 * squares(model, x)).backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1e-3)
    norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
    assert float(torch.stack(norms).norm()) == pytest.approx(1e-3, rel=1e-4)


def test_a_step_after_the_cut_is_that_of_a_new_optimizer_with_the_same_state() -> None:
    model, x = mlp(), torch.randn(5, 6)
    optimizer = trained(model, x)
    shrink(model, trace(model, x), [0, 3, 20], optimizer)
    again = copy.deepcopy(model)
    other = torch.optim.Adam(again.parameters())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for m, o in ((model, optimizer), (again, other)):
        o.zero_grad()
        squares(m, x).backward()
        o.step()
    for p, q in zip(model.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0)


def test_a_graph_that_has_not_run_backward_goes_on_with_the_tensors_from_before() -> None:
    model, x = mlp(), torch.randn(5, 6)
    parameters = list(model.parameters())
    loss, optimizer = squares(model, x), torch.optim.SGD(parameters, 0.1)
    by_input = x.clone().requires_grad_()
    kept = squares(model, by_input)
    (expected,) = torch.autograd.grad(squares(model, by_input), by_input)
    shrink(model, trace(model, x), [0, 3, 20], optimizer)
    loss.backward()
    cut = parameters[:-1]
    assert all(p.grad is None for p in cut)  # these are the small ones, and the graph is of the dense ones
    (gradient,) = torch.autograd.grad(kept, by_input)
    torch.testing.assert_close(gradient, expected)
    assert ids(optimizer.param_groups[0]["params"]) == ids(parameters) == ids(model.parameters())
    squares(model, x).backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in parameters)
    optimizer.step()


def test_weak_references_views_and_detached_tensors_permit_it() -> None:
    model, x = mlp(), torch.randn(5, 6)
    reference, view = weakref.ref(model[0].weight), model[0].weight.view(-1)
    detached = model[0].weight.detach()
    shrink(model, trace(model, x), [0, 3])
    assert reference() is model[0].weight
    assert view.shape == (96,)
    assert detached.shape == (16, 6)


def test_where_torch_refuses_the_objects_are_new_and_a_warning_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = mlp(), torch.randn(5, 6)
    parameters, dense = list(model.parameters()), copy.deepcopy(model)
    optimizer, exchange, calls = torch.optim.SGD(parameters, 0.1), torch._C._swap_tensor_impl, []

    def refuse_the_third(*pair: Tensor) -> None:
        calls.append(pair)
        if len(calls) == 3:
            raise RuntimeError("Expected no weakrefs")
        exchange(*pair)

    monkeypatch.setattr(torch._C, "_swap_tensor_impl", refuse_the_third)
    with pytest.warns(UserWarning, match=r"new objects after this cut \(Expected no weakrefs\): make lists"):
        shrink(model, trace(model, x), [0, 3, 20], optimizer)
    for p, before in zip(parameters, dense.parameters(), strict=True):
        torch.testing.assert_close(p, before)
    assert ids(optimizer.param_groups[0]["params"]) == ids(model.parameters()) != ids(parameters)
    assert model(x).shape == (5, 3)


def test_recurrent_layers_keep_their_objects_and_their_flat_weights() -> None:
    model = Net(lambda self, x: self.b(self.a(x)[0]), a=nn.LSTM(6, 8, num_layers=2), b=nn.Linear(8, 3)).double()
    x = torch.randn(4, 5, 6).double()
    optimizer, parameters = trained(model, x), list(model.parameters())
    shrink(model, trace(model, x), [0], optimizer)
    assert ids(parameters) == ids(model.parameters())
    assert ids(model.a._flat_weights) == ids(model.a.parameters())
    before = model(x)
    trained(model, x)
    assert not torch.equal(before, model(x))
    assert model.a.hidden_size == 7


def test_tied_and_shared_parameters_stay_one() -> None:
    model = mlp(6, 8, 8, 3)
    model[4].weight = nn.Parameter(torch.randn(3, 8))
    tied = Net(lambda self, x: self.d(self.c(self.b(self.a(x).relu()).relu())), a=nn.Linear(6, 8), b=nn.Linear(8, 8),
               c=nn.Linear(8, 8), d=nn.Linear(8, 3))  # fmt: skip
    tied.c.weight = tied.b.weight
    other = nn.Linear(6, 8)
    other.weight = tied.a.weight  # of a module that the cut does not know
    x = torch.randn(5, 6)
    shrink(tied, trace(tied, x), [0, 1])
    assert tied.c.weight is tied.b.weight
    assert other.weight is tied.a.weight
    assert tied.a.weight.shape[0] == tied.b.in_features < 8
    tied(x).sum().backward()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_model_keeps_them_too(backend: str) -> None:
    torch.compiler.reset()
    model, x = mlp(), torch.randn(5, 6)
    compiled = torch.compile(model, backend=backend)
    compiled(x).sum().backward()
    parameters = list(model.parameters())
    shrink(compiled, trace(compiled, x), [0, 3, 20])
    assert ids(parameters) == ids(model.parameters())
    torch.testing.assert_close(compiled(x), model(x))
