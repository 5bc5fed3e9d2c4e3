"""Parameters that the scored loss does not depend on: they stay, and the others are scored as without them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import earlycrop
from earlycrop import Pruner
from earlycrop.scoring.used_parameters import run_loss
from tests.toy import Net, mean_square, mlp


class Masking(nn.Module):
    """A token that only masked inputs use, a head for training mode only, and a branch that the loss may not read."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.token, self.net = nn.Parameter(torch.zeros(6)), mlp(6, 32, 3)
        self.head, self.branch = nn.Linear(6, 40), mlp(6, 24, 2)

    def forward(self, x: Tensor, masked: bool = False) -> tuple[Tensor, Tensor]:
        x = self.token + x if masked else x
        y = self.net(x)
        if self.training:
            y = y + self.head(x).mean()
        return y, self.branch(x)


HEAD, BRANCH = {"head.weight", "head.bias"}, {"branch.0.weight", "branch.0.bias", "branch.2.weight", "branch.2.bias"}


def first(model: nn.Module, batch: Any) -> Tensor:
    return model(*batch)[0].square().mean()  # type: ignore[no-any-return]


def both(model: nn.Module, batch: Any) -> list[Tensor]:
    return [part.square().mean() for part in model(*batch)]


def test_they_are_found_over_all_batches_and_terms() -> None:
    model, plain, masked = Masking().train(), (torch.randn(4, 6),), (torch.randn(4, 6), True)
    assert run_loss(model, first, [plain, plain]).unused == {"token", *HEAD, *BRANCH}
    assert run_loss(model, both, [plain]).unused == {"token", *HEAD}
    assert run_loss(model, both, [plain, masked]).unused == HEAD
    model.head.requires_grad_(False)
    assert run_loss(model, lambda m, b: m.token.sum(), [plain]).unused == {
        name for name, p in model.named_parameters() if p.requires_grad and name != "token"
    }
    assert model.training


def test_no_batch_is_run_after_all_are_used() -> None:
    seen = []

    def counted(model: nn.Module, batch: Tensor) -> Tensor:
        seen.append(batch)
        return mean_square(model, batch)

    assert run_loss(mlp(), counted, [torch.randn(4, 6)] * 3).unused == frozenset()
    assert len(seen) == 1


@pytest.mark.parametrize("criterion", ["snip", "crop", "taylor"])
def test_nodes_without_a_used_parameter_stay(criterion: Any) -> None:
    model, batch = Masking(), (torch.randn(8, 6),)
    total = sum(p.numel() for p in model.parameters() if p.ndim > 1)
    alone = Net(lambda m, x: (m.net(x),), net=Masking().net)
    inside = sum(p.numel() for p in alone.parameters() if p.ndim > 1)
    event = earlycrop.prune(model, first, [batch], criterion, 0.5 * inside / total)
    assert event.left == total - inside // 2
    assert (event.layers["net.0"], event.layers["branch.0"]) == ((32, 16), (24, 24))
    earlycrop.prune(alone, first, [batch], criterion, 0.5)
    torch.testing.assert_close(dict(model.net.named_parameters()), dict(alone.net.named_parameters()))


@pytest.mark.parametrize("criterion", ["snip", "crop"])
def test_weights_that_the_loss_does_not_use_stay(criterion: Any) -> None:
    model = Masking()
    dense = {name: p.detach().clone() for name, p in model.named_parameters()}
    earlycrop.prune(model, first, [(torch.randn(8, 6),)], criterion, 0.3, structured=False)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, dense[name])}
    assert "net.0.weight" in changed
    assert changed <= {"net.0.weight", "net.2.weight"}


@pytest.mark.parametrize("method", ["earlycrop-s", "earlycrop-u", "snip", "taylor"])
def test_a_training_with_unused_parameters_is_pruned(method: str) -> None:
    model, batch = Masking(), (torch.randn(8, 6),)
    optimizer = torch.optim.Adam(model.parameters())
    pruner = Pruner(model, optimizer, both, method, 0.2, epochs=4, trigger=2)
    for _ in range(3):
        pruner.step([batch])
        optimizer.zero_grad()
        sum(both(model, batch)).backward()  # type: ignore[union-attr]
        optimizer.step()
    assert pruner.event is not None
    assert model.head.weight.shape == (40, 6)
    assert model.head.weight.all()


def test_a_loss_that_fails_on_the_first_batch_is_told_how_it_is_called() -> None:
    model, x, y = mlp(), torch.randn(5, 6), torch.randint(0, 3, (5,))

    def loss(m: nn.Module, batch: Any) -> Tensor:
        inputs, targets = batch
        return nn.functional.cross_entropy(m(inputs), targets)

    start = r"loss\(model, batch\) failed on the first batch: "
    for criterion in ("snip", "magnitude", "random", "synflow"):
        for structured in (True, False):
            with pytest.raises(ValueError, match=rf"{start}ValueError: too many values .* for one batch give \[\(X, Y"):
                earlycrop.prune(model, loss, (x, y), criterion, 0.5, structured=structured)
    with pytest.raises(ValueError, match=rf"{start}TypeError"):
        earlycrop.prune(model, nn.functional.cross_entropy, [(x, y)], "snip", 0.5)
    assert model[0].out_features == 16
