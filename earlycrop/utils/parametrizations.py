"""Weights that ``torch.nn.utils.parametrize`` computes from other parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from earlycrop.utils.contexts import preserve_state, replace_tensors
from earlycrop.utils.errors import SurgeryError, raise_if_out_of_memory
from earlycrop.utils.meta import MetaMode, shapes_only
from earlycrop.utils.modules import tensors_by_name

_OF_THE_SHAPE_OF_THE_WEIGHT = ("weight_v", "weight_orig", "weight")
"""Parameters from which ``nn.utils.weight_norm`` and ``nn.utils.spectral_norm`` compute the weight anew in each run."""


def parametrized_modules(module: nn.Module) -> list[tuple[str, Any]]:
    """Return the path and the module of every submodule that has a parametrization."""
    return [(path, m) for path, m in module.named_modules() if "parametrizations" in m._modules and is_parametrized(m)]


def weight_shape(module: nn.Module) -> tuple[int, ...]:
    """Compute the shape of ``module.weight`` from the current shapes of its parameters.

    A parametrized weight is computed for this. In training mode that may write to buffers (the vectors of a spectral
    norm), so they are restored.

    Args:
        module: The module with the weight.

    Returns:
        The shape, or () if the module has no tensor called ``weight``.

    Raises:
        SurgeryError: The parametrization fails.
    """
    if not is_parametrized(module, "weight"):
        of_its_shape = (getattr(module, name, None) for name in _OF_THE_SHAPE_OF_THE_WEIGHT)
        weight = next((t for t in of_its_shape if t is not None), None)
        return tuple(weight.shape) if isinstance(weight, Tensor) else ()
    meta_tensor = next((t for t in tensors_by_name(module).values() if t.is_meta), None)
    parametrized: Any = module
    try:
        if meta_tensor is not None:
            with shapes_only(MetaMode(meta_tensor.device)):
                return tuple(parametrized.weight.shape)
        with preserve_state(module), torch.no_grad():
            module.eval()
            return tuple(parametrized.weight.shape)
    except Exception as error:  # the parametrization may raise anything when a size has changed
        raise_if_out_of_memory(error)
        raise SurgeryError(f"the parametrization of its weight fails: {str(error).partition(chr(10))[0]}") from error


def parameters_without_zeros(module: nn.Module) -> set[int]:
    """Find matrices whose zeros are not zeros of the weight that a parametrization computes from them.

    The parameter of ``nn.utils.parametrizations.orthogonal`` is one.

    Args:
        module: The module to search, with its submodules.

    Returns:
        The ids of these parameters.
    """
    return {
        id(p)
        for _, m in parametrized_modules(module)
        for parametrization in m.parametrizations.values()
        for name, p in parametrization.named_parameters(recurse=False)
        if p.ndim > 1 and not _keeps_zeros(parametrization, name, p)
    }


def _keeps_zeros(parametrization: nn.Module, name: str, p: nn.Parameter) -> bool:
    """Return whether zeros of ``p`` are zeros of the weight, from a trial with half of the entries at zero.

    The first row and column stay, because a norm may be taken over a row or column. A factor of another shape than the
    weight counts as a matrix of its own.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    zeroed = (torch.rand(p.shape, generator=generator, device="cpu") < 0.5).to(p.device)
    zeroed[0] = zeroed[..., 0] = False
    half = nn.Parameter(p.detach().masked_fill(zeroed, 0), requires_grad=False)
    with preserve_state(parametrization), replace_tensors(parametrization, {name: half}), torch.no_grad():
        parametrization.eval()
        try:
            weight = parametrization()
        except Exception as error:  # the parametrization may raise anything on a matrix with zeros
            raise_if_out_of_memory(error)
            return False
    return weight.shape != p.shape or bool((weight[zeroed] == 0).all())
