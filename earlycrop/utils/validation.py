"""What users give, looked at before anything is done with it: where it is of another kind, a sentence says so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from earlycrop.utils.modules import list_modules, tensors_by_name


def check_sparsity(sparsity: object) -> float:
    """The sparsity as a plain float: numpy's are as they are written in decimals, and can be kept in a checkpoint.

    Raises:
        TypeError: it is no number. ValueError: it is not between 0 and 1.
    """
    if not isinstance(sparsity, Real):
        raise TypeError(f"sparsity is {describe(sparsity)}, and must be a number above 0 and below 1: 0.9 removes 90 %")
    if not 0 < float(sparsity) < 1:
        raise ValueError(f"sparsity must be above 0 and below 1, and is {sparsity}: it is the share that is removed")
    return to_python_number(sparsity)


def check_positive_int(name: str, value: object) -> int:
    """A count, of 1 or more, as a plain int.

    Raises:
        TypeError: it is no whole number. ValueError: it is below 1.
    """
    if not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, and is {describe(value)}: give 1 or more")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, and is {value}")
    return int(value)


def to_python_number(number: Real) -> int | float:
    """A number, one of numpy's say, as Python's own."""
    if isinstance(number, Integral):
        return int(number)
    return float(str(number)) if isinstance(number, np.floating) else float(number)


def check_type(name: str, value: object, kind: Any, instead: str) -> None:
    """Raise TypeError where ``value`` is none of this ``kind``, a class; ``instead``: what to give."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} cannot be {describe(value)}: {instead}")


def as_optimizers(given: object) -> list[Optimizer]:
    """The optimizer or optimizers, as a list.

    Raises:
        TypeError: one is none, such as a scheduler, or parameters.
    """
    if given is None:
        return []
    found: list[Any] = list(given) if isinstance(given, Sequence) else [given]
    for one in found:
        check_type(
            "the optimizer",
            one,
            Optimizer,
            "give the torch.optim.Optimizer that trains the model, or a list of several",
        )
    return found


def as_modules(copies: object) -> list[nn.Module]:
    """The copies of a model, as a list; a single one may be given as it is.

    Raises:
        TypeError: one is no module.
    """
    single = isinstance(copies, nn.Module) and not isinstance(
        copies, nn.ModuleList
    )  # a Sequential can be gone through, too
    found: list[Any] = list(copies) if isinstance(copies, Iterable) and not single else [copies]
    for one in found:
        check_type("a copy", one, nn.Module, "give averages of the model's weights as modules, such as copies=[ema]")
    return found


def check_network(model: object) -> None:
    """Raise where a model cannot be watched and cut, with what to give instead.

    Raises:
        TypeError: it is no module. ValueError: it, or a part of it, is a script of torch.jit, comes from torch.export,
        or has parameters without a shape.
    """
    check_type("the model", model, nn.Module, "give a torch.nn.Module")
    assert isinstance(model, nn.Module)
    for path, m in list_modules(model):
        what = f"'{path}'" if path else "the model"
        if isinstance(m, torch.jit.ScriptModule):
            raise ValueError(
                f"{what} is a script of torch.jit, and cannot be watched: prune the module that it was made from, and "
                "script that afterwards"
            )
        if isinstance(m, torch.fx.GraphModule) and "eval" in vars(m):  # one that torch.fx made has its class's
            raise ValueError(
                f"{what} comes from torch.export, which has fixed its mode and sizes: prune the module that was "
                "exported, and export that afterwards"
            )
    check_shapes_known(model)


def check_shapes_known(model: nn.Module) -> None:
    """Raise ValueError where a parameter or buffer of a lazy module has no shape yet."""
    for name, t in tensors_by_name(model).items():
        if is_lazy(t):
            raise ValueError(f"'{name}' has no shape yet: run the model on one batch first")


def describe(value: object) -> str:
    """A value in a sentence: itself, where that is short."""
    if isinstance(value, Real):
        return str(value)
    return repr(value) if value is None or isinstance(value, str) else f"a {type(value).__name__}"
