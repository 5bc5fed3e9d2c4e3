"""Hold removed weights at zero while any optimizer trains the rest, at no cost in the forward pass.

A removed weight is zero from the start; its gradient is zeroed as soon as it has been accumulated, so that gradient
clipping, GradScaler and the optimizer never see it; and after every optimizer step it is set to zero once more, for
optimizers that move a weight without a gradient (weight decay on momentum, Muon's orthogonalisation).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from earlycrop._optimizers import hooked, listed, require_its_optimizers
from earlycrop._parametrized import zeroless
from earlycrop._wrappers import insides_of, shapes_of, unwrapped
from earlycrop.units import matrices

_INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""The integer type as wide as a floating one, by bytes."""


class Masks:
    """Holds the removed weights of a model at zero; made by an unstructured pruning, or from zeros (:meth:`of_zeros`).

    removed: by parameter name, true where a weight is gone. optimizer: all that train the model, one or several.
    copies: averages of the model's weights, whose removed weights are set to zero once: averages of zeros stay zero.
    ``release`` takes the hooks off again; the weights stay as they are then, and may grow back.

    The hooks are on the model's parameters: a deep copy of it is not held (``Masks.of_zeros`` holds it).

    Raises:
        ValueError: a name is no parameter of the model, a mask has not its shape, or an optimizer or a copy is not the
        model's.
    """

    def __init__(
        self,
        model: nn.Module,
        removed: Mapping[str, Bool[Tensor, "..."]],
        optimizer: Optimizer | Sequence[Optimizer] | None = None,
        copies: Sequence[nn.Module] = (),
    ) -> None:
        model = unwrapped(model)
        parameters = dict(model.named_parameters())
        for name, gone in removed.items():
            if name not in parameters or parameters[name].shape != gone.shape:
                raise ValueError(
                    f"the mask of '{name}' fits no parameter of the model: prune the model that it was made for"
                )
        require_its_optimizers(model, optimizer)
        copied = [dict(m.named_parameters()) for m in insides_of(copies, model, shapes_of(model))]
        # all bits set where a weight stays: "and" with them is exact for any value, and several times faster than a
        # multiplication by booleans or a masked fill
        self._bits = {name: _bits(parameters[name], gone) for name, gone in removed.items()}
        self._pairs = [(parameters[name], bits) for name, bits in self._bits.items()]
        self._handles: list[RemovableHandle] = []
        self.enforce(optimizer)
        for p, bits in self._pairs:
            if p.requires_grad:
                hook = partial(_zero_gradient, bits)
                self._handles.append(p.register_post_accumulate_grad_hook(hook))  # type: ignore[no-untyped-call]
        for own in copied:
            for name, bits in self._bits.items():
                _zero(own[name], bits)
        for one in hooked(optimizer):
            self._handles.append(one.register_step_post_hook(self._after_step))

    @classmethod
    def of_zeros(cls, model: nn.Module, optimizer: Optimizer | Sequence[Optimizer] | None = None) -> Masks:
        """Masks of every weight matrix's entries that are exactly zero now, where those are zeros of the weight."""
        model = unwrapped(model)
        whole = zeroless(model)
        zeros = {name: p.detach() == 0 for name, p in matrices(model).items() if id(p) not in whole}
        return cls(model, zeros, optimizer)

    @property
    def removed(self) -> dict[str, Bool[Tensor, "..."]]:
        """By parameter name, true where a weight is gone."""
        return {name: bits == 0 for name, bits in self._bits.items()}

    def enforce(self, optimizer: Optimizer | Sequence[Optimizer] | None = None) -> None:
        """Zero the removed weights, their gradients and what the optimizers hold of them, now: after a state has been
        loaded that knows nothing of the masks.
        """
        for p, bits in self._pairs:
            _zero(p, bits)
            _zero_gradient(bits, p)
        for one in listed(optimizer):
            self._zero_state(one)

    def release(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for p, bits in self._pairs:
            _zero(p, bits)

    def _zero_state(self, optimizer: Optimizer) -> None:
        """Forget the momentum of removed weights: it would move them before the next step's end."""
        for p, bits in self._pairs:
            for value in optimizer.state.get(p, {}).values():
                if isinstance(value, Tensor) and value.shape == bits.shape:
                    value.masked_fill_(bits == 0, 0)


def _bits(p: Tensor, gone: Tensor) -> Tensor:
    return torch.where(gone.to(p.device), 0, -1).to(_INTEGER[p.element_size()])


def _zero(t: Tensor, bits: Tensor) -> None:
    if t.element_size() == bits.element_size() and t.device == bits.device:
        t.detach().view(bits.dtype).bitwise_and_(bits)
    else:  # the model was moved or converted since
        t.detach().masked_fill_((bits == 0).to(t.device), 0)


def _zero_gradient(bits: Tensor, p: Tensor) -> None:
    if p.grad is not None:
        _zero(p.grad, bits)
