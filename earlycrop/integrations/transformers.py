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

from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from earlycrop.integrations._shared import Asked, drawn, placed, require_one
from earlycrop.pruner import Pruner
from earlycrop.saving import FILE, load, load_state, save, save_state

FOLDER, STATE = "earlycrop", "pruner.safetensors"


def model_loss(model: nn.Module, batch: Any) -> Tensor:
    """What a model of transformers makes of a batch with labels."""
    loss: Tensor = model(**batch).loss
    return loss


class PruningCallback(Asked, TrainerCallback):
    """Asks a :class:`earlycrop.Pruner` before training and at the end of every epoch.

    method, sparsity, options: the ``Pruner``'s; its epochs are the Trainer's, one that ``max_steps`` cuts short
    included. loss: in place of the model's own. batches: training data to score on, in place of random examples of the
    training set as they are collated. ``pruner`` is there once training has begun.

    An epoch ends after its last optimizer step, whatever was accumulated, and before the evaluation and the checkpoint
    of ``"epoch"`` strategies: those see the pruned model. The optimizer goes on with the live parameters and their
    state, and the scheduler with the optimizer. A checkpoint gets a folder ``earlycrop`` with the pruner's state and
    the small model. One that was written in steps, at an epoch's last, is from before that epoch's pruning: resuming
    from it takes that up first.
    """

    def resume(self, model: nn.Module, checkpoint: str | os.PathLike[str]) -> nn.Module:
        """Bring a fresh model to the sizes of a checkpoint of this callback's, before a Trainer is given both.

        Raises:
            SavingError: the checkpoint lacks what ``on_save`` writes, or is of another kind of model.
        """
        folder = Path(checkpoint) / FOLDER
        self._resumed = load_state(folder / STATE)
        return load(folder, model) if (folder / FILE).exists() else model

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **held: Any
    ) -> None:
        """Make the pruner, or take it up, and let it prune before training; a ValueError says what cannot be."""
        if args.load_best_model_at_end:
            raise ValueError("the best checkpoint may be from before the pruning: leave out load_best_model_at_end")
        if state.global_step and self._resumed is None:
            raise ValueError("training is resumed: call resume(model, checkpoint) before the Trainer is made")
        require_one(args.world_size)
        optimizer = getattr(held["optimizer"], "optimizer", held["optimizer"])  # accelerate's is around torch's
        self._resumed = self._resumed if state.global_step else None
        pruner = self.begin(held["model"], optimizer, model_loss, math.ceil(state.num_train_epochs))
        while pruner.epoch < int(state.epoch or 0):
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
            save_state(self.pruner.state_dict(), folder / STATE)

    def _step(self, pruner: Pruner, args: TrainingArguments, loader: Any) -> None:
        model, seed = pruner.model, args.seed + pruner.epoch + 1
        own = drawn(loader, args.train_batch_size, seed, partial(placed, next(model.parameters()).device))
        mixed = model.__dict__.pop("forward", None)  # accelerate's, in bfloat16, which proves nothing to 1e-5
        try:
            pruner.step(own if self.batches is None else self.batches)
        finally:
            if mixed is not None:
                model.__dict__["forward"] = mixed
