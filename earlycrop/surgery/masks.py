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

from earlycrop.surgery.optimizers import check_optimizers
from earlycrop.utils.modules import tensor_owners
from earlycrop.utils.parameters import flatten_optimizers, hookable_optimizers, weight_matrices
from earlycrop.utils.parametrizations import parameters_without_zeros
from earlycrop.utils.wrappers import tensor_shapes, unwrap, unwrap_ema_models

_INTEGER = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""The integer type as wide as a floating one, by bytes; complex128 has none, and is filled."""


class Masks:
    """Holds the removed weights of a model at zero; made by an unstructured pruning, or from zeros (:meth:`of_zeros`).

    removed: by parameter name, true where a weight is gone. optimizer: all that train the model, one or several.
    copies: averages of the model's weights, whose removed weights are set to zero once: averages of zeros stay zero.
    ``release`` takes the hooks off again; the weights stay as they are then, and may grow back.

    The hooks are on the model's parameters, and go with those that ``load_state_dict`` puts in their place. A deep copy
    of the model alone is not held (``Masks.of_zeros`` holds it); one of model, optimizer and masks together is.

    Raises:
        TypeError: an optimizer or a copy is none. ValueError: a name is no parameter of the model, a mask has not its
        shape, or an optimizer or a copy is not the model's.
    """

    def __init__(
        self,
        model: nn.Module,
        removed: Mapping[str, Bool[Tensor, "..."]],
        optimizer: Optimizer | Sequence[Optimizer] | None = None,
        copies: nn.Module | Sequence[nn.Module] = (),
    ) -> None:
        model = unwrap(model)
        parameters = dict(model.named_parameters())
        for name, gone in removed.items():
            if name not in parameters or parameters[name].shape != gone.shape:
                raise ValueError(
                    f"the mask of '{name}' fits no parameter of the model: prune the model that it was made for"
                )
        check_optimizers(model, optimizer)
        copied = [dict(m.named_parameters()) for m in unwrap_ema_models(copies, model, tensor_shapes(model))]
        # all bits set where a weight stays: "and" with them is exact for any value, and several times faster than a
        # multiplication by booleans or a masked fill
        self._bits = {name: _mask_bits(parameters[name], gone) for name, gone in removed.items()}
        where = tensor_owners(model)
        self._spots = [(owner, place, name) for name in removed for owner, place in where[id(parameters[name])]]
        self._optimizers = hookable_optimizers(optimizer)
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._pairs = self._found()
        self._averages = [(own[name], bits) for own in copied for name, bits in self._bits.items()]
        self._loaded = _LoadHook()
        self._handles: list[RemovableHandle] = []
        for owner in {id(owner): owner for owner, _, _ in self._spots}.values():
            self._handles.append(owner.register_load_state_dict_post_hook(self._loaded))  # type: ignore[no-untyped-call]
        self._put_hooks()
        self.enforce(optimizer)

    @classmethod
    def of_zeros(cls, model: nn.Module, optimizer: Optimizer | Sequence[Optimizer] | None = None) -> Masks:
        """Masks of every weight matrix's entries that are exactly zero now, where those are zeros of the weight; those
        of whole numbers are left alone.
        """
        model = unwrap(model)
        whole = parameters_without_zeros(model)
        real = {name: p for name, p in weight_matrices(model).items() if p.is_floating_point() or p.is_complex()}
        return cls(model, {name: p.detach() == 0 for name, p in real.items() if id(p) not in whole}, optimizer)

    @property
    def removed(self) -> dict[str, Bool[Tensor, "..."]]:
        """By parameter name, true where a weight is gone."""
        return {name: bits == 0 for name, bits in self._bits.items()}

    def enforce(self, optimizer: Optimizer | Sequence[Optimizer] | None = None) -> None:
        """Zero the removed weights, there and in the copies, their gradients and what the optimizers hold of them, now:
        after a state has been loaded that knows nothing of the masks.
        """
        for p, bits in self._pairs + self._averages:
            _zero(p, bits)
        for p, bits in self._pairs:
            _zero_gradient(bits, p)
        for one in flatten_optimizers(optimizer):
            self._zero_state(one)

    def hold(self, module: nn.Module | None = None) -> None:
        """Zero the removed weights of the module (or of all), and hold what stands in the place of a parameter by now:
        ``load_state_dict(..., assign=True)`` puts others there.
        """
        if self._loaded.masks is None:
            return
        known = {id(p) for p, _ in self._pairs}
        loaded = None if module is None else {id(p) for p in module._parameters.values()}
        self._pairs = self._found()
        for p, bits in self._pairs:
            if id(p) not in known:
                self._put_hook(p, bits)
            if loaded is None or id(p) in loaded:
                _zero(p, bits)

    def release(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._loaded.masks = None

    def __getstate__(self) -> dict[str, Any]:
        """Without hooks, which parameters and optimizers do not take along into a copy."""
        return {**vars(self), "_handles": [], "held": self._loaded.masks is not None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        held = state.pop("held")
        vars(self).update(state)
        if held:
            self._put_hooks()

    def _put_hooks(self) -> None:
        self._loaded.masks = self
        for p, bits in self._pairs:
            self._put_hook(p, bits)
        for one in self._optimizers:
            self._handles.append(one.register_step_post_hook(self._after_step))

    def _put_hook(self, p: Tensor, bits: Tensor) -> None:
        if p.requires_grad:
            hook = partial(_zero_gradient, bits)
            self._handles.append(p.register_post_accumulate_grad_hook(hook))  # type: ignore[no-untyped-call]

    def _found(self) -> list[tuple[Tensor, Tensor]]:
        """What stands in the places of the masked parameters now, each once, with its bits; where none does, what did:
        a parametrization has moved it.
        """
        was = {id(bits): p for p, bits in self._pairs}
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for owner, place, name in self._spots:
            p: Tensor | None = owner._parameters.get(place)
            if p is None:
                p = was.get(id(self._bits[name]))
            if p is not None and p.shape == self._bits[name].shape:
                found[id(p)] = (p, self._bits[name])
        return list(found.values())

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for p, bits in self._pairs:
            _zero(p, bits)

    def _zero_state(self, optimizer: Optimizer) -> None:
        """Forget the momentum of removed weights: it would move them before the next step's end."""
        for p, bits in self._pairs:
            for value in optimizer.state.get(p, {}).values():
                if isinstance(value, Tensor) and value.shape == bits.shape:
                    value.masked_fill_(bits == 0, 0)


class _LoadHook:
    """Has masks hold what a module has loaded. In a copy of the module it does nothing, unless they are copied, too."""

    masks: Masks | None = None

    def __call__(self, module: nn.Module, keys: Any) -> None:
        if self.masks is not None:
            self.masks.hold(module)

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _LoadHook, ()


def _mask_bits(p: Tensor, gone: Tensor) -> Tensor:
    return torch.where(gone.to(p.device), 0, -1).to(_INTEGER.get(p.element_size(), torch.int8))


def _zero(t: Tensor, bits: Tensor) -> None:
    if t.element_size() == bits.element_size() and t.device == bits.device:
        t.detach().view(bits.dtype).bitwise_and_(bits)
    else:  # the model was moved or converted since
        t.detach().masked_fill_((bits == 0).to(t.device), 0)


def _zero_gradient(bits: Tensor, p: Tensor) -> None:
    if p.grad is None:
        return
    if p.grad.is_sparse:  # of an embedding: some rows
        places = tuple(p.grad._indices())
        p.grad._values().masked_fill_((bits == 0)[places], 0)
    else:
        _zero(p.grad, bits)
