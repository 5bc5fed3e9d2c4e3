"""Weights that are no parameters, but worked out of some by torch's parametrizations (``nn.utils.parametrize``)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from earlycrop.utils.contexts import preserve_state, replace_tensors
from earlycrop.utils.errors import SurgeryError
from earlycrop.utils.meta import MetaMode, shapes_only
from earlycrop.utils.modules import list_modules, tensors_by_name


def parametrized_modules(module: nn.Module) -> list[tuple[str, Any]]:
    """Path and module of each in it that has a parametrization."""
    return [(path, m) for path, m in list_modules(module) if "parametrizations" in m._modules and is_parametrized(m)]


def weight_shape(module: nn.Module) -> tuple[int, ...]:
    """The shape of its weight, as its parameters are now; () if it has none.

    A parametrization is run for it, and may write to its buffers in training mode (the vectors of a spectral norm);
    they are put back.

    Raises:
        SurgeryError: it does not run.
    """
    own: Any = module
    if not is_parametrized(module, "weight"):
        weight = getattr(module, "weight", None)
        return tuple(weight.shape) if isinstance(weight, Tensor) else ()
    hollowed = next((t for t in tensors_by_name(module).values() if t.is_meta), None)
    try:
        if hollowed is not None:  # a copy without memory
            with shapes_only(MetaMode(hollowed.device)):
                return tuple(own.weight.shape)
        with preserve_state(module), torch.no_grad():
            module.eval()
            return tuple(own.weight.shape)
    except Exception as error:  # whatever it raises where a size is not what it was
        raise SurgeryError(f"the parametrization of its weight fails: {str(error).partition(chr(10))[0]}") from error


def parameters_without_zeros(module: nn.Module) -> set[int]:
    """The ids of the matrices in which zeros are none of the weight that a parametrization makes of them: those of an
    orthogonal one, say.
    """
    return {
        id(p)
        for _, m in parametrized_modules(module)
        for made in m.parametrizations.values()
        for name, p in made.named_parameters(recurse=False)
        if p.ndim > 1 and not _holds_zeros(made, name, p)
    }


def _holds_zeros(made: nn.Module, name: str, p: nn.Parameter) -> bool:
    """Tried on half of the entries, with some left in every row and column, which a norm may be taken over.

    A factor of another shape than the weight is a matrix of its own.
    """
    gone = (torch.rand(p.shape, generator=torch.Generator().manual_seed(0)) < 0.5).to(p.device)
    gone[0] = gone[..., 0] = False
    half = nn.Parameter(p.detach().masked_fill(gone, 0), requires_grad=False)
    with preserve_state(made), replace_tensors(made, {name: half}), torch.no_grad():
        made.eval()
        try:
            weight = made()
        except Exception:  # whatever it makes of a matrix with zeros
            return False
    return weight.shape != p.shape or bool((weight[gone] == 0).all())
