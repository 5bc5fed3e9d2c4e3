"""What the callbacks have in common: a pruner that is made when training begins, or goes on with it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from earlycrop.pruner import Pruner
from earlycrop.utils.types import Loss
from earlycrop.utils.wrappers import unwrap


class CallbackBase:
    """Holds a :class:`earlycrop.Pruner`, as ``pruner``, once training has begun."""

    go_on: str
    """How training goes on from a checkpoint."""

    def __init__(
        self,
        method: str = "earlycrop-s",
        sparsity: float = 0.9,
        *,
        loss: Loss | None = None,
        batches: Iterable[Any] | None = None,
        **options: Any,
    ) -> None:
        self.method, self.sparsity, self.loss, self.batches, self.options = method, sparsity, loss, batches, options
        self.pruner: Pruner | None = None
        self._resumed: Mapping[str, Any] | None = None

    @property
    def small(self) -> bool:
        """Whether a model has been shrunk, so that a fresh one does not take its weights."""
        return self.pruner is not None and self.pruner.event is not None and self.pruner.method.structured

    @property
    def named(self) -> str:
        """The method's name, for a checkpoint; a ``Method`` of one's own has none."""
        return self.method if isinstance(self.method, str) else "a method of your own"

    def begin(
        self, model: nn.Module, optimizer: Optimizer | Sequence[Optimizer], loss: Loss, epochs: int, done: int
    ) -> Pruner:
        """Make the pruner when ``done`` epochs are over, and take up the state that was resumed from, or that of the
        pruner before where the same model's training simply goes on: what it has pruned stands.

        Raises:
            ValueError: see :class:`earlycrop.Pruner`; the method trains several times over; or the training that begins
            is not one that the pruner can go on with: nothing is pruned twice.
        """
        before, state = self.pruner, self._resumed
        if before is not None and unwrap(before.model) is not unwrap(model):
            before = None
        if before is not None and state is None:
            if before.epoch <= done:
                state = before.state_dict()
            elif before.event is not None:
                raise ValueError(
                    "this PruningCallback has pruned this model already, and training begins anew: make a fresh model, "
                    f"a Trainer and a callback for it, or go on from a checkpoint by {self.go_on}"
                )
        if state is None and done:
            raise ValueError(
                f"training is in epoch {done + 1}, and this PruningCallback was not there: make a new Trainer"
            )
        pruner = Pruner(model, optimizer, loss, self.method, self.sparsity, epochs=epochs, **self.options)
        if pruner.total_epochs != epochs:
            raise ValueError(f"{self.method} trains {pruner.total_epochs} epochs in all: use a loop of your own")
        if before is not None:  # its hooks are on an optimizer that may be gone, and the new one has its own
            before.close()
            if before.event is not None and before.event.masks is not None:
                before.event.masks.release()
        if state is not None:
            pruner.load_state_dict(state)
        self.pruner, self._resumed = pruner, None
        return pruner


def check_one_process(processes: int) -> None:
    """Raise ValueError where several processes train: each would cut on its own."""
    if processes > 1:
        raise ValueError(f"pruning runs in one process, and here are {processes}: train on one device")


def check_method(own: str, written: str, checkpoint: Any) -> None:
    """Raise ValueError where a checkpoint was written with another method: its state means something else here."""
    if written != own:
        raise ValueError(
            f"{checkpoint} was written with {written}, and this PruningCallback prunes with {own}: give it {written}, "
            "or train from the start"
        )


def check_sizes(go_on: str, model: nn.Module, weights: Mapping[str, Tensor], *_: Any) -> None:
    """Raise ValueError where a parameter has another size in ``weights``: one was shrunk; with ``go_on``, how training
    goes on from a checkpoint, a hook of ``register_load_state_dict_pre_hook``.
    """
    for name, p in model.named_parameters():
        if name in weights and weights[name].shape != p.shape:
            there, here = tuple(weights[name].shape), tuple(p.shape)
            raise ValueError(
                f"'{name}' is {there} in the checkpoint and {here} in the model: go on from a checkpoint by {go_on}"
            )


def check_single_callback(state: Any) -> None:
    """Raise ValueError where another callback was asked with this ``TrainerState``, a new one in each training, before.

    A mark on it is all that callbacks can tell one another; it is not saved with it.
    """
    if "pruned" in vars(state):
        raise ValueError("two PruningCallbacks in one Trainer would both prune its model: give it one")
    vars(state)["pruned"] = True


def check_trainer(arguments: Any, state: Any, resumed: Mapping[str, Any] | None) -> None:
    """Raise ValueError where a Trainer cannot be followed; ``resumed``: what the callback has of a checkpoint."""
    check_one_process(arguments.world_size)
    if arguments.load_best_model_at_end:
        raise ValueError("the best checkpoint may be from before the pruning: leave out load_best_model_at_end")
    if state.num_train_epochs >= sys.maxsize:  # what a Trainer makes of max_steps where it knows no epochs
        raise ValueError("the pruner plans in epochs, and these data have no length: give the dataset a __len__")
    step = state.global_step
    if step and resumed is None:
        raise ValueError("training is resumed: call resume(model, checkpoint) before the Trainer is made")
    if resumed is not None and (not step or step != resumed.get("step", step)):
        raise ValueError(
            f"resume was given the checkpoint of step {resumed.get('step')}, and training begins at step {step}: call "
            "train(resume_from_checkpoint=checkpoint) with that same checkpoint"
        )
