"""Select weight matrices, scales of norms, and the optimizers that train them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer

from earlycrop.utils.modules import NORMS
from earlycrop.utils.parametrizations import parameters_without_zeros
from earlycrop.utils.validation import as_optimizers


def flatten_optimizers(optimizer: Optimizer | Sequence[Optimizer] | None) -> list[Optimizer]:
    """List optimizers, each followed by the optimizers that it wraps.

    Args:
        optimizer: One optimizer, several, or None. An attribute that is an optimizer counts as wrapped.

    Returns:
        Every optimizer once.

    Raises:
        TypeError: An entry is not an optimizer.
    """
    optimizers: list[Optimizer] = []

    def add(candidate: Optimizer) -> None:
        if all(candidate is not o for o in optimizers):
            optimizers.append(candidate)
            for inner in vars(candidate).values():
                if isinstance(inner, Optimizer):
                    add(inner)

    for outer in as_optimizers(optimizer):
        add(outer)
    return optimizers


def hookable_optimizers(optimizer: Optimizer | Sequence[Optimizer] | None) -> list[Optimizer]:
    """List the optimizers on which step hooks can be registered.

    Args:
        optimizer: As for ``flatten_optimizers``.

    Returns:
        The result of ``flatten_optimizers`` without wrappers that never called ``Optimizer.__init__`` (accelerate's).
        The optimizers inside them are included.
    """
    optimizers = flatten_optimizers(optimizer)
    return [o for o in optimizers if hasattr(o, "_optimizer_step_pre_hooks") or len(flatten_optimizers(o)) == 1]


def weight_matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weight matrices by name: parameters with two or more dimensions, trained or not."""
    return {name: p for name, p in model.named_parameters() if p.ndim > 1}


def prunable_matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weight matrices that can lose entries: they are trained, and their zeros are zeros of the weight."""
    without_zeros = parameters_without_zeros(model)
    return {name: p for name, p in weight_matrices(model).items() if p.requires_grad and id(p) not in without_zeros}


def norm_scales(model: nn.Module) -> list[str]:
    """Return the names of the scales of batch norms."""
    paths = [path for path, m in model.named_modules() if isinstance(m, NORMS) and m.affine]
    return [f"{path}.weight" if path else "weight" for path in paths]


def norms_are_fresh(model: nn.Module) -> bool:
    """Return whether the running statistics of all batch norms are as they were made: of mean 0 and variance 1."""
    means = [m.running_mean for m in model.modules() if isinstance(m, NORMS) and m.running_mean is not None]
    variances = [m.running_var for m in model.modules() if isinstance(m, NORMS) and m.running_var is not None]
    return bool(means) and not any(bool(t.any()) for t in means) and all(bool((t == 1).all()) for t in variances)
