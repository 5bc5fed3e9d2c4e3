"""What a pruning during training could not do is said when the pruner is made, or right after the first epoch."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

import earlycrop
from earlycrop import Limits, Pruner
from earlycrop.context import PruningContext
from tests.toy import loss, mlp, sgd, train_epoch, vectors


def make(model: nn.Module, optimizer: Any = None, method: Any = "earlycrop-s", **given: Any) -> Pruner:
    return Pruner(
        model, sgd(model) if optimizer is None else optimizer, loss, method, 0.5, **{"epochs": 6, "trigger": 4, **given}
    )


def train(pruner: Pruner, epochs: int) -> None:
    for _ in range(epochs):
        train_epoch(pruner.model, pruner.optimizer, vectors())  # type: ignore[arg-type]
        pruner.step(vectors())


def test_no_optimizer_and_parameters_that_none_holds_are_warned_of() -> None:
    model = mlp()
    for method in ("earlycrop-s", "earlycrop-u"):
        with pytest.warns(UserWarning, match="the pruner was given no optimizer, .*: give all optimizers that train"):
            make(model, [], method)
        with pytest.warns(UserWarning, match=r"do not hold '2.weight', '2.bias', '4.weight' and 1 more: give all"):
            make(model, sgd(model[0]), method)
    with pytest.warns(UserWarning, match=r"do not hold '4.weight', '4.bias': give all optimizers"):
        earlycrop.prune(model, loss, vectors(), "snip", 0.2, optimizer=[sgd(model[0]), sgd(model[2])])
    make(model, [sgd(model[0]), sgd(model[2:])])
    model[2:].requires_grad_(False)
    make(model, sgd(model[0]))
    Pruner(mlp(), [], loss, "dense", epochs=3)


def test_a_hook_on_a_parameter_is_warned_of_where_it_would_be_cut() -> None:
    model = mlp()
    handles = [model[0].weight.register_hook(lambda g: g), model[2].bias.register_post_accumulate_grad_hook(id)]
    with pytest.warns(UserWarning, match=r"'0.weight', '2.bias' cannot be cut, because of hooks that a cut would lose"):
        make(model)
    make(model, method="earlycrop-u")
    for handle in handles:
        handle.remove()
    make(model)


def test_an_optimizer_whose_state_cannot_follow_is_warned_of_after_an_epoch() -> None:
    for structured in (True, False):
        model = mlp()
        pruner = make(model, torch.optim.Adam(model.parameters()), "earlycrop-s" if structured else "earlycrop-u")
        pruner.step(vectors())
        for p in model.parameters():
            pruner.optimizer.state[p]["blocks"] = [torch.ones(3)]  # type: ignore[union-attr]
        if structured:
            with pytest.warns(
                UserWarning, match="the optimizer cannot follow a cut: Adam keeps 'blocks' for '0.weight'"
            ):
                pruner.step(vectors())
        else:
            pruner.step(vectors())


@pytest.mark.parametrize(
    "kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.Adafactor, torch.optim.RMSprop, torch.optim.Adagrad]
)
def test_optimizers_that_follow_are_left_as_they_are(kind: Any) -> None:
    model = mlp()
    optimizer = kind(model.parameters(), 0.1)
    train_epoch(model, optimizer, vectors())
    before = {id(p): {k: v.clone() for k, v in state.items() if v is not None} for p, state in optimizer.state.items()}
    PruningContext.create(model, optimizer, loss, ()).warn_of_state()
    after = {id(p): {k: v for k, v in state.items() if v is not None} for p, state in optimizer.state.items()}
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_a_first_step_after_an_epoch_is_warned_of() -> None:
    for method in ("snip", "earlycrop-s"):
        model = mlp()
        pruner = make(model, method=method, trigger=None)
        train_epoch(model, pruner.optimizer, vectors())  # type: ignore[arg-type]
        with pytest.warns(UserWarning, match="step is called for the first time after training has begun, and counts"):
            pruner.step(vectors())
        later = make(model, method="earlycrop-u")  # a pruner for a model that was trained before
        pruner.close()
        later.step(vectors())


def test_more_steps_than_epochs_are_warned_of_once() -> None:
    pruner = make(mlp())
    pruner.step(vectors())
    train(pruner, 6)
    with pytest.warns(UserWarning, match="this pruner was made for 6 epochs, and step is called after another one"):
        train(pruner, 1)
    train(pruner, 2)


def test_a_pruner_after_one_that_has_finished_or_is_gone_is_no_second_one() -> None:
    model = mlp()
    make(model, trigger=0).step(vectors())
    abandoned = make(model)
    abandoned.step(vectors())
    del abandoned
    closed = make(model)
    closed.step(vectors())
    closed.close()
    last = make(model)
    last.step(vectors())
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        other = make(model)
        other.step(vectors())
        train(other, 3)
        train(last, 1)
    assert [str(w.message).partition(",")[0] for w in seen] == ["another pruner of this model has not finished"]


@pytest.mark.parametrize("exclude", [["*"], ["0", "2", "4"]])
@pytest.mark.parametrize("structured", [True, False])
def test_limits_that_exclude_every_layer_are_refused(exclude: list[str], structured: bool) -> None:
    limits = Limits(exclude=exclude)
    with pytest.raises(ValueError, match="limits exclude all 3 layers of the model, so nothing can be pruned"):
        make(mlp(), method="earlycrop-s" if structured else "earlycrop-u", limits=limits)
    with pytest.raises(ValueError, match="limits exclude all 3 layers"):
        earlycrop.prune(mlp(), loss, vectors(), "snip", 0.5, structured=structured, limits=limits)
    make(mlp(), limits=Limits(exclude=["0", "4"]))
