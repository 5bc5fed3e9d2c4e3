"""Distance between tangent kernels, against kernels that autograd computes row by row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from earlycrop import FlowError, Pruner, PrunerOptions
from earlycrop.triggers.ntk import MAX_ROWS, NTKDistance
from tests.toy import mean_square as loss


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Dropout(0.5), nn.Tanh(), nn.Linear(5, 2)).double()


def kernel(model: nn.Module, x: Tensor) -> Tensor:
    """J J' row by row."""
    model.eval()
    rows = []
    for value in model(x).flatten():
        grads = torch.autograd.grad(value, list(model.parameters()), retain_graph=True)
        rows.append(torch.cat([g.flatten() for g in grads]))
    j = torch.stack(rows)
    model.train()
    return j @ j.T


def test_the_distance_is_one_minus_the_cosine_of_two_kernels() -> None:
    model, x = mlp(), torch.randn(4, 3, dtype=torch.float64)
    turn = NTKDistance(model, loss, x)
    before = kernel(model, x)
    state = torch.get_rng_state()
    assert turn.update(model) is None
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.ones_like(p))
    after = kernel(model, x)
    expected = 1 - float((before * after).sum() / (before.norm() * after.norm()))
    again = NTKDistance(model, loss, x)
    again.load_state_dict(turn.state_dict())
    assert turn.update(model) == pytest.approx(expected, rel=1e-9)
    assert again.update(model) == pytest.approx(expected, rel=1e-9)
    assert turn.update(model) == pytest.approx(0, abs=1e-12), "nothing has moved"
    assert model.training
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())


def test_a_linear_model_never_turns_and_a_large_batch_is_cut_short() -> None:
    model, x = nn.Linear(3, 2).double(), torch.randn(200, 3, dtype=torch.float64)
    turn = NTKDistance(model, loss, x)
    turn.update(model)
    assert turn._previous is not None
    assert turn._previous.shape == (MAX_ROWS, MAX_ROWS)
    with torch.no_grad():
        model.weight.mul_(-7)
    assert turn.update(model) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_networks_have_a_kernel(kind: Any) -> None:
    model, x = kind(3, 4, batch_first=True), torch.randn(2, 5, 3)
    turn = NTKDistance(model, lambda m, b: m(b)[0].sum(), x)
    turn.update(model)
    assert turn.update(model) == pytest.approx(0, abs=1e-6)


def test_what_has_no_kernel_is_refused() -> None:
    with pytest.raises(FlowError, match="the loss does not call the model"):
        NTKDistance(mlp(), lambda m, b: m[0](b).sum(), torch.zeros(1, 3).double())
    turn = NTKDistance(nn.Embedding(3, 2), lambda m, b: m(b).sum(), torch.tensor([1]))
    assert turn.update(nn.Embedding(3, 2)) is None


def test_a_pruner_logs_the_distance_until_it_prunes() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    data = [torch.randn(8, 6) for _ in range(2)]

    def fit(m: nn.Module, x: Tensor) -> Tensor:
        return functional.mse_loss(m(x), x[:, :3])

    pruner = Pruner(model, optimizer, fit, "taylor", 0.5, epochs=4, options=PrunerOptions(ntk_probe=data[0][:2]))
    pruner.step(data)
    turns = []
    for _ in range(4):
        for x in data:
            optimizer.zero_grad()
            fit(model, x).backward()
            optimizer.step()
        pruner.step(data)
        turns.append(pruner.log().get("kernel_turn"))
    assert [t is not None and t > 0 for t in turns] == [True, True, False, False], "it is pruned after epoch 3"
