"""A pruner's state: one of another pruner is refused before anything of it is taken up."""

from __future__ import annotations

import copy
import pickle
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from earlycrop import Pruner, prune, trace
from tests.pruner_arguments import with_options
from tests.toy import loss, mlp, sgd, train_epoch, vectors

network = partial(mlp, 6, 12, 8, 3)
data = partial(vectors, 2)


def pruner_of(method: str, model: nn.Module | None = None, **options: Any) -> Pruner:
    model = network() if model is None else model
    return Pruner(model, sgd(model), loss, method, 0.5, **with_options(**{"epochs": 12, **options}))


def stepped(pruner: Pruner, steps: int = 4) -> Pruner:
    for _ in range(steps):
        pruner.step(data())
    return pruner


def plain(state: Any) -> Any:
    """A state with tensors as lists, so that two of them can be compared."""
    if isinstance(state, Tensor):
        return state.tolist()
    if isinstance(state, dict):
        return {k: plain(v) for k, v in state.items()}
    return [plain(v) for v in state] if isinstance(state, list | tuple) else state


def test_a_state_of_a_cut_model_is_refused_by_one_that_is_not() -> None:
    """Whoever forgets to load the model would train the dense one, and be told nothing."""
    pruner = stepped(pruner_of("crop-s"), 1)
    assert pruner.event is not None
    other = pruner_of("crop-s")
    with pytest.raises(ValueError, match=r"the state is of another model: .* Load the model of that checkpoint first"):
        other.load_state_dict(pruner.state_dict())
    assert other.events == []


OTHERS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "dense": (
        {"method": "dense"},
        {"method": "earlycrop-s"},
        "of a pruner with the method 'dense', and this one has the method 'earlycrop-s' and the trigger LazyRegime",
    ),
    "into dense": (
        {"method": "earlycrop-u"},
        {"method": "dense"},
        "and this one has the method 'dense': make this one",
    ),
    "another method": (
        {"method": "snip"},
        {"method": "crop-u"},
        "the method 'snip' and .*, and this one has the method 'crop-u'",
    ),
    "another procedure": (
        {"method": "ltr"},
        {"method": "snip"},
        "the method 'ltr', and this one has the method 'snip'",
    ),
    "another trigger": (
        {"method": "earlycrop-s", "trigger": "knee"},
        {"method": "earlycrop-s", "trigger": "mask-distance"},
        "the trigger Knee, and this one has the method 'earlycrop-s' and the trigger MaskDistance",
    ),
    "unwatched": (
        {"method": "crop-s", "trigger": 9},
        {"method": "crop-s", "trigger": 9, "log_triggers": True},
        "does not hold how the weights have moved, which this pruner needs",
    ),
    "a wider model": (
        {"method": "earlycrop-s", "model": nn.Sequential(nn.Linear(6, 9), nn.Linear(9, 3))},
        {"method": "earlycrop-s"},
        r"the state is of another model: it has a '0.weight' of shape \(9, 6\)",
    ),
    "a wider masked model": (
        {"method": "snip", "model": nn.Sequential(nn.Linear(6, 9), nn.Linear(9, 3))},
        {"method": "snip"},
        r"the state is of another model: it has a '0.weight' of shape \(9, 6\)",
    ),
}


@pytest.mark.parametrize("name", list(OTHERS))
def test_a_state_of_another_pruner_changes_nothing(name: str) -> None:
    theirs, ours, sentence = OTHERS[name]
    state = stepped(pruner_of(**theirs), 2 if theirs.get("trigger") else 3).state_dict()
    pruner = pruner_of(**ours)
    before = plain(pruner.state_dict())
    with pytest.raises(ValueError, match=sentence):
        pruner.load_state_dict(state)
    assert plain(pruner.state_dict()) == before
    assert pruner.epoch == -1


def test_masks_that_are_held_stay_where_a_state_is_refused() -> None:
    pruner = stepped(pruner_of("snip"), 1)
    assert pruner.event is not None
    state = pruner.state_dict()
    state["masks"] = {"0.weight": torch.ones(2, 2, dtype=torch.bool)}
    with pytest.raises(ValueError, match=r"the mask of '0.weight' fits no parameter"):
        pruner.load_state_dict(state)
    train(pruner.model, pruner.optimizer)
    assert grown(pruner.model, pruner) == 0


def test_a_dict_that_is_no_state_is_refused() -> None:
    for take in (pruner_of("crop-s", trigger=3).load_state_dict, pruner_of("crop-s", trigger=3).branch_off):
        with pytest.raises(
            ValueError, match="this is not the state of a pruner, as it has no 'epoch': give what state_dict"
        ):
            take({})


