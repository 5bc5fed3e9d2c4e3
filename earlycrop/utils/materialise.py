"""Allocate and initialise networks that were built on the meta device, one module at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from earlycrop.utils.contexts import outside_inference_mode
from earlycrop.utils.validation import check_shapes_known

INITIALISERS = ("reset_parameters", "_reset_parameters")
"""Names of the methods by which torch's modules initialise their parameters and buffers."""


def materialise(
    model: nn.Module, device: torch.device | str = "cpu", initialise: Callable[[nn.Module], object] | None = None
) -> nn.Module:
    """Allocate and initialise a model that was built under ``torch.device("meta")``, in place.

    Modules are initialised right after they are allocated, children before their parent as in a constructor, because
    some parents (``nn.MultiheadAttention``) initialise their children in a way of their own. Tied parameters stay tied.
    Tensors that have values already are left alone. The peak of memory is the weights plus what the initialisation of
    one module takes.

    Args:
        model: The model.
        device: The device to allocate it on.
        initialise: A function that initialises the parameters and buffers of one module, without those of its children.
            By default, each module's own ``reset_parameters``.

    Returns:
        ``model``.

    Raises:
        ValueError: A module has no ``reset_parameters`` and ``initialise`` is not given, or a lazy module has not run
            yet. The model is unchanged.
    """
    check_shapes_known(model)
    modules = [(path, module) for path, module in _children_first(model, "", set()) if _has_meta_tensors(module)]
    if initialise is None:
        lacking = [
            f"'{path}' ({type(m).__name__})" for path, m in modules if not any(hasattr(m, n) for n in INITIALISERS)
        ]
        if lacking:
            advice = "give initialise, a function that initialises one module"
            raise ValueError(f"no reset_parameters method in {', '.join(lacking)}: {advice}")
    allocated: dict[int, Tensor] = {}
    replaced: list[Tensor] = []  # keeps the old tensors alive, so that their ids stay unique
    with outside_inference_mode(), torch.no_grad():
        for _, module in modules:
            replaced += _allocate(module, torch.device(device), allocated)
            (initialise or _reset_parameters)(module)
    return model


def check_materialised(model: nn.Module) -> None:
    """Check that no parameter or buffer is on the meta device.

    Args:
        model: The module to check, with its submodules.

    Raises:
        ValueError: A parameter or buffer is on the meta device.
    """
    names = [name for name, t in (*model.named_parameters(), *model.named_buffers()) if t.is_meta]
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise ValueError(f"'{names[0]}'{more} have no values, on the meta device: call earlycrop.materialise first")


def _children_first(module: nn.Module, path: str, visited: set[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """Iterate like ``named_modules``, but over children before their parent."""
    visited.add(module)
    for name, child in module.named_children():
        if child not in visited:
            yield from _children_first(child, f"{path}.{name}" if path else name, visited)
    yield path, module


def _has_meta_tensors(module: nn.Module) -> bool:
    return any(t.is_meta for t in (*module.parameters(recurse=False), *module.buffers(recurse=False)))


def _reset_parameters(module: nn.Module) -> None:
    next(getattr(module, name) for name in INITIALISERS if hasattr(module, name))()


def _allocate(module: nn.Module, device: torch.device, allocated: dict[int, Tensor]) -> list[Tensor]:
    """Replace the module's meta tensors by empty ones on ``device``, and return the old ones.

    ``allocated`` maps the id of each meta tensor to its replacement, so that tied tensors stay tied.
    """
    before = [(tensors, dict(tensors)) for tensors in (module._parameters, module._buffers)]
    module._apply(lambda t: torch.empty_like(t, device=device) if t.is_meta else t, recurse=False)  # type: ignore[no-untyped-call]
    replaced = []
    for tensors, old_tensors in before:
        for name, old in old_tensors.items():
            if old is not None and old.is_meta:
                new = tensors[name]
                assert new is not None
                tensors[name] = allocated.setdefault(id(old), new)  # type: ignore[assignment]
                replaced.append(old)
    return replaced
