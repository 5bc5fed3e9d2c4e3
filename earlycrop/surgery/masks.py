"""Hold removed weights at zero while any optimizer trains the others, at no cost in the forward pass.

Removed weights are set to zero once. Hooks then set their gradients to zero as soon as they are accumulated, before
gradient clipping, GradScaler and the optimizer see them. After every optimizer step the weights are set to zero again,
because some optimizers move a weight without a gradient (weight decay with momentum, Muon's orthogonalisation).
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
"""Integer type that has the bits of a floating number, by its size in bytes. complex128 has none."""


class Masks:
    """Holds the removed weights of a model at zero.

    An unstructured pruning makes them; :meth:`of_zeros` makes them from a model that has zeros already.

    The hooks are on the model's parameters. They also cover parameters that ``load_state_dict`` puts in their place. A
    deep copy of the model alone is not covered (use ``Masks.of_zeros``), a deep copy of model, optimizer and masks
    together is.

    Args:
        model: The model. A wrapped model is unwrapped.
        removed: Parameter name -> mask of the parameter's shape, true where a weight is removed.
        optimizer: All optimizers that train the model, one or several.
        ema_models: Modules that average the model's weights. Their removed weights are set to zero once, because
            averages of zeros stay zero.

    Raises:
        TypeError: An optimizer is not an optimizer, or an EMA model not a module.
        ValueError: A mask fits no parameter, or an optimizer or EMA model is not the model's.
    """

    def __init__(
        self,
        model: nn.Module,
        removed: Mapping[str, Bool[Tensor, "..."]],
        optimizer: Optimizer | Sequence[Optimizer] | None = None,
        ema_models: nn.Module | Sequence[nn.Module] = (),
    ) -> None:
        model = unwrap(model)
        parameters = dict(model.named_parameters())
        for name, mask in removed.items():
            if name not in parameters or parameters[name].shape != mask.shape:
                raise ValueError(f"the mask of '{name}' fits no parameter: prune the model that it was made for")
        check_optimizers(model, optimizer)
        averages = [dict(m.named_parameters()) for m in unwrap_ema_models(ema_models, model, tensor_shapes(model))]
        # All bits are set where a weight stays; torch extends the sign of int8. A bitwise "and" is exact for any value,
        # and several times faster than a multiplication by booleans or masked_fill_.
        self._bits = {name: _make_bits(parameters[name], mask) for name, mask in removed.items()}
        owners = tensor_owners(model)
        self._places = [(*place, name) for name in removed for place in owners[id(parameters[name])]]
        self._optimizers = hookable_optimizers(optimizer)
        self._masked: list[tuple[Tensor, Tensor]] = []
        self._masked = self._find_parameters()
        self._averages = [(tensors[name], bits) for tensors in averages for name, bits in self._bits.items()]
        self._load_hook = _LoadHook()
        self._handles: list[RemovableHandle] = []
        for owner in {id(owner): owner for owner, _, _ in self._places}.values():
            self._handles.append(owner.register_load_state_dict_post_hook(self._load_hook))  # type: ignore[no-untyped-call]
        self._register_hooks()
        self.enforce(optimizer)

    @classmethod
    def of_zeros(cls, model: nn.Module, optimizer: Optimizer | Sequence[Optimizer] | None = None) -> Masks:
        """Make masks of all entries of weight matrices that are exactly zero now.

        Matrices of whole numbers, and those whose zeros are not zeros of the weight (an orthogonal parametrization),
        are left out.

        Args:
            model: The model.
            optimizer: All optimizers that train the model, one or several.

        Returns:
            The masks.

        Raises:
            TypeError: An optimizer is not an optimizer.
            ValueError: An optimizer holds none of the model's parameters.
        """
        model = unwrap(model)
        without_zeros = parameters_without_zeros(model)
        removed = {
            name: p.detach() == 0
            for name, p in weight_matrices(model).items()
            if (p.is_floating_point() or p.is_complex()) and id(p) not in without_zeros
        }
        return cls(model, removed, optimizer)

    @property
    def removed(self) -> dict[str, Bool[Tensor, "..."]]:
        """The masks by parameter name, true where a weight is removed."""
        return {name: bits == 0 for name, bits in self._bits.items()}

    def enforce(self, optimizer: Optimizer | Sequence[Optimizer] | None = None) -> None:
        """Set removed weights to zero now, with their gradients, the EMA models' weights and the optimizers' state.

        Call it after loading a state from before the pruning.

        Args:
            optimizer: The optimizers whose state of removed weights is set to zero.
        """
        for p, bits in self._masked:
            _follow(bits, p)
        for p, bits in self._masked + self._averages:
            _zero(p, bits)
        for p, bits in self._masked:
            _zero_gradient(bits, p)
        for o in flatten_optimizers(optimizer):
            self._zero_state(o)

    def hold(self, module: nn.Module | None = None) -> None:
        """Set removed weights to zero, and hook parameters that have replaced masked ones.

        ``load_state_dict(..., assign=True)`` replaces parameters, for one.

        Args:
            module: Set only the weights of this module to zero, without its submodules. By default, all.
        """
        if self._load_hook.masks is None:
            return
        hooked = {id(p) for p, _ in self._masked}
        loaded = None if module is None else {id(p) for p in module._parameters.values()}
        self._masked = self._find_parameters()
        for p, bits in self._masked:
            if id(p) not in hooked:
                self._register_gradient_hook(p, bits)
            if loaded is None or id(p) in loaded:
                _follow(bits, p)
                _zero(p, bits)

    def release(self) -> None:
        """Remove the hooks. The weights keep their values, and training may change them again."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._load_hook.masks = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the hooks, which are not copied along with parameters and optimizers."""
        return {**vars(self), "_handles": [], "is_active": self._load_hook.masks is not None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        is_active = state.pop("is_active")
        vars(self).update(state)
        if is_active:
            self._register_hooks()

    def _register_hooks(self) -> None:
        self._load_hook.masks = self
        for p, bits in self._masked:
            self._register_gradient_hook(p, bits)
        for o in self._optimizers:
            self._handles.append(o.register_step_post_hook(self._zero_weights))

    def _register_gradient_hook(self, p: Tensor, bits: Tensor) -> None:
        if p.requires_grad:
            hook = partial(_zero_gradient, bits)
            self._handles.append(p.register_post_accumulate_grad_hook(hook))  # type: ignore[no-untyped-call]

    def _find_parameters(self) -> list[tuple[Tensor, Tensor]]:
        """Return each masked parameter that the model has now, once, with its bits.

        If a parametrization has moved a parameter elsewhere, the previous parameter is returned.
        """
        previous = {id(bits): p for p, bits in self._masked}
        masked: dict[int, tuple[Tensor, Tensor]] = {}
        for owner, attribute, name in self._places:
            bits = self._bits[name]
            p: Tensor | None = owner._parameters.get(attribute)
            if p is None:
                p = previous.get(id(bits))
            if p is not None and p.shape == bits.shape:
                masked[id(p)] = (p, bits)
        return list(masked.values())

    def _zero_weights(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for p, bits in self._masked:
            _follow(bits, p)
            _zero(p, bits)

    def _zero_state(self, optimizer: Optimizer) -> None:
        """Set the momentum of removed weights to zero, because it would move them within the next step."""
        for p, bits in self._masked:
            for value in optimizer.state.get(p, {}).values():
                if isinstance(value, Tensor) and value.shape == bits.shape:
                    value.masked_fill_((bits == 0).to(value.device), 0)


class _LoadHook:
    """Calls ``Masks.hold`` after ``load_state_dict``. A deep copy does nothing until copied masks activate it."""

    masks: Masks | None = None

    def __call__(self, module: nn.Module, keys: Any) -> None:
        if self.masks is not None:
            self.masks.hold(module)

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _LoadHook, ()


def _make_bits(p: Tensor, removed: Tensor) -> Tensor:
    return removed.to(p.device).to(torch.int8) - 1


def _follow(bits: Tensor, p: Tensor) -> None:
    """Move the bits as the model was, so that they are not copied at every step."""
    if p.device != bits.device and not p.is_meta:  # there they would be lost
        bits.data = bits.to(p.device)  # the hooks have this tensor, too


def _zero(t: Tensor, bits: Tensor) -> None:
    integer = _INTEGER.get(t.element_size())
    if integer is not None and t.device == bits.device:
        t.detach().view(integer).bitwise_and_(bits)
    else:  # complex128, or an EMA model or a gradient on another device
        t.detach().masked_fill_((bits == 0).to(t.device), 0)


def _zero_gradient(bits: Tensor, p: Tensor) -> None:
    if p.grad is None:
        return
    _follow(bits, p)
    if p.grad.is_sparse:  # some rows of an embedding
        indices = tuple(p.grad._indices())
        p.grad._values().masked_fill_((bits == 0)[indices], 0)
    else:
        _zero(p.grad, bits)
