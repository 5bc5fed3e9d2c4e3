"""EarlyCroP, and every other method that trains once, in a ``lightning.pytorch.Trainer``.

    trainer = Trainer(max_epochs=30, callbacks=[PruningCallback("earlycrop-s", sparsity=0.9)])
    trainer.fit(module, loader)

``trainer.fit(fresh_module, loader, ckpt_path=...)`` goes on from a checkpoint, of a shrunk model too.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from earlycrop.integrations._callback import CallbackBase, check_method, check_one_process, check_sizes
from earlycrop.integrations._data import draw_batches
from earlycrop.pruner import Pruner
from earlycrop.saving import load_contents, model_contents
from earlycrop.utils.types import Loss


class PruningCallback(CallbackBase, Callback):
    """Asks a :class:`earlycrop.Pruner` before training and at the end of every training epoch.

    method, sparsity, options: the ``Pruner``'s; its epochs are the Trainer's ``max_epochs``. loss: (module, batch) ->
    scalar, in place of ``training_step``. batches: training data to score on, in place of random examples of the
    training set as its loader collates them; of several loaders, they must be given. ``pruner`` is there once training
    has begun; it prunes the whole LightningModule, and its optimizers and schedulers go on with the live parameters.

    Checkpoints of the end of a training epoch see the pruned model, as Lightning runs ModelCheckpoint last. One that
    was written before it (after a validation) is from before that epoch's pruning: resuming takes that up first. A
    fresh module is shrunk to a checkpoint's sizes, in ``fit`` as in ``validate``, ``test`` and ``predict``.

    A module is pruned once: a ``fit`` of the same Trainer that goes on (with larger ``max_epochs``, say) leaves it as
    it is, one that would begin anew on a module that this callback has pruned is refused, and so is a checkpoint of
    another method.
    """

    go_on = "giving the Trainer a fresh module, with ckpt_path=checkpoint"
    _hook: RemovableHandle | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See to it that the module has a checkpoint's sizes when Lightning loads its weights."""
        self._resumed = None  # of a checkpoint that was validated, say
        own = self.state_key, self.named, self.go_on
        self._hook = pl_module.register_load_state_dict_pre_hook(partial(load_hook, trainer, stage, *own))  # type: ignore[no-untyped-call]

    def teardown(self, *_: Any, stage: str = "") -> None:
        """Leave the module without the hook, which would be copied with it, and the trainer too."""
        if self._hook is not None:
            self._hook.remove()

    def on_exception(self, *_: Any) -> None:
        """As after a run that came to its end."""
        self.teardown()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the pruner, or take it up, and let it prune before training; a ValueError says what cannot be."""
        self.teardown()
        epochs = planned_epochs(trainer, pl_module, self.loss, self.batches)
        loss, done = partial(loss_with_trainer, self.loss or step_loss, trainer), trainer.current_epoch
        pruner = self.begin(pl_module, trainer.optimizers, loss, epochs, done)
        while pruner.epoch < done:
            self._step(pruner, trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count an epoch, and prune if it is time."""
        if self.pruner is not None:
            self._step(self.pruner, trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """For Lightning's checkpoint: the pruner's state, and the small model (its tensors are stored only once)."""
        if self.pruner is None:
            return {}
        held, sizes = model_contents(self.pruner.model)
        tensors = {name: t.detach() for name, t in held.items()}
        small = (tensors, sizes) if self.small else None
        return {"method": self.named, "pruner": self.pruner.state_dict(), "model": small}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the pruner's state until training starts."""
        self._resumed = state_dict["pruner"]

    def _step(self, pruner: Pruner, trainer: Trainer, pl_module: LightningModule) -> None:
        own = draw_batches(trainer.train_dataloader, None, pruner.epoch + 1, trainer.strategy.batch_to_device)
        pl_module.trainer = None  # trial cuts are made of copies, which would be copies of the trainer and its data too
        try:
            pruner.step(own if self.batches is None else self.batches)
        finally:
            pl_module.trainer = trainer


def planned_epochs(trainer: Trainer, module: LightningModule, loss: Loss | None, batches: Any) -> int:
    """How many epochs are trained; a ValueError says what cannot be done without ``loss`` or ``batches``."""
    epochs = trainer.max_epochs
    if epochs is None or epochs < 1:
        raise ValueError("the pruner plans in epochs: give the Trainer max_epochs")
    if loss is None and not module.automatic_optimization:
        raise ValueError("training_step optimizes by hand here: give PruningCallback a loss(module, batch)")
    if batches is None and isinstance(trainer.train_dataloader, dict | list | tuple):
        raise ValueError("there are several training loaders: give PruningCallback batches that training_step takes")
    check_one_process(trainer.world_size)
    return epochs


def load_hook(
    trainer: Trainer, stage: str, key: str, method: str, go_on: str, module: LightningModule, weights: Any, *_: Any
) -> None:
    """A hook before Lightning loads weights: brings a fresh module to their sizes, if the callback ``key`` cut them."""
    loaded = trainer._checkpoint_connector._loaded_checkpoint  # set by then, and told to no hook of a callback
    if not loaded:
        return
    held = loaded.get("callbacks", {}).get(key)
    if stage == "fit":
        if held is None:
            raise ValueError(f"{trainer.ckpt_path} was written without a PruningCallback: train from the start")
        check_method(method, held.get("method", method), trainer.ckpt_path)
    if held is not None and held["model"] is not None:
        tensors, sizes = held["model"]
        load_contents(module, tensors, sizes, str(trainer.ckpt_path))
    check_sizes(go_on, module, weights)


def step_loss(module: nn.Module, batch: Any) -> Tensor:
    """What the module's own ``training_step`` returns."""
    told: Any = module.training_step(batch, 0)  # type: ignore[operator]
    loss: Tensor = told["loss"] if isinstance(told, dict) else told
    return loss


def loss_with_trainer(loss: Loss, trainer: Trainer, module: Any, batch: Any) -> Tensor:
    """The loss of a module, or of a copy, which has its trainer meanwhile; what it logs goes nowhere."""
    before, loggers, bare = module._trainer, trainer.loggers, trainer.barebones
    module.trainer, trainer.loggers, trainer.barebones = trainer, [DummyLogger()], True  # self.log does nothing in it
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*self.log.*")
            return loss(module, batch)
    finally:
        module.trainer, trainer.loggers, trainer.barebones = before, loggers, bare
