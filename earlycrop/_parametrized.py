"""Weights that are no parameters, but worked out of some by torch's parametrizations (``nn.utils.parametrize``)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from earlycrop._meta import Weightless, on_shapes
from earlycrop._modules import SurgeryError, tensors, undisturbed, walk


def parametrized(module: nn.Module) -> list[tuple[str, Any]]:
    """Path and module of each in it that has a parametrization."""
    return [(path, m) for path, m in walk(module) if "parametrizations" in m._modules and is_parametrized(m)]


def weight_shape(module: nn.Module) -> tuple[int, ...]:
    """The shape of its weight, as its parameters are now; () if it has none.

    A parametrization is run for it, and may write to its buffers in training mode (the vectors of a spectral norm);
    they are put back.

    Raises:
        SurgeryError: it does not run.
    """
    if not is_parametrized(module, "weight"):
        weight = getattr(module, "weight", None)
        return tuple(weight.shape) if isinstance(weight, Tensor) else ()
    hollowed = next((t for t in tensors(module).values() if t.is_meta), None)
    try:
        if hollowed is not None:  # a copy without memory
            with on_shapes(Weightless(hollowed.device)):
                return tuple(module.weight.shape)
        with undisturbed(module), torch.no_grad():
            module.eval()
            return tuple(module.weight.shape)
    except Exception as error:  # whatever it raises where a size is not what it was
        raise SurgeryError(f"the parametrization of its weight fails: {str(error).partition(chr(10))[0]}") from error
