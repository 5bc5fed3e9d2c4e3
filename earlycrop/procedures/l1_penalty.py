"""The L1 penalty on batch norm scales, which makes nodes worthless before they are cut (Liu et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.optim import Optimizer

from earlycrop.procedures.gradient_hooks import before_optimizer_step
from earlycrop.utils.parameters import norm_scales


class NormScaleL1:
    """The gradient of ``weight`` times the L1 norm of all batch norm scales, added to that of every optimizer step.

    Where a step is given a closure, the gradient is added after each run of it; the loss that it returns stays its own.
    An optimizer that wraps another (Lookahead, SAM) has it at the other one's step, once: SAM climbs by the gradient of
    the loss alone, and its descent, which is the other one's step, is penalised at the weights that it goes from.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer | Sequence[Optimizer], weight: float) -> None:
        self.model, self.weight = model, weight
        self._handles = before_optimizer_step(optimizer, self._add)

    def release(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _add(self, stepped: set[int], scale: Tensor | None) -> None:
        for gamma in map(self.model.get_parameter, norm_scales(self.model)):
            if id(gamma) in stepped and gamma.grad is not None:
                weight = self.weight if scale is None else self.weight * scale.to(gamma.grad.device)
                gamma.grad.add_(gamma.detach().sign() * weight)
