"""Prune in a ``transformers.Trainer``, by any method that trains the model once.

    trainer = Trainer(model, arguments, train_dataset=data, callbacks=[PruningCallback("earlycrop-s", sparsity=0.5)])
    trainer.train()

To continue from a checkpoint, let a new callback of the same method shrink a fresh model to the sizes in it, make a
Trainer of both, and train from the same checkpoint:

    callback = PruningCallback("earlycrop-s", sparsity=0.5)
    callback.resume(fresh_model, "output/checkpoint-300")
    trainer = Trainer(fresh_model, arguments, train_dataset=data, callbacks=[callback])
    trainer.train(resume_from_checkpoint="output/checkpoint-300")

The Trainer then loads the weights, and the pruner continues with the state in the checkpoint.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from accelerate.utils import send_to_device  # type: ignore[import-untyped]
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from earlycrop.events import Event
from earlycrop.integrations._callback import CallbackBase, check_method, check_one_process, check_shapes, draw_batches
from earlycrop.pruner import Pruner
from earlycrop.saving.files import FOLDER
from earlycrop.saving.models import MODEL_FILE, load, save
from earlycrop.saving.states import load_state, save_state
from earlycrop.utils.errors import SavingError

STATE_FILE = "pruner.safetensors"


class PruningCallback(CallbackBase, TrainerCallback):
    """Prune a model while a ``Trainer`` trains it.

    The callback makes a :class:`earlycrop.Pruner` when training begins. It calls the pruner's ``step`` before training
    and at the end of every epoch, after its last optimizer step. The optimizer continues with the pruned parameters and
    their state. Each checkpoint gets a folder ``earlycrop`` with the pruner's state and, once it was shrunk, the model.

    Args:
        method: A name in ``METHODS``, or a :class:`earlycrop.Method`. A method that trains again and again (``ltr``)
            needs a training loop of your own.
        sparsity: The share to remove, above 0 and below 1.
        loss: A function ``(model, batch) -> scalar`` to compute scores with, in place of the model's own loss.
        batches: Training data to compute scores on, such as a list; it may be read after every epoch. By default,
            random examples of the training set, collated as in training.
        limits: Floors, ceilings, layers to leave alone. ``Limits(floors={"*": 0.1})`` keeps a tenth of every layer.
        **pruner_arguments: Further arguments of the ``Pruner``, such as ``of``, ``trigger`` or ``options``.
            Its ``epochs`` are the Trainer's, where an epoch that ``max_steps`` cuts short counts as one.

    Attributes:
        pruner: The pruner, or None before training has begun.

    Raises:
        TypeError: An argument has the wrong type, or there is no such argument.
        ValueError: An argument is unknown or out of its range. ``train`` raises it where the callback cannot work: see
            :class:`earlycrop.Pruner`; the training data have no length; several processes train;
            ``load_best_model_at_end`` is set; the Trainer has two PruningCallbacks; this callback has pruned the model
            already, and training starts from the beginning; or the checkpoint is not the one that was given to
            ``resume``.

    Notes:
        A model is pruned once.

        A pruning is a line of the logger ``earlycrop.integrations``, at the level INFO. What was measured and removed
        stands in the Trainer's printed logs and in ``state.log_history``, as ``earlycrop/NAME``.

        With the strategy ``"epoch"``, evaluations and checkpoints come after the epoch's pruning. A checkpoint that the
        strategy ``"steps"`` writes at an epoch's last step holds the model before it. Training that continues from it
        starts with that pruning.

    Examples:
        >>> callback = PruningCallback("earlycrop-s", sparsity=0.5)
        >>> trainer = Trainer(model, arguments, train_dataset=data, callbacks=[callback])
        >>> trainer.train()
    """

    how_to_resume = (
        "call resume(fresh_model, checkpoint) of a PruningCallback before the Trainer is made, and then "
        "train(resume_from_checkpoint=checkpoint)"
    )

    def resume(self, model: nn.Module, checkpoint: str | os.PathLike[str]) -> nn.Module:
        """Shrink a fresh model to the sizes in a checkpoint, and keep the pruner's state until training begins.

        Call this before the Trainer is made.

        Args:
            model: A fresh model, changed in place.
            checkpoint: The folder of a checkpoint that was written with this callback.

        Returns:
            The model.

        Raises:
            SavingError: The checkpoint was not written with this callback, or is of another kind of model.
            ValueError: The checkpoint was written with another method.
        """
        folder = Path(checkpoint) / FOLDER
        state = load_state(folder / STATE_FILE)
        if "step" not in state:
            raise SavingError(
                f"{folder / STATE_FILE} was not written by a PruningCallback: give a checkpoint of its Trainer"
            )
        check_method(self.method_name, state["method"], checkpoint)
        model = load(folder, model) if (folder / MODEL_FILE).exists() else model
        self._resumed_state = state
        return model

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Register a hook that checks a checkpoint's shapes, which the Trainer loads before ``on_train_begin``."""
        _check_single_callback(state)
        kwargs["model"].register_load_state_dict_pre_hook(partial(check_shapes, self.how_to_resume))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Make the pruner, and prune if it is time before training.

        Raises:
            ValueError: The callback cannot work in this training; see the class.
        """
        _check_single_callback(state)
        _check_training(args, state, self._resumed_state)
        optimizer = getattr(kwargs["optimizer"], "optimizer", kwargs["optimizer"])  # accelerate wraps torch's
        epochs, epochs_done = math.ceil(state.num_train_epochs), int(state.epoch or 0)
        pruner = self.make_pruner(kwargs["model"], optimizer, self.loss or _model_loss, epochs, epochs_done)
        while pruner.epoch < epochs_done:
            self._step(pruner, args, kwargs["train_dataloader"])

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count an epoch, and prune if it is time. The Trainer then logs what was pruned."""
        if self.pruner is not None and self._step(self.pruner, args, kwargs["train_dataloader"]) is not None:
            control.should_log = True

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Add what was measured and pruned since the last log, as ``earlycrop/NAME``."""
        for logs in (kwargs.get("logs"), state.log_history[-1] if state.log_history else None):
            if logs is not None:
                logs.update(self.unlogged)
        self.unlogged = {}

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Add what ``resume`` needs to the checkpoint that was just written."""
        if self.pruner is not None:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / FOLDER
            if self.has_shrunk:
                save(self.pruner.model, folder)
            save_state({**self.pruner.state_dict(), "step": state.global_step}, folder / STATE_FILE)

    def _step(self, pruner: Pruner, args: TrainingArguments, loader: Any) -> Event | None:
        model, batches = pruner.model, self.batches
        if batches is None:
            move = partial(send_to_device, device=next(model.parameters()).device)
            batches = draw_batches(loader, args.train_batch_size, args.seed + pruner.epoch + 1, move)
        with _without_mixed_precision(model):
            event = pruner.step(batches)
        self.unlogged |= self.report(pruner, event)
        return event


