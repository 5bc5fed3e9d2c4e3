"""Save and load training states, such as an optimizer's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from earlycrop.saving.files import read_file, write_file
from earlycrop.utils.errors import SavingError

_SCALARS = (bool, int, float, str, type(None))


def save_state(state: Any, path: str | os.PathLike[str]) -> Path:
    """Save a training state, such as an optimizer's ``state_dict``, to a file.

    Args:
        state: A nest of dicts, lists, tuples, tensors, numbers, strings and None.
        path: The file. Its folder is created if it does not exist.

    Returns:
        The path of the file.

    Raises:
        TypeError: A value or a key is of another type.
        OSError: The file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    return write_file(Path(path), tensors, {"state": _pack(state, tensors)})


def load_state(path: str | os.PathLike[str]) -> Any:
    """Load a training state.

    Args:
        path: The file that ``save_state`` wrote.

    Returns:
        The state, with tensors on the CPU, in the memory order that they had. Tuples become lists.

    Raises:
        SavingError: The file is missing, broken, or holds a model.
    """
    tensors, header = read_file(Path(path))
    if "state" not in header:
        raise SavingError(f"{path} holds a model and no training state: earlycrop.load reads models")
    try:
        return _unpack(header["state"], tensors)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise SavingError(f"{path} is broken ({error}): it was changed; take an older copy") from error


def _memory_order(t: Tensor) -> list[int]:
    """Return the dimensions in their order in memory, such as 0, 2, 3, 1 for channels last.

    A fused optimizer computes wrong values where its state has another order than its parameter.
    """
    if t.layout != torch.strided or t.is_contiguous():
        return list(range(t.ndim))
    strides = t.stride()
    return sorted(range(t.ndim), key=lambda dim: -strides[dim])


def _pack(state: Any, tensors: dict[str, Tensor]) -> Any:
    """Convert a state to JSON, and move its tensors to ``tensors``."""
    if isinstance(state, Tensor):
        order = _memory_order(state)
        tensors[name := f"{len(tensors)}"] = state.permute(order)
        return {"tensor": name} | ({"order": order} if order != sorted(order) else {})
    if isinstance(state, Mapping):
        for key in state:
            if not isinstance(key, _SCALARS):
                raise TypeError(f"a training state cannot have {key!r} as a key: make it a number or a string")
        return {"dict": [[k, _pack(v, tensors)] for k, v in state.items()]}
    if isinstance(state, list | tuple):
        return [_pack(v, tensors) for v in state]
    if isinstance(state, _SCALARS):
        return state
    raise TypeError(f"a training state cannot hold a {type(state).__name__}: make it tensors, numbers or strings")


def _unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(packed, dict):
        if "tensor" in packed:
            tensor = tensors[packed["tensor"]]
            dims = list(range(tensor.ndim))
            order = packed.get("order", dims)
            if sorted(order) != dims:
                raise ValueError(f"a tensor of {tensor.ndim} dimensions has the order {order}")
            return tensor.permute([order.index(dim) for dim in dims])
        return {k: _unpack(v, tensors) for k, v in packed["dict"]}
    return [_unpack(v, tensors) for v in packed] if isinstance(packed, list) else packed
