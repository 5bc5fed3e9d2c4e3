"""The arguments that a loss calls the model with."""

from __future__ import annotations

from typing import Any

from torch import nn

from earlycrop.utils.contexts import preserve_state
from earlycrop.utils.errors import FlowError
from earlycrop.utils.types import Loss


class _StopForward(Exception):
    """Raised when the model is called, because the rest of the loss is not needed."""


def record_arguments(model: nn.Module, loss: Loss, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of the first call of the model in a loss. The rest of the loss is not computed.

    What the loss has changed in the model by then, and random states, are restored.

    Args:
        model: The network.
        loss: (model, batch) -> scalar loss.
        batch: What the loss is called with.

    Returns:
        The positional arguments and the keyword arguments.

    Raises:
        FlowError: The loss does not call the model.
    """

    def record(module: nn.Module, args: Any, kwargs: Any) -> None:
        raise _StopForward(args, dict(kwargs))

    with preserve_state(model):
        handle = model.register_forward_pre_hook(record, with_kwargs=True)
        try:
            loss(model, batch)
        except _StopForward as call:
            return call.args[0], call.args[1]
        finally:
            handle.remove()
    raise FlowError("the loss does not call the model: compute it with the outputs of the model that it is given")
