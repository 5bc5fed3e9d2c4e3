"""The weight matrices of a model, the scales of its norms, and the optimizers that hold its parameters."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer

from earlycrop.utils.modules import NORMS, list_modules
from earlycrop.utils.parametrizations import parameters_without_zeros
from earlycrop.utils.validation import as_optimizers


def flatten_optimizers(optimizer: Optimizer | Sequence[Optimizer] | None) -> list[Optimizer]:
    """The optimizers given, each followed by those that it wraps (its attributes that are optimizers)."""
    found: list[Optimizer] = []

    def add(one: Optimizer) -> None:
        if all(one is not o for o in found):
            found.append(one)
            for inner in vars(one).values():
                if isinstance(inner, Optimizer):
                    add(inner)

    for one in as_optimizers(optimizer):
        add(one)
    return found


def hookable_optimizers(optimizer: Optimizer | Sequence[Optimizer] | None) -> list[Optimizer]:
    """``listed``, without wrappers that take no hooks, as they forward all to the one inside without being set up as an
    optimizer themselves (accelerate's).
    """
    return [
        one
        for one in flatten_optimizers(optimizer)
        if hasattr(one, "_optimizer_step_pre_hooks") or len(flatten_optimizers(one)) == 1
    ]


def weight_matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weight matrices: parameters with two or more dimensions, trained or not."""
    return {name: p for name, p in model.named_parameters() if p.ndim > 1}


def prunable_matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weight matrices that can lose entries: those that are trained, and can hold zeros."""
    whole = parameters_without_zeros(model)
    return {name: p for name, p in weight_matrices(model).items() if p.requires_grad and id(p) not in whole}


def norm_scales(model: nn.Module) -> list[str]:
    """The names of the scales of batch norms."""
    return [
        f"{path}.weight" if path else "weight" for path, m in list_modules(model) if isinstance(m, NORMS) and m.affine
    ]
