"""What the callbacks share: the pruner, the check of a checkpoint to continue from, and the data to score on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, IterableDataset

from earlycrop.methods import METHODS, Method, MethodName, method_name
from earlycrop.pruner import Pruner
from earlycrop.utils.types import Loss
from earlycrop.utils.validation import as_modules, look_up
from earlycrop.utils.wrappers import unwrap

UNNAMED = "a custom method"
"""Stands for the name of a method that is not in ``METHODS``."""


class CallbackBase:
    """Make a :class:`earlycrop.Pruner` when training begins. The arguments are those of the callbacks."""

    how_to_resume: str
    """What to do to continue from a checkpoint, for error messages."""

    def __init__(
        self,
        method: MethodName | Method = "earlycrop-s",
        sparsity: float = 0.9,
        *,
        loss: Loss | None = None,
        batches: Iterable[Any] | None = None,
        **pruner_arguments: Any,
    ) -> None:
        self.method = look_up("method", method, METHODS, Method)
        self.sparsity, self.loss, self.batches = sparsity, loss, batches
        self.method_name = method_name(self.method) or UNNAMED
        self.pruner_arguments = pruner_arguments
        self.pruner: Pruner | None = None
        self._resumed_state: Mapping[str, Any] | None = None

    @property
    def has_shrunk(self) -> bool:
        """Whether the model has been shrunk: a fresh one must be shrunk too before it can load its weights."""
        return self.pruner is not None and self.pruner.event is not None and self.method.structured

    def make_pruner(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        loss: Loss,
        epochs: int,
        epochs_done: int,
        averages: Sequence[nn.Module] = (),
    ) -> Pruner:
        """Make the pruner, and load the state of the checkpoint or of the earlier training that is continued.

        Args:
            model: The model to train.
            optimizer: All optimizers that train it.
            loss: ``(model, batch) -> scalar``.
            epochs: For how many epochs the model is trained in all.
            epochs_done: For how many epochs it was trained already.
            averages: Averages of its weights that other callbacks keep, besides the ``ema_models`` that were given.

        Raises:
            ValueError: See :class:`earlycrop.Pruner`; the method trains for more epochs; or the callback cannot
                continue this training, for example because it has pruned the model already.
        """
        previous = self.pruner
        if previous is not None and unwrap(previous.model) is not unwrap(model):
            previous = None
        state = self._state_to_continue(previous, epochs_done)
        ema_models = [*as_modules(self.pruner_arguments.get("ema_models", ())), *averages]
        arguments = {**self.pruner_arguments, "ema_models": ema_models}
        pruner = Pruner(model, optimizer, loss, self.method, self.sparsity, epochs=epochs, **arguments)
        if pruner.total_epochs != epochs:
            raise ValueError(
                f"{self.method_name} trains the model again and again, {pruner.total_epochs} epochs in all, which a "
                "Trainer does not: use a Pruner in a training loop of your own"
            )
        if previous is not None:  # the new pruner has its own hooks, perhaps on another optimizer
            previous.close()
            if previous.event is not None and previous.event.masks is not None:
                previous.event.masks.release()
        if state is not None:
            pruner.load_state_dict(state)
        self.pruner, self._resumed_state = pruner, None
        return pruner

    def _state_to_continue(self, previous: Pruner | None, epochs_done: int) -> Mapping[str, Any] | None:
        """Return the state that the new pruner is to load; ``previous`` is the earlier pruner of the same model."""
        if self._resumed_state is not None:
            return self._resumed_state
        if previous is not None and previous.epoch <= epochs_done:
            return previous.state_dict()
        if previous is not None and previous.event is not None:
            raise ValueError(
                "this PruningCallback has pruned this model already, and training starts from the beginning: make a "
                "fresh model, a new Trainer and a new PruningCallback for it. To continue from a checkpoint, "
                f"{self.how_to_resume}"
            )
        if epochs_done:
            raise ValueError(
                f"training is in epoch {epochs_done + 1}, and this PruningCallback was not there from the beginning: "
                "make a new Trainer with it"
            )
        return None


def check_one_process(processes: int) -> None:
    """Raise ValueError if several processes train the model, as each would cut it in its own way."""
    if processes > 1:
        raise ValueError(
            f"a PruningCallback works in one process, and {processes} train the model: train on one device"
        )


def check_method(method: str, saved_method: str | None, checkpoint: Any) -> None:
    """Raise ValueError if a checkpoint was written with another method, as its state means something else.

    Args:
        method: The name of the callback's method.
        saved_method: The name in the checkpoint; None for a method that has none.
        checkpoint: The path of the checkpoint.
    """
    saved_method = saved_method or UNNAMED
    if saved_method != method:
        raise ValueError(
            f"{checkpoint} was written with {saved_method}, and this PruningCallback prunes with {method}: give it "
            f"{saved_method}, or train from the beginning"
        )


def check_shapes(how_to_resume: str, model: nn.Module, weights: Mapping[str, Tensor], *_: Any) -> None:
    """Raise ValueError if a parameter has another shape in ``weights``, as only one of the two was shrunk.

    With its first argument bound, this is a hook for ``Module.register_load_state_dict_pre_hook``.
    """
    for name, p in model.named_parameters():
        if name in weights and weights[name].shape != p.shape:
            raise ValueError(
                f"'{name}' has the shape {tuple(weights[name].shape)} in the checkpoint and {tuple(p.shape)} in the "
                f"model. To continue from a checkpoint, {how_to_resume}"
            )


def draw_batches(loader: Any, batch_size: int | None, seed: int, move: Callable[[Any], Any]) -> Iterator[Any]:
    """Draw batches of a loader's data, in random order unless the data have an order of their own.

    Neither the loader nor torch's global random state changes. Nothing is read before the first batch is asked for.

    Args:
        loader: The training loader. Anything but a ``DataLoader`` is iterated as it is.
        batch_size: How many examples make a batch, for a loader that does not say.
        seed: The seed of the random order.
        move: Called with each batch, to move it to the device.

    Yields:
        The batches, as ``move`` returns them.
    """
    batches: Iterable[Any] = loader
    if isinstance(loader, DataLoader):
        size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None) or batch_size or 1
        if loader.batch_sampler is None:  # each item of the dataset is a batch already
            size = None
        shuffle = not isinstance(loader.dataset, IterableDataset)
        generator = torch.Generator("cpu").manual_seed(seed)
        batches = DataLoader(loader.dataset, size, shuffle, collate_fn=loader.collate_fn, generator=generator)
    yield from map(move, batches)
