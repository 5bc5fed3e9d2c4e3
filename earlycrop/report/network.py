"""Build the network that a command names, and the example that it is called with."""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from operator import attrgetter
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from earlycrop.utils.torchvision_compat import load_torchvision
from earlycrop.utils.validation import check_network

_log = logging.getLogger(__name__)


class InputError(Exception):
    """The command names something that cannot be used. The message is one sentence."""


def build_network(target: str, keywords: Mapping[str, Any], inputs: tuple[Tensor, ...]) -> tuple[nn.Module, Any]:
    """Build a network by its name.

    Args:
        target: ``torchvision:NAME``, or ``package.module:callable``. The callable returns a module, or a pair of a
            module and an example.
        keywords: Arguments of the callable.
        inputs: Arguments of the module, used instead of the callable's example. Empty for the callable's.

    Returns:
        The module and the example that it is called with.

    Raises:
        InputError: The network cannot be imported or built, or there is no example.
    """
    _log.debug("importing")
    place, _, name = target.partition(":")
    if not place or not name:
        raise InputError(f"'{target}' names no network: give torchvision:NAME or package.module:callable")
    if place == "torchvision":
        model, example = _build_torchvision(target, name, keywords), torch.rand(1, 3, 224, 224)
    else:
        model, example = _build_custom(target, place, name, keywords)
    if not isinstance(model, nn.Module):
        raise InputError(
            f"'{target}' returns a {type(model).__name__}: it must return a torch.nn.Module, or a pair of a module and "
            "an example to call it with"
        )
    try:
        check_network(model)
    except ValueError as error:
        raise InputError(f"'{target}': {error}") from error
    if not inputs and example is None:
        raise InputError(
            f"'{target}' has no example to be called with: give --input 1,3,224,224 for floats of that shape, "
            "--tokens 1,16 for integers, or let the callable return a pair (module, example)"
        )
    return model, inputs or example


def describe_example(example: Any) -> str:
    """Describe what a network is called with.

    Args:
        example: A tensor, or a tuple or dict of tensors.

    Returns:
        The types and shapes, in a few words.
    """
    if isinstance(example, Tensor):
        dtype = str(example.dtype).removeprefix("torch.")
        return f"{dtype} of {' x '.join(map(str, example.shape)) or 'no dimension'}"
    if isinstance(example, tuple):
        return ", ".join(map(describe_example, example))
    if isinstance(example, dict):
        return ", ".join(f"{name}: {describe_example(value)}" for name, value in example.items())
    return f"a {type(example).__name__}"


def _build_torchvision(target: str, name: str, keywords: Mapping[str, Any]) -> Any:
    try:
        models = load_torchvision("torchvision.models")
    except Exception as error:  # operators compiled for another torch raise RuntimeError, and other errors
        raise InputError(
            f"torchvision cannot be imported ({_describe_error(error)}): install the version made for torch "
            f"{torch.__version__}"
        ) from error
    if name not in models.list_models():
        raise InputError(f"torchvision has no model '{name}': torchvision.models.list_models() returns the names")
    builder = models.get_model_builder(name)
    downloads = {"weights", "weights_backbone"} & inspect.signature(builder).parameters.keys()
    return _call_builder(target, builder, {**dict.fromkeys(downloads), **keywords})


def _build_custom(target: str, place: str, name: str, keywords: Mapping[str, Any]) -> tuple[Any, Any]:
    module = _import_module(place)
    try:
        builder = attrgetter(name)(module)
    except AttributeError as error:
        nearest = get_close_matches(name, dir(module), 1)
        advice = f"did you mean '{nearest[0]}'?" if nearest else "name a callable or a module in it"
        raise InputError(f"'{place}' has no '{name}': {advice}") from error
    if not callable(builder):
        raise InputError(f"'{target}' is of type {type(builder).__name__}: name a callable or a module")
    built = builder if isinstance(builder, nn.Module) else _call_builder(target, builder, keywords)
    return built if isinstance(built, tuple) and len(built) == 2 else (built, None)


def _import_module(place: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{place}.".startswith(f"{error.name}."):
            raise InputError(
                f"there is no module '{error.name}': run the command where 'import {place}' works, or set PYTHONPATH"
            ) from error
        raise InputError(f"'import {place}' fails ({_describe_error(error)})") from error


def _call_builder(target: str, builder: Callable[..., Any], keywords: Mapping[str, Any]) -> Any:
    _log.debug("building")
    try:
        return builder(**keywords)
    except (Exception, SystemExit) as error:
        arguments = ", ".join(f"{key}={value!r}" for key, value in keywords.items())
        raise InputError(
            f"'{target}' cannot be built: called with ({arguments}), it raises {_describe_error(error)}. Set its "
            "arguments with --with KEY=VALUE"
        ) from error


def _describe_error(error: BaseException) -> str:
    """Return the type of an error and the first line of its message."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
