"""Prune in a ``lightning.pytorch.Trainer``, by any method that trains the model once.

    trainer = Trainer(max_epochs=30, callbacks=[PruningCallback("earlycrop-s", sparsity=0.9)])
    trainer.fit(module, loader)

To continue from a checkpoint, give a new Trainer a fresh module and a callback of the same method:

    trainer = Trainer(max_epochs=30, callbacks=[PruningCallback("earlycrop-s", sparsity=0.9)])
    trainer.fit(fresh_module, loader, ckpt_path="checkpoints/epoch=20.ckpt")

The fresh module is shrunk to the sizes in the checkpoint before its weights are loaded. The pruner continues with the
state in the checkpoint. ``validate``, ``test`` and ``predict`` shrink a fresh module in the same way.

To load a checkpoint without a Trainer, use :func:`load_from_checkpoint` of this module. Lightning's own
``Module.load_from_checkpoint`` makes the dense module, and refuses the weights of a shrunk one:

    module = load_from_checkpoint(Module(), "checkpoints/epoch=20.ckpt")

:func:`earlycrop.save` and :func:`earlycrop.load` also take a LightningModule:

    earlycrop.save(module, "pruned")
    module = earlycrop.load("pruned", Module())
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from earlycrop.integrations._callback import CallbackBase, check_method, check_one_process, check_shapes, draw_batches
from earlycrop.pruner import Pruner
from earlycrop.saving.models import load_contents, model_contents
from earlycrop.utils.types import Loss
from earlycrop.utils.wrappers import tensor_shapes, unwrap


def load_from_checkpoint(
    module: LightningModule, path: str | os.PathLike[str], weights_only: bool = True
) -> LightningModule:
    """Load the weights of a checkpoint into a fresh module, which is first shrunk to the sizes in the checkpoint.

    Args:
        module: A fresh module, changed in place. Its hyperparameters are not read from the checkpoint.
        path: A checkpoint of a Trainer with a :class:`PruningCallback`.
        weights_only: As for ``torch.load``. False also unpickles objects: only for a source that you trust.

    Returns:
        The module.

    Raises:
        SavingError: The checkpoint is of another kind of module.
        ValueError: The checkpoint was written without a PruningCallback.
    """
    checkpoint = torch.load(path, map_location="cpu", weights_only=weights_only)
    state = checkpoint.get("callbacks", {}).get(PruningCallback().state_key)
    if state is None:
        raise ValueError(f"{path} was written without a PruningCallback: call the module's own load_from_checkpoint")
    if state["model"] is not None:
        tensors, header = state["model"]
        load_contents(module, tensors, header, path)
    module.load_state_dict(checkpoint["state_dict"])
    return module


class PruningCallback(CallbackBase, Callback):
    """Prune a LightningModule while a ``Trainer`` trains it.

    The callback makes a :class:`earlycrop.Pruner` when training begins. It calls the pruner's ``step`` before training
    and at the end of every training epoch. The whole LightningModule is pruned; its optimizers and schedulers continue
    with the pruned parameters, and so do the averages of Lightning's own callbacks (``EMAWeightAveraging``,
    ``StochasticWeightAveraging``).

    Args:
        method: A name in ``METHODS``, or a :class:`earlycrop.Method`. A method that trains again and again (``ltr``)
            needs a training loop of your own.
        sparsity: The share to remove, above 0 and below 1.
        loss: A function ``(module, batch) -> scalar`` to compute scores with, in place of ``training_step``. Needed if
            the module uses manual optimization.
        batches: Training data to compute scores on, such as a list; it may be read after every epoch. By default,
            random examples of the training set, collated as in training. Needed if there are several training loaders.
        limits: Floors, ceilings, layers to leave alone. ``Limits(floors={"*": 0.1})`` keeps a tenth of every layer.
        **pruner_arguments: Further arguments of the ``Pruner``, such as ``of``, ``trigger`` or ``options``.
            Its ``epochs`` are the Trainer's ``max_epochs``.

    Attributes:
        pruner: The pruner, or None before training has begun.

    Raises:
        TypeError: An argument has the wrong type, or there is no such argument.
        ValueError: An argument is unknown or out of its range. ``fit`` raises it where the callback cannot work: see
            :class:`earlycrop.Pruner`; ``max_epochs`` or one of the arguments is missing; several processes train; this
            callback has pruned the module already, and training starts from the beginning; or the checkpoint was
            written without a PruningCallback or with another method.

    Notes:
        A pruning is a line of the logger ``earlycrop.integrations``, at the level INFO. The Trainer's loggers get what
        was measured and removed as ``earlycrop/NAME``.

        A ``training_step`` may return ``{"loss": total, "loss_terms": (first, second)}``: scores are then computed by
        terms, see :func:`earlycrop.prune`.

        A module is pruned once. A further ``fit`` of the same Trainer, with larger ``max_epochs``, does not prune it
        again.

        A checkpoint that is written at the end of a training epoch holds the model after that epoch's pruning. One
        that is written earlier, after a validation, holds the model before it. Training that continues from it first
        repeats that pruning.

    Examples:
        >>> trainer = Trainer(max_epochs=30, callbacks=[PruningCallback("earlycrop-s", sparsity=0.9)])
        >>> trainer.fit(module, loader)
    """

    how_to_resume = "give a Trainer a fresh module and ckpt_path=checkpoint"
    _hook: RemovableHandle | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Register a hook that shrinks a fresh module before Lightning loads a checkpoint's weights into it."""
        self._resumed_state = None  # validate, test and predict load a state too, which is not to be continued
        hook = partial(_prepare_module, self.state_key, self.method_name)
        self._hook = pl_module.register_load_state_dict_pre_hook(hook)  # type: ignore[no-untyped-call]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the hook."""
        self._remove_hook()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the hook."""
        self._remove_hook()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the pruner, and prune if it is time before training.

        Raises:
            ValueError: The callback cannot work in this training; see the class.
        """
        self._remove_hook()
        epochs = trainer.max_epochs
        if epochs is None or epochs < 1:
            raise ValueError("the pruner must know the number of epochs: give the Trainer max_epochs")
        _check_training(trainer, pl_module, self.loss, self.batches)
        loss = partial(_compute_loss, self.loss or _training_step_loss, trainer)
        epochs_done, averages = trainer.current_epoch, _find_averages(trainer)
        pruner = self.make_pruner(pl_module, trainer.optimizers, loss, epochs, epochs_done, averages)
        while pruner.epoch < trainer.current_epoch:
            self._step(pruner, trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count an epoch, and prune if it is time."""
        if self.pruner is not None:
            self._step(self.pruner, trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return what Lightning's checkpoint needs: the pruner's state and, if it was shrunk, the model's sizes.

        The tensors of the shrunk model share memory with those in the checkpoint, and are stored once.
        """
        if self.pruner is None:
            return {}
        model = None
        if self.has_shrunk:
            tensors, header = model_contents(self.pruner.model)
            model = ({name: t.detach() for name, t in tensors.items()}, header)
        return {"method": self.method_name, "pruner": self.pruner.state_dict(), "model": model}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the pruner's state until training begins."""
        self._resumed_state = state_dict["pruner"]

    def _step(self, pruner: Pruner, trainer: Trainer, module: LightningModule) -> None:
        batches = self.batches
        if batches is None:
            batches = draw_batches(trainer.train_dataloader, None, pruner.epoch + 1, trainer.strategy.batch_to_device)
        module.trainer = None  # the pruner copies the module, and must not copy the trainer and its data
        try:
            event = pruner.step(batches)
        finally:
            module.trainer = trainer
        if values := self.report(pruner, event):
            for logger in trainer.loggers:
                logger.log_metrics(values, step=trainer.global_step)

    def _remove_hook(self) -> None:
        if self._hook is not None:
            self._hook.remove()


def _check_training(trainer: Trainer, module: LightningModule, loss: Loss | None, batches: Any) -> None:
    """Raise ValueError if the callback cannot work in this training, or not without ``loss`` or ``batches``."""
    if loss is None and not module.automatic_optimization:
        raise ValueError(
            "the module uses manual optimization, so its training_step need not return a loss: give PruningCallback a "
            "loss(module, batch)"
        )
    if batches is None and isinstance(trainer.train_dataloader, dict | list | tuple):
        raise ValueError("there are several training loaders: give PruningCallback batches that training_step takes")
    check_one_process(trainer.world_size)


def _prepare_module(
    state_key: str, method: str, module: LightningModule, weights: Mapping[str, Tensor], *_: Any
) -> None:
    """Shrink a fresh module, and the averages of its weights, to the sizes in the checkpoint that Lightning loads next.

    Args:
        state_key: Where the callback's state lies in the checkpoint.
        method: The name of the callback's method.
        module: The module.
        weights: The weights to load.

    Raises:
        ValueError: The checkpoint was written without the callback or with another method, or a shape differs.
    """
    trainer = module._trainer
    if trainer is None or not trainer._checkpoint_connector._loaded_checkpoint:
        return
    checkpoint, path = trainer._checkpoint_connector._loaded_checkpoint, trainer.ckpt_path
    state = checkpoint.get("callbacks", {}).get(state_key)
    if trainer.state.fn == "fit":
        if state is None:
            raise ValueError(f"{path} was written without a PruningCallback: train from the beginning")
        check_method(method, state["method"], path)
    if state is not None and state["model"] is not None:
        tensors, header = state["model"]
        shapes = {name: tuple(t.shape) for name, t in tensors.items()}
        for network in (module, *_find_averages(trainer)):
            if tensor_shapes(network) != shapes:  # a network of these shapes is shrunk already
                load_contents(network, {name: t.clone() for name, t in tensors.items()}, header, str(path))
    check_shapes(PruningCallback.how_to_resume, module, weights)


def _find_averages(trainer: Trainer) -> list[nn.Module]:
    """Return the averages of the module's weights that callbacks keep (WeightAveraging, StochasticWeightAveraging)."""
    kept = [getattr(callback, "_average_model", None) for callback in trainer.callbacks]  # type: ignore[attr-defined]
    return [unwrap(average) for average in kept if isinstance(average, nn.Module)]


def _training_step_loss(module: nn.Module, batch: Any) -> Any:
    """Return what the module's ``training_step`` returned: of a dict, the entry ``loss_terms`` if there is one."""
    output: Any = module.training_step(batch, 0)  # type: ignore[operator]
    return output.get("loss_terms", output) if isinstance(output, Mapping) else output


def _compute_loss(loss: Loss, trainer: Trainer, module: Any, batch: Any) -> Any:
    """Return the loss of the module or of its copy, which has its trainer meanwhile. What it logs is discarded."""
    module_trainer, loggers, barebones = module._trainer, trainer.loggers, trainer.barebones
    # in a trainer that is barebones, self.log does nothing but warn
    module.trainer, trainer.loggers, trainer.barebones = trainer, [DummyLogger()], True
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*self.log.*")
            return loss(module, batch)
    finally:
        module.trainer, trainer.loggers, trainer.barebones = module_trainer, loggers, barebones
