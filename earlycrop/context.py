"""What a pruning works on: the network, and all that goes on with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

from earlycrop.surgery.optimizers import check_optimizers
from earlycrop.utils.distributed import ProcessGroup
from earlycrop.utils.materialise import check_materialised
from earlycrop.utils.types import Loss
from earlycrop.utils.validation import as_modules, as_optimizers, check_network, check_type
from earlycrop.utils.wrappers import process_group_of, rewrap_message, tensor_shapes, unwrap, unwrap_ema_models


@dataclass(frozen=True)
class PruningContext:
    """The network that is pruned and all that goes on with it, checked and unwrapped once.

    Args:
        network: The network inside any wrappers.
        optimizers: All optimizers that train it.
        loss: ``(network, batch) -> scalar``.
        ema_models: Averages of the network's weights. They are pruned at the same places.
        group: The processes that train the network together, or None.
        rewrap_warning: What to warn of after a cut, where a wrapper still holds the parameters from before; or None.
    """

    network: nn.Module
    optimizers: list[Optimizer]
    loss: Loss
    ema_models: list[nn.Module]
    group: ProcessGroup = None
    rewrap_warning: str | None = None

    @classmethod
    def create(
        cls,
        model: object,
        optimizer: object,
        loss: Loss,
        ema_models: object,
        group: ProcessGroup = None,
    ) -> PruningContext:
        """Check what a user gives, and unwrap the model.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: The model cannot be traced or has no values, or an optimizer or an average is not the model's.
        """
        check_network(model)
        assert isinstance(model, nn.Module)
        check_materialised(model)
        network, optimizers, averages = unwrap(model), as_optimizers(optimizer), as_modules(ema_models)
        check_optimizers(network, optimizers)
        unwrap_ema_models(averages, network, tensor_shapes(network))
        return cls(network, optimizers, loss, averages, group or process_group_of(model), rewrap_message(model))


def check_loss(loss: object) -> None:
    """Raise TypeError if ``loss`` cannot be called."""
    check_type("the loss", loss, Callable, "give a function of (model, batch) that returns a scalar")
