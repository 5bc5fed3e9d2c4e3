"""Checks of what users pass in. An argument of the wrong kind raises an error that says what to pass instead."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any, TypeGuard, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from earlycrop.utils.modules import tensors_by_name

T = TypeVar("T")
_NAMED = 3
"""How many names a sentence lists."""


def check_sparsity(sparsity: object) -> float:
    """Check a sparsity and convert it to a plain float, which can be stored in a checkpoint.

    Args:
        sparsity: The share to remove. Of a NumPy number the decimals are kept: ``float32(0.3)`` becomes 0.3.

    Returns:
        The sparsity.

    Raises:
        TypeError: It is not a number.
        ValueError: It is not between 0 and 1.
    """
    if not isinstance(sparsity, Real):
        raise TypeError(f"sparsity is {describe(sparsity)}, and must be a number above 0 and below 1: 0.9 removes 90 %")
    if not 0 < float(sparsity) < 1:
        raise ValueError(f"sparsity must be above 0 and below 1, and is {sparsity}: it is the share that is removed")
    return to_python_number(sparsity)


def check_positive_int(name: str, value: object) -> int:
    """Check a count and convert it to a plain int.

    Args:
        name: The argument's name, for the error message.
        value: The count.

    Returns:
        The count.

    Raises:
        TypeError: It is not a whole number.
        ValueError: It is below 1.
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, and is {describe(value)}: give 1 or more")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, and is {value}")
    return int(value)


def is_number(value: object) -> TypeGuard[Real]:
    """Return whether a value is a number, which True and False are not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_number(name: str, value: object) -> None:
    """Raise TypeError if an argument is not a number."""
    if not is_number(value):
        raise TypeError(f"{name} must be a number, and is {describe(value)}")


def to_python_number(number: Real) -> int | float:
    """Convert a number, of NumPy say, to a Python int or float with the same decimals."""
    if isinstance(number, Integral):
        return int(number)
    return float(str(number)) if isinstance(number, np.floating) else float(number)


def check_type(name: str, value: object, kind: Any, advice: str) -> None:
    """Check the type of an argument.

    Args:
        name: The argument's name, for the error message.
        value: The argument.
        kind: The class, or a tuple of classes, that it must be an instance of.
        advice: What to pass instead, for the error message.

    Raises:
        TypeError: ``value`` is not an instance of ``kind``.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name} cannot be {describe(value)}: {advice}")


def as_optimizers(optimizer: object) -> list[Optimizer]:
    """Return one optimizer, several, or None as a list.

    Args:
        optimizer: What the user passed.

    Returns:
        The optimizers.

    Raises:
        TypeError: An entry is not an optimizer (a scheduler, say).
    """
    if optimizer is None:
        return []
    optimizers: list[Any] = list(optimizer) if isinstance(optimizer, Sequence) else [optimizer]
    advice = "give the torch.optim.Optimizer that trains the model, or a list of several"
    for o in optimizers:
        check_type("the optimizer", o, Optimizer, advice)
    return optimizers


def as_modules(ema_models: object) -> list[nn.Module]:
    """Return one module, or several, as a list.

    Args:
        ema_models: What the user passed. A ``Sequential`` is one module, a ``ModuleList`` several.

    Returns:
        The modules.

    Raises:
        TypeError: An entry is not a module.
    """
    is_single = isinstance(ema_models, nn.Module) and not isinstance(ema_models, nn.ModuleList)
    modules: list[Any] = list(ema_models) if isinstance(ema_models, Iterable) and not is_single else [ema_models]
    advice = "give averages of the model's weights as modules, such as ema_models=[ema]"
    for m in modules:
        check_type("an EMA model", m, nn.Module, advice)
    return modules


