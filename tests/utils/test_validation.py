"""Arguments of the wrong type or value raise a clear error, and numpy's numbers are accepted like Python's."""

from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import earlycrop
from earlycrop import Limits, Masks, Pruner, prune
from earlycrop.utils.validation import as_modules, as_optimizers, check_sparsity, describe
from tests.pruner_arguments import unchecked_pruner
from tests.toy import loss, mlp, sgd, vectors

network = partial(mlp, 6, 12, 8, 3)
data = partial(vectors, 2)


def unchecked(**given: Any) -> Pruner:
    model = network()
    return unchecked_pruner(**{"model": model, "optimizer": sgd(model), "loss": loss, "epochs": 8, **given})


def limits_of(**given: Any) -> Limits:
    """The same for limits."""
    limits = Limits()
    for name, value in given.items():
        object.__setattr__(limits, name, value)
    inspect.unwrap(Limits.__post_init__)(limits)
    return limits


OTHER_KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "no method": ({"method": None}, "the method cannot be None: take one of dense, random-u"),
    "a number as method": ({"method": 3}, "the method cannot be 3: take one of dense"),
    "sparsity in words": ({"sparsity": "0.5"}, "sparsity is '0.5', and must be a number above 0 and below 1"),
    "no sparsity": ({"sparsity": None}, "sparsity is None, and must be a number above 0 and below 1"),
    "half an epoch": ({"epochs": 2.5}, "epochs must be a whole number, and is 2.5"),
    "epochs in words": ({"epochs": "8"}, "epochs must be a whole number, and is '8'"),
    "half a round": ({"rounds": 2.5}, "rounds must be a whole number, and is 2.5"),
    "a float as trigger": ({"trigger": 2.0}, "the trigger cannot be 2.0: give a name, the number of an epoch"),
    "a class as trigger": ({"trigger": int}, "the trigger cannot be a type: give a name, the number of an epoch"),
    "limits as a dict": ({"limits": {"floors": {"0": 2}}}, r"limits cannot be a dict: write earlycrop.Limits\("),
    "no loss": ({"loss": None}, "the loss cannot be None: give a function of"),
    "a module of torch as loss": (
        {"loss": nn.CrossEntropyLoss()},
        r"the loss cannot be a CrossEntropyLoss, which takes outputs and targets: give a function of \(model, batch\)",
    ),
    "a loss of one argument": (
        {"loss": lambda batch: batch},
        r"the loss cannot be called as loss\(model, batch\): too many positional arguments",
    ),
    "a function as model": ({"model": lambda x: x}, "the model cannot be a function: give a torch.nn.Module"),
    "parameters": ({"optimizer": network().parameters()}, "the optimizer cannot be a generator: give the torch.optim"),
    "None among optimizers": ({"optimizer": [None]}, "the optimizer cannot be None: give the torch.optim.Optimizer"),
    "a number as averages": (
        {"ema_models": 3},
        r"an EMA model cannot be 3: give averages .*, such as ema_models=\[ema\]",
    ),
}


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"floors": None}, r'floors cannot be None: write \{"layer1": 0.25\}'),
        ({"ceilings": [("0", 1)]}, r'ceilings cannot be a list: write \{"layer1": 0.25\}'),
        ({"exclude": 3}, r'exclude cannot be 3: write \["layer1"'),
        ({"exclude": [3]}, "a pattern of exclude cannot be 3: give a layer's name"),
    ],
)
def test_limits_of_the_wrong_container_are_refused(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        limits_of(**limits)


@pytest.mark.parametrize("name", list(OTHER_KINDS))
def test_an_argument_of_the_wrong_type_is_refused(name: str) -> None:
    given, sentence = OTHER_KINDS[name]
    with pytest.raises(TypeError, match=sentence):
        unchecked(**given)


def test_a_scheduler_is_no_optimizer() -> None:
    model = network()
    optimizer = sgd(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with pytest.raises(TypeError, match=r"the optimizer cannot be a StepLR: give the torch\.optim\.Optimizer"):
        unchecked(model=model, optimizer=scheduler)
    with pytest.raises(TypeError, match="the optimizer cannot be a StepLR"):
        inspect.unwrap(prune)(model, loss, data(), optimizer=scheduler)
    assert as_optimizers(None) == []
    assert as_optimizers(optimizer) == as_optimizers((optimizer,)) == [optimizer]


@pytest.mark.parametrize("sparsity", [-0.1, 0, 1, 1.5, float("nan")])
@pytest.mark.parametrize("method", ["earlycrop-s", "cropit-u", "synflow", "snip"])
def test_a_sparsity_is_reported_as_it_was_given(sparsity: float, method: str) -> None:
    with pytest.raises(ValueError, match=f"sparsity must be above 0 and below 1, and is {sparsity}: it is the share"):
        unchecked(method=method, sparsity=sparsity)


def test_prune_refuses_arguments_of_the_wrong_type() -> None:
    model = network()
    for given, sentence in (
        ({"sparsity": "0.5"}, "sparsity is '0.5'"),
        ({"criterion": 3}, "the criterion cannot be 3: take one of "),
        ({"limits": {}}, "limits cannot be a dict"),
        ({"rounds": 1.5}, "rounds must be a whole number"),
        ({"loss": None}, "the loss cannot be None"),
    ):
        with pytest.raises(TypeError, match=sentence):
            inspect.unwrap(prune)(**{"model": model, "loss": loss, "batches": data(), **given})
    with pytest.raises(ValueError, match=r"and is 1.5: it is the share"):
        prune(model, loss, data(), sparsity=1.5, rounds=3)


def test_numbers_of_numpy_prune_and_are_kept(tmp_path: Path) -> None:
    given = {"sparsity": np.float32(0.3), "epochs": np.int64(4), "trigger": np.int64(0), "rounds": np.int32(2)}
    limits = limits_of(ceilings={"0": np.int64(6), "2": np.float32(0.5)}, multiple=np.int64(2))
    pruner = unchecked(**given, limits=limits)
    event = pruner.step(data())
    assert event is not None
    assert (event.asked, event.limits.ceilings) == (0.3, {"0": 6, "2": 0.5})  # and not 0.30000001192
    earlycrop.save_state(pruner.state_dict(), tmp_path / "state")
    assert earlycrop.load_state(tmp_path / "state")["events"][0]["asked"] == 0.3
    assert check_sparsity(np.float64(0.5)) == 0.5
    assert type(check_sparsity(np.float64(0.5))) is float


def test_limits_that_are_no_whole_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"floors\['0'\] is '4': give a whole number"):
        limits_of(floors={"0": "4"})
    with pytest.raises(TypeError, match=r"multiple must be a whole number, and is 2.5"):
        limits_of(multiple=2.5)


@pytest.mark.parametrize("method", ["crop-s", "snip"])
def test_a_single_copy_needs_no_list(method: str) -> None:
    model = network()
    ema = AveragedModel(model)
    event = Pruner(model, sgd(model), loss, method, 0.5, epochs=3, ema_models=ema).step(data())
    assert event is not None
    for p, q in zip(model.parameters(), ema.module.parameters(), strict=True):
        assert torch.equal(p, q)
    stack = nn.Sequential(nn.Linear(2, 2))  # a module that can be gone through is one copy all the same
    assert as_modules(stack) == [stack]
    assert as_modules(nn.ModuleList([stack, ema])) == [stack, ema]


def test_describe_names_the_value_or_its_type() -> None:
    assert [describe(v) for v in (None, "x", 2.0, [1])] == ["None", "'x'", "2.0", "a list"]


@pytest.mark.parametrize("method", ["earlycrop-s", "earlycrop-u", "dense"])
def test_the_optimizer_of_another_model_is_refused_at_once(method: str) -> None:
    other = torch.optim.SGD(mlp().parameters(), 0.1)
    with pytest.raises(ValueError, match="the optimizer holds none of the model's parameters"):
        Pruner(mlp(), other, loss, method, epochs=4)
    with pytest.raises(ValueError, match="the optimizer holds none of the model's parameters"):
        Masks.of_zeros(mlp(), other)


@pytest.mark.parametrize("batches", [None, 3, torch.randn(4, 6), {"x": torch.randn(4, 6)}])
def test_a_single_batch_in_place_of_several_is_refused(batches: Any) -> None:
    sentence = r"the batches cannot be (None|3|a Tensor|a dict): give an iterable .*; for one batch give \[\(X, Y\)\]"
    with pytest.raises(TypeError, match=sentence):
        inspect.unwrap(prune)(network(), loss, batches, "snip", 0.5)
    for method in ("snip", "crop-s"):
        pruner = unchecked(method=method)
        with pytest.raises(TypeError, match=sentence):
            inspect.unwrap(Pruner.step)(pruner, batches)
