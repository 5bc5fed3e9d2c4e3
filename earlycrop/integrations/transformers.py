"""EarlyCroP, and every other method that trains once, in a ``transformers.Trainer``.

    callback = PruningCallback("earlycrop-s", sparsity=0.5)
    trainer = Trainer(model, arguments, train_dataset=data, callbacks=[callback])
    trainer.train()

and to go on from a checkpoint, with a fresh ``model``:

    callback.resume(model, "output/checkpoint-300")
    Trainer(model, arguments, ..., callbacks=[callback]).train(resume_from_checkpoint="output/checkpoint-300")
"""

from __future__ import annotations

import math
import os
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from earlycrop.integrations._callback import (
    CallbackBase,
    check_method,
    check_single_callback,
    check_sizes,
    check_trainer,
)
from earlycrop.integrations._data import draw_batches, model_loss, to_device, without_mixed_precision
from earlycrop.pruner import Pruner
from earlycrop.saving import FOLDER, MODEL_FILE, load, load_state, save, save_state

STATE = "pruner.safetensors"


class PruningCallback(CallbackBase, TrainerCallback):
    """Asks a :class:`earlycrop.Pruner` before training and at the end of every epoch.

    method, sparsity, options: the ``Pruner``'s; its epochs are the Trainer's, one that ``max_steps`` cuts short
    included: the training data must have a length. loss: in place of the model's own. batches: training data to score
    on, in place of random examples of the training set as they are collated. ``pruner`` is there once training began.

    An epoch ends after its last optimizer step, and before the evaluation and the checkpoint of ``"epoch"`` strategies:
    those see the pruned model. The optimizer goes on with the live parameters and their state. A checkpoint gets a
    folder ``earlycrop`` with the pruner's state and the small model. One that was written in steps, at an epoch's last,
    is from before that epoch's pruning: resuming from it takes that up first, and takes one checkpoint of this method
    for ``resume`` and ``train``. A model is pruned once: a ``train()`` that would begin anew on one that this callback
    has pruned is refused, as is a second PruningCallback in a Trainer.
    """

    go_on = "resume(fresh_model, checkpoint) before a Trainer is made, and train(resume_from_checkpoint=checkpoint)"

    def resume(self, model: nn.Module, checkpoint: str | os.PathLike[str]) -> nn.Module:
        """Bring a fresh model to the sizes of a checkpoint of this callback's, before a Trainer is given both.

        Raises:
            SavingError: the checkpoint lacks what ``on_save`` writes, or is of another kind of model.
            ValueError: it is of another method.
        """
        folder = Path(checkpoint) / FOLDER
        state = load_state(folder / STATE)
        check_method(self.named, state.get("asked", self.named), checkpoint)
        model = load(folder, model) if (folder / MODEL_FILE).exists() else model
        self._resumed = state
        return model

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **held: Any) -> None:
        """See to it that a Trainer loads weights of the model's sizes: it does so before it asks a callback again."""
        check_single_callback(state)
        held["model"].register_load_state_dict_pre_hook(partial(check_sizes, self.go_on))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **held: Any
    ) -> None:
        """Make the pruner, or take it up, and let it prune before training; a ValueError says what cannot be."""
        check_single_callback(state)
        check_trainer(args, state, self._resumed)
        optimizer = getattr(held["optimizer"], "optimizer", held["optimizer"])  # accelerate's is around torch's
        epochs, done = math.ceil(state.num_train_epochs), int(state.epoch or 0)
        pruner = self.begin(held["model"], optimizer, self.loss or model_loss, epochs, done)
        while pruner.epoch < done:
            self._step(pruner, args, held["train_dataloader"])

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **held: Any) -> None:
        """Count an epoch, and prune if it is time."""
        if self.pruner is not None:
            self._step(self.pruner, args, held["train_dataloader"])

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **held: Any) -> None:
        """Put what ``resume`` needs into the checkpoint that was just written."""
        if self.pruner is not None:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / FOLDER
            if self.small:
                save(self.pruner.model, folder)
            save_state({**self.pruner.state_dict(), "asked": self.named, "step": state.global_step}, folder / STATE)

    def _step(self, pruner: Pruner, args: TrainingArguments, loader: Any) -> None:
        model, seed = pruner.model, args.seed + pruner.epoch + 1
        own = draw_batches(loader, args.train_batch_size, seed, partial(to_device, next(model.parameters()).device))
        with without_mixed_precision(model):
            pruner.step(own if self.batches is None else self.batches)