def _check_single_callback(state: TrainerState) -> None:
    """Raise ValueError if another PruningCallback was called with this state before: both would prune the model.

    A Trainer makes a new state for each training. The mark that is set on it is not saved with it.
    """
    if "has_pruning_callback" in vars(state):
        raise ValueError("two PruningCallbacks in one Trainer would both prune its model: give it one")
    vars(state)["has_pruning_callback"] = True


def _check_training(args: TrainingArguments, state: TrainerState, resumed_state: Mapping[str, Any] | None) -> None:
    """Raise ValueError if the callback cannot work in this training.

    Args:
        args: The Trainer's arguments.
        state: The Trainer's state.
        resumed_state: The state that ``resume`` has read from a checkpoint, or None.
    """
    check_one_process(args.world_size)
    if args.load_best_model_at_end:
        raise ValueError("the best checkpoint may be from before the pruning: leave out load_best_model_at_end")
    if state.num_train_epochs >= sys.maxsize:  # a Trainer sets this for max_steps and data without a length
        raise ValueError(
            "the pruner must know the number of epochs, and the training data have no length: give the dataset a "
            "__len__"
        )
    step = state.global_step
    if step and resumed_state is None:
        raise ValueError(
            "training continues from a checkpoint that the PruningCallback has not read: call its "
            "resume(fresh_model, checkpoint) before the Trainer is made"
        )
    if resumed_state is not None and step != resumed_state["step"]:
        raise ValueError(
            f"resume was given the checkpoint of step {resumed_state['step']}, and training begins at step {step}: "
            "call train(resume_from_checkpoint=checkpoint) with that same checkpoint"
        )


def _model_loss(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """Return the loss that a model computes from a batch with labels, found where the Trainer looks for it.

    Raises:
        ValueError: The model returns a dict without a loss.
    """
    outputs = model(**batch)
    if isinstance(outputs, Mapping) and "loss" not in outputs:
        raise ValueError("the model returns no loss: add labels to the data, or give the callback a loss")
    loss: Tensor = outputs["loss"] if isinstance(outputs, Mapping) else outputs[0]
    return loss


@contextmanager
def _without_mixed_precision(model: nn.Module) -> Iterator[None]:
    """Run the model in full precision: remove the forward of accelerate, in which no cut can be proven to 1e-5."""
    mixed_forward = model.__dict__.pop("forward", None)
    try:
        yield
    finally:
        if mixed_forward is not None:
            model.__dict__["forward"] = mixed_forward
