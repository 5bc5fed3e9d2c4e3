"""The network to prune, with its optimizers, loss, averages and processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from earlycrop.surgery.optimizers import check_optimizers
from earlycrop.utils.distributed import ProcessGroup
from earlycrop.utils.materialise import check_materialised
from earlycrop.utils.types import Loss
from earlycrop.utils.validation import as_modules, as_optimizers, check_network
from earlycrop.utils.wrappers import process_group_of, rewrap_message, tensor_shapes, unwrap, unwrap_ema_models


@dataclass(frozen=True)
class PruningContext:
    """The network to prune, with its optimizers, loss, averages and processes, checked and unwrapped once.

    Args:
        network: The network inside any wrappers.
        optimizers: All optimizers that train it.
        loss: ``(network, batch) -> scalar``.
        ema_models: Averages of the network's weights, wrapped or not. They are pruned at the same places.
        group: The processes that train the network together, or None.
        rewrap_warning: The warning to give after a cut if a wrapper still holds the old parameters, or None.
    """

    network: nn.Module
    optimizers: list[Optimizer]
    loss: Loss
    ema_models: list[nn.Module]
    group: ProcessGroup = None
    rewrap_warning: str | None = None

    @classmethod
    def create(
        cls, model: object, optimizer: object, loss: Any, ema_models: object, group: ProcessGroup = None
    ) -> PruningContext:
        """Check what a user gives, and unwrap the model.

        Args:
            model: The model, wrapped or not.
            optimizer: One optimizer, several, or None.
            loss: ``(network, batch) -> scalar``.
            ema_models: One average of the model's weights, or several.
            group: The processes that train the model, where they are not those of ``DistributedDataParallel``.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: The model cannot be traced or has no values, or an optimizer or an average is not the model's.
        """
        check_network(model)
        assert isinstance(model, nn.Module)
        check_materialised(model)
        network, optimizers, averages = unwrap(model), as_optimizers(optimizer), as_modules(ema_models)
        check_optimizers(network, optimizers)
        unwrap_ema_models(averages, network, tensor_shapes(network))  # raises where one is no average of the network
        return cls(network, optimizers, loss, averages, group or process_group_of(model), rewrap_message(model))
