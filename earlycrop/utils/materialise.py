"""Networks that exist only on the meta device, given their weights a module at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from earlycrop.utils.contexts import outside_inference_mode
from earlycrop.utils.validation import check_shapes_known

INITIALISERS = ("reset_parameters", "_reset_parameters")
"""What torch's own modules call the method that initialises their parameters and buffers."""


def materialise(
    model: nn.Module, device: torch.device | str = "cpu", initialise: Callable[[nn.Module], object] | None = None
) -> nn.Module:
    """Give ``model``, built under ``torch.device("meta")``, memory on ``device`` and values, module by module; itself.

    Each module that has parameters or buffers on the meta device is initialised by ``initialise(module)``, or, without
    it, by its own ``reset_parameters``, right after it gets its memory: those inside a module before itself, as a
    constructor does it, since some (``nn.MultiheadAttention``) start what is inside in their own way. Tied parameters
    stay tied; what has values already is left alone. Memory: the weights, and what one module's initialisation takes.

    Raises:
        ValueError: a module has no ``reset_parameters``, and no ``initialise`` is given, or it is lazy and has not run;
        nothing was changed.
    """
    check_shapes_known(model)
    empty = [(path, module) for path, module in _children_first(model, "", set()) if _has_meta_tensors(module)]
    if initialise is None:
        lacking = [f"'{path}' ({type(module).__name__})" for path, module in empty if _initialiser(module) is None]
        if lacking:
            raise ValueError(
                f"{', '.join(lacking)} cannot initialise what it holds: give initialise, a function that fills a module"
            )
    made: dict[int, Tensor] = {}
    kept: list[Tensor] = []  # so that no id is used again
    with outside_inference_mode(), torch.no_grad():
        for _, module in empty:
            kept += _allocate(module, torch.device(device), made)
            fill = _initialiser(module) if initialise is None else partial(initialise, module)
            assert fill is not None
            fill()
    return model


def check_materialised(model: nn.Module) -> None:
    """Raise a ValueError if ``model`` has parameters or buffers on the meta device."""
    empty = [name for name, t in (*model.named_parameters(), *model.named_buffers()) if t.is_meta]
    if empty:
        more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
        raise ValueError(f"'{empty[0]}'{more} have no values, on the meta device: call earlycrop.materialise first")


def _children_first(module: nn.Module, path: str, seen: set[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """``named_modules``, each after those inside it."""
    seen.add(module)
    for name, child in module.named_children():
        if child not in seen:
            yield from _children_first(child, f"{path}.{name}" if path else name, seen)
    yield path, module


def _has_meta_tensors(module: nn.Module) -> bool:
    own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    return any(t.is_meta for t in own)


def _initialiser(module: nn.Module) -> Callable[[], object] | None:
    return next((getattr(module, name) for name in INITIALISERS if hasattr(module, name)), None)


def _allocate(module: nn.Module, device: torch.device, made: dict[int, Tensor]) -> list[Tensor]:
    """Put empty tensors on ``device`` in the place of the module's own on the meta device; those."""
    before = [(held, dict(held)) for held in (module._parameters, module._buffers)]
    module._apply(lambda t: torch.empty_like(t, device=device) if t.is_meta else t, recurse=False)  # type: ignore[no-untyped-call]
    replaced = []
    for held, old in before:
        for name, t in old.items():
            if t is not None and t.is_meta:
                now = held[name]
                assert now is not None
                held[name] = made.setdefault(id(t), now)  # type: ignore[assignment]
                replaced.append(t)
    return replaced
