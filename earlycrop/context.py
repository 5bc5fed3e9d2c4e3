"""The network to prune, with its optimizers, loss, averages and processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from earlycrop.surgery.optimizers import check_optimizers, cut_states
from earlycrop.utils.caller import warn
from earlycrop.utils.distributed import ProcessGroup
from earlycrop.utils.errors import SurgeryError
from earlycrop.utils.materialise import check_materialised
from earlycrop.utils.parameters import flatten_optimizers
from earlycrop.utils.types import Loss
from earlycrop.utils.validation import as_modules, as_optimizers, check_network, enumerate_names
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

    def warn_of_untrained(self) -> None:
        """Warn where no optimizer holds a parameter that requires a gradient."""
        trained_ids = {
            id(p) for o in flatten_optimizers(self.optimizers) for group in o.param_groups for p in group["params"]
        }
        missing = [name for name, p in self.network.named_parameters() if p.requires_grad and id(p) not in trained_ids]
        if not self.optimizers:
            warn(
                "the pruner was given no optimizer, so a pruning would not update the one that trains the model: give "
                "all optimizers that train the model",
            )
        elif missing:
            warn(
                f"the optimizers that were given do not hold {enumerate_names(missing)}: give all optimizers that "
                "train the model, and call requires_grad_(False) on what is not trained",
            )

    def warn_of_hooks(self) -> None:
        """Warn where parameters have hooks, with which they cannot be cut."""
        hooked = [
            name
            for name, p in self.network.named_parameters()
            if p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None)
        ]
        if hooked:
            warn(
                f"{enumerate_names(hooked)} cannot be cut, because of hooks that a cut would lose (masks of an "
                "unstructured pruning, or your own): remove the hooks before the pruning, or leave these layers out "
                "with Limits(exclude=...)",
            )

    def warn_of_state(self) -> None:
        """Warn where the state of an optimizer cannot follow a cut, from trial cuts of one parameter after another."""
        parameters = {name: p for name, p in self.network.named_parameters() if p.ndim and len(p) > 1}
        for optimizer in flatten_optimizers(self.optimizers):
            try:
                for name, p in parameters.items():
                    if optimizer.state.get(p):
                        cut_states(optimizer, {name: p}, {name: {0: torch.arange(len(p) - 1, device=p.device)}})
            except SurgeryError as error:
                warn(f"the optimizer cannot follow a cut: {error}")
