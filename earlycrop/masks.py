"""Hold removed weights at zero while any optimizer trains the rest, at no cost in the forward pass.

A removed weight is zero from the start; its gradient is zeroed as soon as it has been accumulated, so that gradient
clipping, GradScaler and the optimizer never see it; and after every optimizer step it is set to zero once more, for
optimizers that move a weight without a gradient (weight decay on momentum, Muon's orthogonalisation).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from earlycrop.units import matrices


class Masks:
    """The removed weights of a model, by parameter name: true where a weight is gone.

    Made by an unstructured pruning, or from the zeros of a model that was loaded (:meth:`of_zeros`). ``release`` takes
    the hooks off again; the weights stay as they are then, and may grow back.

    Raises:
        ValueError: a name is no parameter of the model, or a mask has not its shape.
    """

    def __init__(
        self, model: nn.Module, removed: Mapping[str, Bool[Tensor, "..."]], optimizer: Optimizer | None = None
    ) -> None:
        parameters = dict(model.named_parameters())
        for name, gone in removed.items():
            if name not in parameters or parameters[name].shape != gone.shape:
                raise ValueError(
                    f"the mask of '{name}' fits no parameter of the model: prune the model that it was made for"
                )
        self.removed = {name: gone.to(parameters[name].device) for name, gone in removed.items()}
        self._pairs = [(parameters[name], gone) for name, gone in self.removed.items()]
        self._handles: list[RemovableHandle] = []
        self._zero_weights()
        for p, gone in self._pairs:
            if p.grad is not None:
                p.grad.masked_fill_(gone, 0)
            handle = p.register_post_accumulate_grad_hook(partial(_zero_gradient, gone))  # type: ignore[no-untyped-call]
            self._handles.append(handle)
        if optimizer is not None:
            self._zero_state(optimizer)
            self._handles.append(optimizer.register_step_post_hook(self._after_step))

    @classmethod
    def of_zeros(cls, model: nn.Module, optimizer: Optimizer | None = None) -> Masks:
        """Masks of every weight matrix's entries that are exactly zero now."""
        return cls(model, {name: p.detach() == 0 for name, p in matrices(model).items()}, optimizer)

    def release(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _zero_weights(self) -> None:
        with torch.no_grad():
            for p, gone in self._pairs:
                p.masked_fill_(gone, 0)

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._zero_weights()

    def _zero_state(self, optimizer: Optimizer) -> None:
        """Forget the momentum of removed weights: it would move them before the next step's end."""
        for p, gone in self._pairs:
            for value in optimizer.state.get(p, {}).values():
                if isinstance(value, Tensor) and value.shape == gone.shape:
                    value.masked_fill_(gone, 0)


def _zero_gradient(gone: Tensor, p: Tensor) -> None:
    if p.grad is not None:
        p.grad.masked_fill_(gone, 0)
