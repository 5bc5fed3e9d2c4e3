"""EarlyCroP, and every other method that trains once, in a ``lightning.pytorch.Trainer``.

    trainer = Trainer(max_epochs=30, callbacks=[PruningCallback("earlycrop-s", sparsity=0.9)])
    trainer.fit(module, loader)

``trainer.fit(fresh_module, loader, ckpt_path=...)`` goes on from a checkpoint, of a shrunk model too.
"""

from __future__ import annotations

import warnings
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from earlycrop.integrations._checks import require_one
from earlycrop.integrations._data import drawn
from earlycrop.integrations._shared import Asked
from earlycrop.pruner import Pruner
from earlycrop.saving import adopt, contents


def step_loss(module: nn.Module, batch: Any) -> Tensor:
    """What the module's own ``training_step`` returns; what it logs goes nowhere."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*self.log.*")
        told: Any = module.training_step(batch, 0)  # type: ignore[operator]
    loss: Tensor = told["loss"] if isinstance(told, dict) else told
    return loss


class PruningCallback(Asked, Callback):
    """Asks a :class:`earlycrop.Pruner` before training and at the end of every training epoch.

    method, sparsity, options: the ``Pruner``'s; its epochs are the Trainer's ``max_epochs``. loss: (module, batch) ->
    scalar, in place of ``training_step``; the module has no trainer while it runs. batches: training data to score on,
    in place of random examples of the training set as its loader collates them. ``pruner`` is there once training has
    begun; it prunes the whole LightningModule, and its optimizers and schedulers go on with the live parameters.

    Checkpoints of the end of a training epoch see the pruned model, as Lightning runs ModelCheckpoint last. One that
    was written before it (after a validation) is from before that epoch's pruning: resuming takes that up first.
    """

    go_on = "giving the Trainer a fresh module, with ckpt_path=checkpoint"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See to it that the module has a checkpoint's sizes when Lightning loads its weights."""

        def fit(module: nn.Module, *_: Any) -> None:
            loaded = trainer._checkpoint_connector._loaded_checkpoint  # set by then, and told to no hook of a callback
            if loaded:
                held = loaded.get("callbacks", {}).get(self.state_key)
                if held is None:
                    raise ValueError(f"{trainer.ckpt_path} was written without a PruningCallback: train from the start")
                if held["model"] is not None:
                    tensors, sizes = held["model"]
                    adopt(module, tensors, sizes, str(trainer.ckpt_path))

        if stage == "fit":
            self._hook = pl_module.register_load_state_dict_pre_hook(fit)  # type: ignore[no-untyped-call]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the pruner, or take it up, and let it prune before training; a ValueError says what cannot be."""
        self._hook.remove()
        epochs = trainer.max_epochs
        if epochs is None or epochs < 1:
            raise ValueError("the pruner plans in epochs: give the Trainer max_epochs")
        if self.loss is None and not pl_module.automatic_optimization:
            raise ValueError("training_step optimizes by hand here: give PruningCallback a loss(module, batch)")
        require_one(trainer.world_size)
        pruner = self.begin(pl_module, trainer.optimizers, self.loss or step_loss, epochs, trainer.current_epoch)
        while pruner.epoch < trainer.current_epoch:
            self._step(pruner, trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count an epoch, and prune if it is time."""
        if self.pruner is not None:
            self._step(self.pruner, trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """For Lightning's checkpoint: the pruner's state, and the small model (its tensors are stored only once)."""
        if self.pruner is None:
            return {}
        held, sizes = contents(self.pruner.model)
        tensors = {name: t.detach() for name, t in held.items()}
        return {"pruner": self.pruner.state_dict(), "model": (tensors, sizes) if self.small else None}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the pruner's state until training starts."""
        self._resumed = state_dict["pruner"]

    def _step(self, pruner: Pruner, trainer: Trainer, pl_module: LightningModule) -> None:
        own = drawn(trainer.train_dataloader, None, pruner.epoch + 1, trainer.strategy.batch_to_device)
        pl_module.trainer = None  # trial cuts are made of copies, which would be copies of the trainer and its data too
        try:
            pruner.step(own if self.batches is None else self.batches)
        finally:
            pl_module.trainer = trainer
