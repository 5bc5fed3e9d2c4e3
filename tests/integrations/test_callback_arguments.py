"""Callbacks check their arguments when they are made, and say when and what they prune."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

import earlycrop
from tests.integrations.callbacks import Small, points, transformers
from tests.integrations.lightning_runs import QUIET

pytestmark = QUIET


def make(**arguments: Any) -> Any:
    pytest.importorskip("accelerate")
    from earlycrop.integrations.transformers import PruningCallback

    return PruningCallback(**arguments)


@pytest.mark.parametrize(
    ("arguments", "kind", "sentence"),
    [
        ({"sparsity": 95}, ValueError, "sparsity must be above 0 and below 1, and is 95"),
        ({"of": "node"}, ValueError, "there is no measure 'node', did you mean 'nodes'"),
        ({"trigger": "nee"}, ValueError, "there is no trigger 'nee', did you mean 'knee'"),
        ({"trigger": 2.5}, TypeError, "the trigger cannot be 2.5: give a name, the number of an epoch"),
        ({"round": 5}, TypeError, "a PruningCallback takes no argument round, did you mean rounds"),
        ({"rounds": 0}, ValueError, "rounds must be at least 1, and is 0"),
        ({"score_batches": 0}, ValueError, "score_batches must be at least 1, and is 0"),
        ({"limits": 0.1}, TypeError, r"limits cannot be 0.1: write earlycrop.Limits\(floors"),
        ({"options": "fast"}, TypeError, r"options cannot be 'fast': write earlycrop.PrunerOptions"),
        ({"loss": 3}, TypeError, r"the loss cannot be 3: give a function of \(model, batch\)"),
        ({"batches": 3}, TypeError, "the batches cannot be 3: give an iterable of batches"),
        ({"method": "ltr"}, ValueError, "ltr trains the model again and again, which a Trainer does not"),
        ({"method": "snip", "of": "nodes"}, ValueError, "an unstructured method removes a share of the weights"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_arguments_are_checked_when_the_callback_is_made(
    arguments: dict[str, Any], kind: type[Exception], sentence: str
) -> None:
    with pytest.raises(kind, match=sentence):
        make(**arguments)


def test_a_trainer_logs_when_and_what_was_pruned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = make(sparsity=0.5, trigger=1, limits=earlycrop.Limits(floors={"*": 0.25}))
    arguments = transformers.TrainingArguments(
        str(tmp_path), num_train_epochs=3, use_cpu=True, report_to=[], disable_tqdm=True, save_strategy="epoch",
        logging_strategy="epoch", dataloader_pin_memory=False,
    )  # fmt: skip
    with caplog.at_level(logging.INFO, "earlycrop.integrations"):
        trainer = transformers.Trainer(Small(), arguments, train_dataset=points(), callbacks=[callback])
        trainer.train()
    (line,) = caplog.messages
    assert line.startswith("earlycrop-s pruned at epoch 1 (after epoch 1, as set): 352 -> ")
    (logs,) = (logs for logs in trainer.state.log_history if "earlycrop/pruned_epoch" in logs)
    assert logs["earlycrop/pruned_epoch"] == 1
    assert logs["earlycrop/weight_sparsity"] == callback.pruner.event.weight_sparsity
    assert logs["earlycrop/certificate"] < 1e-5
    assert "loss" in logs
    assert min(after / before for before, after in callback.pruner.event.layers.values()) >= 0.25


class Tupled(Small):
    def forward(self, x: Any, labels: Any) -> Any:
        return tuple(super().forward(x, labels).values())


class AsDict(Small):
    def forward(self, x: Any, labels: Any) -> Any:
        return dict(super().forward(x, labels))


class Service(transformers.TrainerCallback):
    """A service that a Trainer reports to."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.names |= set(logs)


@pytest.mark.parametrize("kind", [Tupled, AsDict])
def test_a_model_returns_its_loss_as_a_trainer_takes_it_and_a_later_service_gets_the_numbers(
    kind: type[Small], tmp_path: Path
) -> None:
    callback, service = make(sparsity=0.5, trigger=1), Service()
    arguments = transformers.TrainingArguments(
        str(tmp_path), num_train_epochs=3, use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no",
        logging_strategy="epoch", dataloader_pin_memory=False,
    )  # fmt: skip
    transformers.Trainer(kind(), arguments, train_dataset=points(), callbacks=[callback, service]).train()
    assert callback.pruner.event.epoch == 1
    assert {"loss", "earlycrop/pruned_epoch", "earlycrop/weight_sparsity"} <= service.names
