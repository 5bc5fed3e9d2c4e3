"""Wrong arguments of the API, a sentence each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import earlycrop
from earlycrop import Criterion, Limits, Method, Pruner, PrunerOptions, prune, shrink, trace
from tests.toy import loss, mlp, sgd, vectors
from tests.wrong_inputs.sentences import require_sentence

pytestmark = pytest.mark.usefixtures("without_type_checks")

PRUNE: dict[str, tuple[dict[str, Any], str]] = {
    "a sparsity of 0": ({"sparsity": 0}, "sparsity must be above 0 and below 1, and is 0"),
    "a sparsity of 1": ({"sparsity": 1}, "sparsity must be above 0 and below 1, and is 1"),
    "per cent": ({"sparsity": 90}, "sparsity must be above 0 and below 1, and is 90"),
    "a negative sparsity": ({"sparsity": -0.5}, "sparsity must be above 0"),
    "nan as sparsity": ({"sparsity": float("nan")}, "sparsity must be above 0 and below 1, and is nan"),
    "a string as sparsity": ({"sparsity": "0.9"}, "sparsity is '0.9', and must be a number"),
    "no sparsity": ({"sparsity": None}, "sparsity is None, and must be a number"),
    "an unknown criterion": ({"criterion": "corp"}, "there is no criterion 'corp', did you mean 'crop'?"),
    "a criterion of another table": ({"criterion": "earlycrop-s"}, "there is no criterion 'earlycrop-s'"),
    "a function as criterion": ({"criterion": lambda w, g, hg: w}, "or make a Criterion"),
    "an unknown measure": ({"of": "flops"}, "there is no measure 'flops': take one of weights"),
    "a misspelt measure": ({"of": "weight"}, "did you mean 'weights'?"),
    "nodes of single weights": ({"of": "nodes", "structured": False}, "take a structured method"),
    "no rounds": ({"rounds": 0}, "rounds must be at least 1, and is 0"),
    "half a round": ({"rounds": 2.5}, "rounds must be a whole number, and is 2.5"),
    "an unknown gate": ({"gate": "row"}, "there is no gate 'row', did you mean 'rows'?"),
    "unknown statistics": ({"statistics": "batches"}, "did you mean 'batch'?"),
    "a loss without arguments": ({"loss": lambda: 0}, "the loss cannot be called as loss(model, batch)"),
    "a criterion of torch": ({"loss": nn.MSELoss()}, "the loss cannot be a MSELoss, which takes outputs and targets"),
    "a number as loss": ({"loss": 3}, "the loss cannot be 3: give a function of (model, batch)"),
    "a loss that is a vector": (
        {"loss": lambda model, batch: model(batch[0])},
        "the loss must be a scalar tensor, and is a tensor of shape (8, 3)",
    ),
    "a loss that is nan": ({"loss": lambda model, batch: model(batch[0]).sum() * float("nan")}, "the loss is nan"),
    "a loss of nothing": ({"loss": lambda model, batch: None}, "let it run the model that it is given"),
    "a loss of numbers": ({"loss": lambda model, batch: 0.5}, "let it run the model that it is given"),
    "a loss of no terms": ({"loss": lambda model, batch: ()}, "let it run the model that it is given"),
    "a loss without the model": (
        {"loss": lambda model, batch: batch[0].sum()},
        "let it run the model that it is given",
    ),
    "a single batch": ({"batches": vectors()[0][0]}, "give an iterable of batches, such as a DataLoader"),
    "a dict as batches": ({"batches": {"x": 1}}, "the batches cannot be a dict"),
    "no batches": ({"batches": None}, "the batches cannot be None"),
    "an empty list": ({"batches": []}, "there is no batch to score on: give at least one batch"),
    "an empty batch": ({"batches": [(torch.empty(0, 6), torch.empty(0, dtype=torch.long))]}, "has no examples"),
    "inputs of another size": (
        {"batches": [(torch.randn(4, 5), torch.zeros(4, dtype=torch.long))]},
        "loss(model, batch) failed on the first batch: RuntimeError",
    ),
    "a scheduler as optimizer": ({"optimizer": "adam"}, "give the torch.optim.Optimizer that trains the model"),
    "an optimizer of another model": ({"optimizer": sgd(mlp())}, "the optimizer holds none of the model's parameters"),
    "a model as limits": ({"limits": mlp()}, "write earlycrop.Limits(floors=...)"),
    "a dict as limits": ({"limits": {"*": 0.1}}, "limits cannot be a dict: write earlycrop.Limits(floors=...)"),
    "another model's average": ({"ema_models": [mlp(6, 8, 3)]}, "is no copy of the model"),
    "a number as average": ({"ema_models": [3]}, "an EMA model cannot be 3"),
    "a class as model": ({"model": nn.Linear}, "the model cannot be a type: give a torch.nn.Module"),
    "a tensor as model": ({"model": torch.zeros(3)}, "the model cannot be a Tensor"),
    "a lazy model": ({"model": nn.Sequential(nn.LazyLinear(3))}, "has no shape yet: run the model on one batch first"),
    "yes as a sparsity": ({"sparsity": True}, "sparsity must be above 0 and below 1, and is True"),
    "several sparsities": ({"sparsity": torch.tensor([0.5, 0.6])}, "sparsity is a Tensor, and must be a number"),
    "yes as rounds": ({"rounds": True}, "rounds must be a whole number, and is True"),
    "a word as structured": ({"structured": "no"}, "structured cannot be 'no': give True to cut nodes, or False"),
    "a function of batches": ({"batches": vectors}, "the batches cannot be a function"),
    "a data set": ({"batches": TensorDataset(torch.ones(4, 6))}, "the batches cannot be a TensorDataset"),
    "batches of nothing": ({"batches": [None]}, "loss(model, batch) failed on the first batch: TypeError"),
    "a loss with its arguments swapped": (
        {"loss": lambda batch, model: loss(model, batch)},
        "loss(model, batch) failed on the first batch: TypeError",
    ),
    "a loss that is complex": (
        {"loss": lambda model, batch: loss(model, batch) * 1j},
        "the loss is complex, and must be real: take its .abs() or its .real",
    ),
    "a detached loss": ({"loss": lambda model, batch: loss(model, batch).detach()}, "the loss depends on none of its"),
    "a loss as a number": ({"loss": lambda model, batch: loss(model, batch).item()}, "the loss depends on none of its"),
    "a frozen model": ({"model": mlp().requires_grad_(False)}, "none of its parameters is trained"),
    "a state dict as model": ({"model": mlp().state_dict()}, "the model cannot be a OrderedDict"),
    "a name as model": ({"model": "resnet50"}, "the model cannot be 'resnet50': give a torch.nn.Module"),
    "a model in half precision": ({"model": mlp().half()}, "failed on the first batch: RuntimeError"),
    "parameters as optimizer": ({"optimizer": mlp().parameters()}, "the optimizer cannot be a generator"),
    "the model as its own average": (
        (lambda model: {"model": model, "ema_models": [model]})(mlp()),
        "shares tensors with the model or another EMA model",
    ),
    "an effect of one number": (
        {"criterion": Criterion(lambda w, g, hg: w.sum(), 0)},
        "the criterion's effect returned a tensor of shape () for a parameter of shape (16, 6)",
    ),
    "an effect that is a float": ({"criterion": Criterion(lambda w, g, hg: 1.0, 0)}, "effect returned 1.0 for a"),
    "an effect that is nan": ({"criterion": Criterion(lambda w, g, hg: w * float("nan"), 0)}, "are not finite"),
    "a model without layers": ({"model": nn.ReLU()}, "the model has no parameters"),
}
LIMITS: dict[str, tuple[dict[str, Any], str]] = {
    "a floor of 0": ({"floors": {"*": 0}}, "floors['*'] is 0: give a whole number of at least 1"),
    "a floor above 1": ({"floors": {"*": 1.5}}, "floors['*'] is 1.5"),
    "a floor in words": ({"floors": {"*": "half"}}, "floors['*'] is 'half'"),
    "a floor without a pattern": ({"floors": 0.5}, 'write {"layer1": 0.25}'),
    "a ceiling of nothing": ({"ceilings": {"0": None}}, "ceilings['0'] is None"),
    "yes as a floor": ({"floors": {"*": True}}, "floors['*'] is True: give a whole number of at least 1"),
    "nan as a floor": ({"floors": {"*": float("nan")}}, "floors['*'] is nan"),
    "a list of floors": ({"floors": [("*", 0.5)]}, 'floors cannot be a list: write {"layer1": 0.25}'),
    "a floor of a number": ({"floors": {0: 0.5}}, "a pattern of floors cannot be 0: give a layer's name"),
    "yes as a multiple": ({"multiple": True}, "multiple must be a whole number, and is True"),
    "a multiple in words": ({"multiple": "8"}, "multiple must be a whole number, and is '8'"),
    "nothing as exclude": ({"exclude": None}, 'exclude cannot be None: write ["layer1", "*.proj"]'),
    "a negative ceiling": ({"ceilings": {"0": -1}}, "ceilings['0'] is -1"),
    "a string as exclude": ({"exclude": "fc"}, "exclude is a list of patterns, and is a string: write ['fc']"),
    "a number as pattern": ({"exclude": [3]}, "a pattern of exclude cannot be 3"),
    "a multiple of 0": ({"multiple": 0}, "multiple must be at least 1, and is 0"),
    "half a multiple": ({"multiple": 1.5}, "multiple must be a whole number, and is 1.5"),
}
PATTERNS: dict[str, tuple[Limits, str]] = {
    "a floor of no layer": (Limits(floors={"fc9": 0.5}), "no layer with a weight matrix matches 'fc9'"),
    "a layer that does not exist": (Limits(exclude=["encoder"]), "no layer with a weight matrix matches 'encoder'"),
    "an include of no layer": (Limits(include=["embedding"]), "no layer with a weight matrix matches 'embedding'"),
    "all layers excluded": (Limits(exclude=["*"]), "limits exclude all 3 layers of the model"),
    "a floor above its layer": (
        Limits(floors={"0": 100}),
        "floors['0'] is 100, and the widest layer that it matches has 16",
    ),
    "a floor above its ceiling": (
        Limits(floors={"0": 12}, ceilings={"0": 4}),
        "raise its ceiling, or lower the floors",
    ),
}
PRUNER: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown method": ({"method": "earlycrop_s"}, "there is no method 'earlycrop_s', did you mean 'earlycrop-s'?"),
    "a criterion as method": ({"method": earlycrop.CRITERIA["crop"]}, "or make a Method"),
    "no method": ({"method": None}, "the method cannot be None"),
    "no epochs": ({"epochs": 0}, "epochs must be at least 1, and is 0"),
    "half an epoch": ({"epochs": 2.5}, "epochs must be a whole number, and is 2.5"),
    "too few epochs": ({"epochs": 2}, "early pruning needs at least 3 epochs"),
    "one epoch for after": ({"method": "taylor", "epochs": 1}, "pruning after training needs at least 2 epochs"),
    "no score batches": ({"score_batches": 0}, "score_batches must be at least 1, and is 0"),
    "an unknown trigger": ({"trigger": "lazy"}, "there is no trigger 'lazy'"),
    "a misspelt trigger": ({"trigger": "lazy-regim"}, "did you mean 'lazy-regime'?"),
    "a late trigger": ({"trigger": 99}, "the trigger may wait until epoch 99, and there are 6"),
    "a negative trigger": ({"trigger": -1}, "there is no trigger '-1': take one of before"),
    "a class as trigger": ({"trigger": earlycrop.LazyRegime}, "the trigger is the class LazyRegime: make one of it"),
    "a trigger for tick-tock": ({"method": "gatedecorators", "trigger": 2}, "leave out the trigger"),
    "epochs in words": ({"epochs": "30"}, "epochs must be a whole number, and is '30'"),
    "score batches in words": ({"score_batches": "5"}, "score_batches must be a whole number, and is '5'"),
    "half an epoch as trigger": ({"trigger": 2.5}, "the trigger cannot be 2.5: give a name, the number of an epoch"),
    "a list as trigger": ({"trigger": [2]}, "the trigger cannot be a list"),
    "a function as trigger": ({"trigger": lambda context: None}, "the trigger cannot be a function"),
    "words as a probe": ({"options": PrunerOptions(ntk_probe="x")}, "loss(model, batch) fails on ntk_probe (TypeError"),
    "a probe of another size": (
        {"options": PrunerOptions(ntk_probe=(torch.randn(3, 5), torch.zeros(3)))},
        "fails on ntk_probe (RuntimeError",
    ),
    "a dict of options": ({"options": {"gate": "rows"}}, "options cannot be a dict: write earlycrop.PrunerOptions"),
    "single weights in nodes": ({"method": "snip", "of": "nodes"}, "take a structured method"),
    "a multiple of single weights": ({"method": "snip", "limits": Limits(multiple=8)}, "leave it at 1"),
    "a loss of torch": ({"loss": nn.CrossEntropyLoss()}, "which takes outputs and targets"),
    "an optimizer class": ({"optimizer": torch.optim.SGD}, "give the torch.optim.Optimizer that trains the model"),
    "no norms to decorate": (
        {"method": "gatedecorators"},
        "this network has none: take another method, such as taylor",
    ),
}
OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "a lost state": ({"optimizer_state": "lose"}, "optimizer_state must be 'keep' or 'reset', and is 'lose'"),
    "a negative penalty": ({"penalty": -1}, "penalty must be 0 or more, and is -1"),
    "a penalty in words": ({"penalty": "0.1"}, "penalty must be a number, and is '0.1'"),
    "nan as a penalty": ({"penalty": float("nan")}, "penalty must be 0 or more, and is nan"),
    "a rewind in words": ({"rewind": "early"}, "rewind must be a number, and is 'early'"),
    "early batches in words": ({"early_batches": "half"}, "early_batches must be a number, and is 'half'"),
    "twice the early batches": ({"early_batches": 2}, "early_batches must be a share, above 0 and at most 1, and is 2"),
    "a number to rewind": ({"rewind_with": [3]}, "rewind_with cannot hold 3: give what has state_dict"),
    "a scheduler that is in no list": ({"rewind_with": 3}, "rewind_with cannot be 3: give a list"),
    "no early batches": ({"early_batches": 0}, "early_batches must be a share, above 0 and at most 1, and is 0"),
    "a rewind of 1": ({"rewind": 1}, "rewind must be a share of the epochs"),
}


@pytest.mark.parametrize("name", PRUNE)
def test_a_wrong_argument_of_prune(name: str) -> None:
    arguments, fragment = PRUNE[name]
    given = {"model": mlp(), "loss": loss, "batches": vectors(1), "sparsity": 0.5, **arguments}
    require_sentence(lambda: prune(**given), fragment)


@pytest.mark.parametrize("name", LIMITS)
def test_a_wrong_limit(name: str) -> None:
    arguments, fragment = LIMITS[name]
    require_sentence(lambda: Limits(**arguments), fragment)


@pytest.mark.parametrize("name", PATTERNS)
def test_a_limit_that_does_not_fit_the_model(name: str) -> None:
    limits, fragment = PATTERNS[name]
    require_sentence(lambda: prune(mlp(), loss, vectors(1), sparsity=0.5, limits=limits), fragment)


@pytest.mark.parametrize("name", PRUNER)
def test_a_wrong_argument_of_a_pruner(name: str) -> None:
    arguments, fragment = PRUNER[name]
    model = mlp()
    given = {"model": model, "optimizer": sgd(model), "loss": loss, "epochs": 6, **arguments}
    require_sentence(lambda: Pruner(**given), fragment)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_wrong_option(name: str) -> None:
    arguments, fragment = OPTIONS[name]
    require_sentence(lambda: PrunerOptions(**arguments), fragment)


CRITERION = earlycrop.CRITERIA["crop"]
ROWS: dict[str, tuple[type, dict[str, Any], str]] = {
    "a third derivative": (Criterion, {"effect": None, "order": 3}, "order must be 0, 1 or 2, and is 3"),
    "a number as effect": (Criterion, {"effect": 3, "order": 1}, "the criterion's effect cannot be 3"),
    "an effect without Hg": (
        Criterion,
        {"effect": lambda w, g: w, "order": 1},
        "the criterion's effect cannot be called as effect(w, g, Hg)",
    ),
    "the name of a criterion": (Method, {"criterion": "crop"}, "take an entry of CRITERIA, or make a Criterion"),
    "a number as schedule": (Method, {"criterion": CRITERION, "schedule": 5}, "give a function of (sparsity, rounds)"),
    "a name as trigger": (Method, {"criterion": CRITERION, "trigger": "knee"}, "give a function of (sparsity, epochs)"),
    "an unknown procedure": (Method, {"criterion": CRITERION, "procedure": "twice"}, "no procedure 'twice'"),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_wrong_row_of_a_table(name: str) -> None:
    row, arguments, fragment = ROWS[name]
    require_sentence(lambda: row(**({"structured": True} if row is Method else {}), **arguments), fragment)


class Answers(earlycrop.Trigger):
    """A trigger that says yes and not why."""

    latest = 3

    def update(self, context: Any) -> Any:
        return True


def test_a_trigger_that_says_yes_and_not_why() -> None:
    model = mlp()
    pruner = Pruner(model, sgd(model), loss, epochs=6, trigger=Answers())
    require_sentence(lambda: pruner.step(vectors(1)), "what Answers.update returns cannot be True: return a sentence")
    assert pruner.event is None


CUTS: dict[str, tuple[Any, str]] = {
    "a node that is not there": ([99], "there is no node 99: this graph has nodes 0 to 31"),
    "a negative node": ([-1], "there is no node -1: this graph has nodes 0 to 31"),
    "words": ("all", "hold the indices of nodes as integers, for instance [0, 5, 7]"),
    "a whole layer": (list(range(16)), "the cut would leave nothing of dimension 0 of '0.weight': keep one node"),
}


@pytest.mark.parametrize("name", CUTS)
def test_a_cut_that_cannot_be_made(name: str) -> None:
    model = mlp()
    graph = trace(model, torch.randn(2, 6))
    remove, fragment = CUTS[name]
    require_sentence(lambda: shrink(model, graph, remove), fragment)


def test_a_cut_without_a_graph() -> None:
    require_sentence(lambda: shrink(mlp(), None, [0]), "the graph cannot be None: give what earlycrop.trace(")


EXAMPLES: dict[str, tuple[Any, str]] = {
    "no example": (None, "the model fails on the example (TypeError"),
    "an example of another size": (torch.randn(2, 5), "the model fails on the example (RuntimeError"),
    "words": ("image", "the model fails on the example (TypeError"),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_model_that_cannot_be_traced(name: str) -> None:
    example, fragment = EXAMPLES[name]
    require_sentence(lambda: trace(mlp(), example), fragment)