def test_a_model_that_something_else_has_cut_is_refused() -> None:
    watched = {
        "walk": pruner_of("earlycrop-s", trigger="knee"),
        "masks": pruner_of("crop-s", trigger="mask-distance"),
        "both": pruner_of("crop-s", trigger=9, log_triggers=True),
    }
    for name, pruner in watched.items():
        stepped(pruner, 2)
        prune(pruner.model, loss, data(), sparsity=0.3, optimizer=pruner.optimizer)
        for _ in range(2):  # the first has changed nothing
            with pytest.raises(
                ValueError, match=r"'0.weight' had the shape \(12, 6\) when the pruner last looked, .* anot"
            ):
                pruner.step(data())
        assert pruner.epoch == 1, name


def test_two_pruners_of_one_model() -> None:
    model = network()
    first, second = pruner_of("crop-s", model, trigger=1), pruner_of("earlycrop-s", model, trigger="knee")
    first.step(data())
    with pytest.warns(UserWarning, match="another pruner of this model has not finished, and both would prune it"):
        second.step(data())
    assert first.step(data()) is not None
    with pytest.raises(ValueError, match=r"has changed the model. Make a new pruner for the model as it is"):
        second.step(data())
    second.close()
    assert stepped(pruner_of("earlycrop-s", model, trigger="knee"), 2).epoch == 1


def test_a_first_batch_without_examples_spends_nothing() -> None:
    empty = (torch.randn(0, 6), torch.zeros(0, dtype=torch.long))
    for method in ("crop-s", "snip"):
        pruner = pruner_of(method)
        with pytest.raises(ValueError, match=r"the first batch has no examples, and .*: leave it out"):
            pruner.step([empty, *data()])
        assert (pruner.epoch, pruner.event) == (-1, None)
        event = pruner.step(data())
        assert event is not None
        assert event.achieved >= 0.5
    with pytest.raises(ValueError, match="the first batch has no examples"):
        prune(network(), lambda m, b: loss(m, (b["x"], b["y"])), [{"x": empty[0], "y": empty[1]}])


def train(model: Any, optimizer: Any, steps: int = 3) -> None:
    train_epoch(model, optimizer, data()[:1] * steps)


def grown(model: nn.Module, pruner: Pruner) -> int:
    """How many of the removed weights are not zero."""
    assert pruner.event is not None
    assert pruner.event.masks is not None
    named = dict(model.named_parameters())
    return sum(int(named[name][gone].count_nonzero()) for name, gone in pruner.event.masks.removed.items())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda three: pickle.loads(pickle.dumps(three))])
def test_a_copy_of_a_pruner_holds_its_own_masks(copied: Any) -> None:
    pruner = pruner_of("snip")
    pruner.step(data())
    model, optimizer, other = copied((pruner.model, pruner.optimizer, pruner))
    assert other.model is model
    other.event.masks.release()
    train(model, optimizer)
    assert grown(model, other) > 0, "masks of a copy are let go of by themselves"
    model, optimizer, other = copied((pruner.model, pruner.optimizer, pruner))
    for m, o in ((model, optimizer), (pruner.model, pruner.optimizer)):
        m.load_state_dict({n: torch.randn_like(t) for n, t in m.state_dict().items()}, assign=True)
        train(m, o)
        train(m, sgd(m))
    assert grown(model, other) == grown(pruner.model, pruner) == 0  # type: ignore[arg-type]


class Itself(nn.Module):
    """Holds a weight of its own, and the pruner that prunes it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.out = nn.Parameter(torch.randn(6, 8)), nn.Linear(8, 3)
        self.pruner: Any = None

    def forward(self, x: Tensor) -> Tensor:
        return self.out((x @ self.weight).relu())  # type: ignore[no-any-return]


def test_a_model_that_holds_its_pruner_is_copied_with_it() -> None:
    model = Itself()
    model.pruner = pruner_of("snip", model)
    assert model.pruner.step(data()) is not None
    assert trace(model, data()[0][0]).count == 8
    for other in (copy.deepcopy(model), model):
        other.load_state_dict({n: torch.randn_like(t) for n, t in other.state_dict().items()}, assign=True)
        train(other, sgd(other))
        assert grown(other, other.pruner) == 0


@pytest.mark.parametrize("method", ["earlybird", "gatedecorators"])
def test_a_pruner_whose_hooks_a_copy_would_lack_is_not_copied(method: str) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    pruner = pruner_of(method, model)
    with pytest.raises(TypeError, match="has hooks that a copy would lack: copy model and optimizer, and load this"):
        copy.deepcopy((model, pruner.optimizer, pruner))
