"""What the callbacks refuse before anything is changed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def require_one(processes: int) -> None:
    """Raise ValueError where several processes train: each would cut on its own."""
    if processes > 1:
        raise ValueError(f"pruning runs in one process, and here are {processes}: train on one device")


def require_method(own: str, written: str, checkpoint: Any) -> None:
    """Raise ValueError where a checkpoint was written with another method: its state means something else here."""
    if written != own:
        raise ValueError(
            f"{checkpoint} was written with {written}, and this PruningCallback prunes with {own}: give it {written}, "
            "or train from the start"
        )


def require_sizes(go_on: str, model: nn.Module, weights: Mapping[str, Tensor], *_: Any) -> None:
    """Raise ValueError where a parameter has another size in ``weights``: one was shrunk; with ``go_on``, how training
    goes on from a checkpoint, a hook of ``register_load_state_dict_pre_hook``.
    """
    for name, p in model.named_parameters():
        if name in weights and weights[name].shape != p.shape:
            there, here = tuple(weights[name].shape), tuple(p.shape)
            raise ValueError(
                f"'{name}' is {there} in the checkpoint and {here} in the model: go on from a checkpoint by {go_on}"
            )


def require_alone(state: Any) -> None:
    """Raise ValueError where another callback was asked with this ``TrainerState``, a new one in each training, before.

    A mark on it is all that callbacks can tell one another; it is not saved with it.
    """
    if "pruned" in vars(state):
        raise ValueError("two PruningCallbacks in one Trainer would both prune its model: give it one")
    vars(state)["pruned"] = True


def require_followed(arguments: Any, state: Any, resumed: Mapping[str, Any] | None) -> None:
    """Raise ValueError where a Trainer cannot be followed; ``resumed``: what the callback has of a checkpoint."""
    require_one(arguments.world_size)
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
