"""What the callbacks share: the pruner, the check of a checkpoint to continue from, and the data to score on."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, IterableDataset

from earlycrop.events import Event, PruningRequest
from earlycrop.methods import METHODS, Method, MethodName, method_name
from earlycrop.pruner import Pruner
from earlycrop.selection.constraints import NO_LIMITS, Limits
from earlycrop.training.options import DEFAULT_OPTIONS, PrunerOptions
from earlycrop.triggers.base import Trigger
from earlycrop.triggers.triggers import TRIGGERS
from earlycrop.utils.types import Loss
from earlycrop.utils.validation import (
    as_modules,
    check_batches,
    check_loss,
    check_positive_int,
    check_sparsity,
    check_type,
    describe_unknown,
    look_up,
)
from earlycrop.utils.wrappers import unwrap

UNNAMED = "a custom method"
"""Stands for the name of a method that is not in ``METHODS``."""
ARGUMENTS = inspect.signature(Pruner).parameters.keys() - {"model", "optimizer", "epochs"}
"""The arguments of a ``Pruner`` that a callback takes."""
_log = logging.getLogger("earlycrop.integrations")


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
        limits: Limits = NO_LIMITS,
        **pruner_arguments: Any,
    ) -> None:
        self.method = look_up("method", method, METHODS, Method)
        self.method_name = method_name(self.method) or UNNAMED
        if self.method.procedure == "rewind":
            raise ValueError(_trains_again(self.method_name))
        _check_data(loss, batches)
        self.pruner_arguments = {"limits": limits, **pruner_arguments}
        _check_arguments(self.method, sparsity, **self.pruner_arguments)
        self.sparsity, self.loss, self.batches = sparsity, loss, batches
        self.pruner: Pruner | None = None
        self.unlogged: dict[str, float] = {}
        """What was measured and pruned since the last log, where the Trainer logs at times of its own."""
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
        if previous is not None:  # the new pruner has its own hooks, perhaps on another optimizer
            previous.close()
            if previous.event is not None and previous.event.masks is not None:
                previous.event.masks.release()
        if state is not None:
            pruner.load_state_dict(state)
        self.pruner, self._resumed_state = pruner, None
        return pruner

    def report(self, pruner: Pruner, event: Event | None) -> dict[str, float]:
        """Write a line to the log about a pruning, and return what the Trainer is to log.

        Args:
            pruner: The pruner.
            event: What its last ``step`` has pruned, if anything.

        Returns:
            What was measured, and of a pruning its epoch, what it removed and its certificate, as ``earlycrop/NAME``.
        """
        values = pruner.log()
        if event is not None:
            changes = ", ".join(f"{before:,} -> {after:,} {name}" for name, (before, after) in event.costs.items())
            _log.info("%s pruned at epoch %d (%s): %s", self.method_name, event.epoch, event.reason, changes)
            values |= {"pruned_epoch": event.epoch, "weight_sparsity": event.weight_sparsity}
            values |= {"node_sparsity": event.node_sparsity}
            values |= {} if event.difference is None else {"certificate": event.difference}
        return {f"earlycrop/{name}": float(value) for name, value in values.items()}

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


def _trains_again(method: str) -> str:
    return (
        f"{method} trains the model again and again, which a Trainer does not: use a Pruner in a training loop of your "
        "own"
    )


def _check_data(loss: Loss | None, batches: Iterable[Any] | None) -> None:
    if loss is not None:
        check_loss(loss)
    if batches is not None:
        check_batches(batches)


def _check_arguments(method: Method, sparsity: float, **given: Any) -> None:
    """Check what a callback is made with as far as can be without a model, so that errors come before the training.

    Args:
        method: The method.
        sparsity: The share to remove.
        **given: Arguments of the ``Pruner``.

    Raises:
        TypeError: There is no such argument, or it has the wrong type.
        ValueError: A value is unknown or out of its range.
    """
    for name in given.keys() - ARGUMENTS:
        nearest = get_close_matches(name, ARGUMENTS, 1)
        hint = f", did you mean {nearest[0]}" if nearest else f": it takes {', '.join(sorted(ARGUMENTS))}"
        raise TypeError(f"a PruningCallback takes no argument {name}{hint}")
    check_type("limits", given["limits"], Limits, "write earlycrop.Limits(floors=...)")
    options, trigger = given.get("options", DEFAULT_OPTIONS), given.get("trigger")
    check_type("options", options, PrunerOptions, "write earlycrop.PrunerOptions(gate=...)")
    rounds = check_positive_int("rounds", given.get("rounds", 5))
    if given.get("score_batches") is not None:
        check_positive_int("score_batches", given["score_batches"])
    if isinstance(trigger, str) and trigger not in TRIGGERS and not trigger.isdecimal():
        raise ValueError(describe_unknown("trigger", trigger, TRIGGERS) + ", or the number of an epoch to prune after")
    check_type("the trigger", trigger, Trigger | str | int | None, "give a name, the number of an epoch, or a Trigger")
    if method.criterion is not None:
        targets = method.schedule(check_sparsity(sparsity), rounds)
        of, limits = given.get("of", "weights"), given["limits"]
        PruningRequest(method.criterion, method.structured, targets, of, options.gate, limits)


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
