"""What a LightningModule needs to be loaded and scored, and what of it cannot be."""

from __future__ import annotations

import warnings
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor, nn

from earlycrop.flow import Loss
from earlycrop.integrations._checks import require_method, require_one, require_sizes
from earlycrop.saving import adopt


def planned(trainer: Trainer, module: LightningModule, loss: Loss | None, batches: Any) -> int:
    """How many epochs are trained; a ValueError says what cannot be done without ``loss`` or ``batches``."""
    epochs = trainer.max_epochs
    if epochs is None or epochs < 1:
        raise ValueError("the pruner plans in epochs: give the Trainer max_epochs")
    if loss is None and not module.automatic_optimization:
        raise ValueError("training_step optimizes by hand here: give PruningCallback a loss(module, batch)")
    if batches is None and isinstance(trainer.train_dataloader, dict | list | tuple):
        raise ValueError("there are several training loaders: give PruningCallback batches that training_step takes")
    require_one(trainer.world_size)
    return epochs


def sized(
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
        require_method(method, held.get("method", method), trainer.ckpt_path)
    if held is not None and held["model"] is not None:
        tensors, sizes = held["model"]
        adopt(module, tensors, sizes, str(trainer.ckpt_path))
    require_sizes(go_on, module, weights)


def step_loss(module: nn.Module, batch: Any) -> Tensor:
    """What the module's own ``training_step`` returns."""
    told: Any = module.training_step(batch, 0)  # type: ignore[operator]
    loss: Tensor = told["loss"] if isinstance(told, dict) else told
    return loss


def attached(loss: Loss, trainer: Trainer, module: Any, batch: Any) -> Tensor:
    """The loss of a module, or of a copy, which has its trainer meanwhile; what it logs goes nowhere."""
    before, loggers, bare = module._trainer, trainer.loggers, trainer.barebones
    module.trainer, trainer.loggers, trainer.barebones = trainer, [DummyLogger()], True  # self.log does nothing in it
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*self.log.*")
            return loss(module, batch)
    finally:
        module.trainer, trainer.loggers, trainer.barebones = before, loggers, bare
