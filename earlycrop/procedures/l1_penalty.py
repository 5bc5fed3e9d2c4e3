"""The L1 penalty on batch norm scales, which drives scales towards zero before nodes are cut."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.optim import Optimizer

from earlycrop.procedures.gradient_hooks import before_optimizer_step
from earlycrop.utils.parameters import norm_scales


class NormScaleL1:
    """Add the gradient of ``weight * sum |gamma|`` over all batch norm scales gamma to that of every optimizer step.

    If a step is given a closure, the gradient is added after each call of it; the loss that it returns does not change.
    An optimizer that wraps another one (Lookahead, SAM) is penalised once, at the step of the other one: SAM climbs by
    the gradient of the loss alone, and descends by that of the loss and the penalty.

    Args:
        model: The model with the batch norms.
        optimizer: All optimizers that train it.
        weight: The weight of the penalty.

    Source: Liu et al. 2017, eq. 1.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer | Sequence[Optimizer], weight: float) -> None:
        self.model, self.weight = model, weight
        self._handles = before_optimizer_step(optimizer, self._add)

    def release(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _add(self, stepped: set[int], scale: Tensor | None) -> None:
        for gamma in map(self.model.get_parameter, norm_scales(self.model)):
            if id(gamma) in stepped and gamma.grad is not None:
                weight = self.weight if scale is None else self.weight * scale.to(gamma.grad.device)
                gamma.grad.add_(gamma.detach().sign() * weight)