def check_network(model: object) -> None:
    """Check that a model can be traced and cut.

    Args:
        model: What the user passed.

    Raises:
        TypeError: It is not a module.
        ValueError: It, or a submodule, is a torch.jit script, comes from torch.export, or has parameters without a
            shape.
    """
    check_type("the model", model, nn.Module, "give a torch.nn.Module")
    assert isinstance(model, nn.Module)
    for path, m in model.named_modules():
        name = f"'{path}'" if path else "the model"
        if isinstance(m, torch.jit.ScriptModule):
            why = "a torch.jit script, which cannot be traced"
            raise ValueError(f"{name} is {why}: prune the module that it was made from, then script the result")
        if isinstance(m, torch.fx.GraphModule) and "eval" in vars(m):  # torch.export replaces eval; torch.fx does not
            why = "comes from torch.export, which fixes its mode and sizes"
            raise ValueError(f"{name} {why}: prune the module that was exported, then export the result")
    check_shapes_known(model)


def check_shapes_known(model: nn.Module) -> None:
    """Check that no parameter or buffer belongs to a lazy module that has not run yet.

    Args:
        model: The module to check, with its submodules.

    Raises:
        TypeError: It is not a module.
        ValueError: A parameter or buffer has no shape yet.
    """
    check_type("the model", model, nn.Module, "give a torch.nn.Module")
    for name, t in tensors_by_name(model).items():
        if is_lazy(t):
            raise ValueError(f"'{name}' has no shape yet: run the model on one batch first")


def describe(value: object) -> str:
    """Describe a value for an error message: the value itself if it is short, or else its type."""
    if isinstance(value, Real):
        return str(value)
    return repr(value) if value is None or isinstance(value, str) else f"a {type(value).__name__}"


def enumerate_names(names: Sequence[str]) -> str:
    """Return the first names in quotes, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(f"'{name}'" for name in names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def check_loss(loss: object) -> None:
    """Raise TypeError if ``loss`` cannot be called with a model and a batch."""
    check_type("the loss", loss, Callable, "give a function of (model, batch) that returns a scalar")
    assert callable(loss)
    if isinstance(loss, nn.modules.loss._Loss):
        advice = "give a function of (model, batch), such as lambda model, batch: criterion(model(batch[0]), batch[1])"
        raise TypeError(f"the loss cannot be {describe(loss)}, which takes outputs and targets: {advice}")
    check_call("the loss", loss, "loss", ("model", "batch"))


def check_call(what: str, function: Callable[..., Any], name: str, arguments: Sequence[str]) -> None:
    """Raise TypeError if a function does not take these arguments by position."""
    try:
        inspect.signature(function).bind(*arguments)
    except ValueError:  # functions written in C may have no signature
        return
    except TypeError as error:
        raise TypeError(f"{what} cannot be called as {name}({', '.join(arguments)}): {error}") from None


def check_batches(batches: Any) -> Iterable[Any]:
    """Return the batches, unless they are a single one or cannot be iterated over.

    Raises:
        TypeError: It is a single batch, or nothing to iterate over.
    """
    if isinstance(batches, Tensor | Mapping) or not isinstance(batches, Iterable):
        advice = "give an iterable of batches, such as a DataLoader; for one batch give [(X, Y)]"
        raise TypeError(f"the batches cannot be {describe(batches)}: {advice}")
    return batches


def describe_unknown(noun: str, name: object, names: Iterable[str]) -> str:
    """Say that a table has no such name, and name the nearest one and all.

    Args:
        noun: What the names are of, such as ``method``.
        name: The name that is unknown.
        names: The names in the table.

    Returns:
        The sentence, without a full stop.
    """
    known = list(names)
    nearest = get_close_matches(str(name), known, 1)
    hint = f", did you mean '{nearest[0]}'? Take one of" if nearest else ": take one of"
    return f"there is no {noun} '{name}'{hint} {', '.join(known)}"


def look_up(noun: str, value: object, table: Mapping[Any, T], kind: type[T]) -> T:
    """Return ``value``, or the entry of a table if it is a name.

    Raises:
        TypeError: It is neither of this kind nor a name.
        ValueError: The table has no such name.
    """
    if isinstance(value, str) and value not in table:
        raise ValueError(describe_unknown(noun, value, table))
    entry = table[value] if isinstance(value, str) else value
    check_type(f"the {noun}", entry, kind, f"take one of {', '.join(table)}, or make a {kind.__name__}")
    assert isinstance(entry, kind)
    return entry
