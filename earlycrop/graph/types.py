"""Types that the tracer, the graph and the surgery share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntFlag
from math import prod
from typing import Any, SupportsIndex, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

ChannelLabels: TypeAlias = npt.NDArray[np.int64]
"""An integer for each channel: its number, its class of coupled channels, or its node."""
NodeMask: TypeAlias = npt.NDArray[np.bool_]
"""For each node, whether it is removed."""
NOT_UNDERSTOOD = "this operation is not understood"
"""Why channels are frozen that an operation without a rule uses."""


class Role(IntFlag):
    """What a channel of a parameter is for.

    A tied matrix has several roles; the scale of a norm and a running mean have none.
    """

    ROW = 1
    """It produces a node: a row of a weight matrix, an entry of its bias."""
    COLUMN = 2
    """It consumes a node: a column of a weight matrix."""
    LOOKUP = 4
    """It is a row of an embedding, looked up by index."""
    DIRECTION = 8
    """It is a row of a matrix whose direction alone counts: it cannot be zero."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why channels cannot be removed.

    Attributes:
        operation: Name of the operation.
        module: Path of the module that it ran in; empty for the model itself.
        why: What the operation does with the channels.
    """

    operation: str
    module: str
    why: str

    def __str__(self) -> str:
        place = f"in '{self.module}'" if self.module else "in the model's own forward"
        return f"{self.why} ({self.operation} {place})"


@dataclass(frozen=True, slots=True)
class CostTerm:
    """A part of a cost: a constant times the number of kept channels along each axis.

    Attributes:
        constant: The constant, such as the number of positions that a convolution runs over.
        axes: For each axis, the labels of its channels: in a graph their nodes, or -1 for a channel without a node.
        module: Path of the module that the part belongs to.
    """

    constant: int
    axes: tuple[ChannelLabels, ...]
    module: str


NodeIndices: TypeAlias = Iterable[SupportsIndex] | npt.NDArray[Any] | Tensor
"""The indices of nodes, as integers: any iterable, a numpy array or a tensor."""


@dataclass(frozen=True)
class Layer:
    """The outputs of a module.

    Attributes:
        name: Path of the module.
        nodes: The node of each output, or -1.
        returned: For each output, whether the model returns it.
        reasons: Why outputs without a node cannot be removed.
    """

    name: str
    nodes: ChannelLabels
    returned: NodeMask
    reasons: tuple[Reason, ...]


def total_cost(costs: Iterable[CostTerm], removed: NodeMask) -> int:
    """Return the sum of the terms over the channels that remain.

    Args:
        costs: The terms.
        removed: For each node, whether it is removed.

    Returns:
        The cost.
    """
    kept = np.append(~removed, True)  # the last entry serves -1, a channel without a node
    return sum(term.constant * prod(int(kept[nodes].sum()) for nodes in term.axes) for term in costs)


def layers_of(tensors: Iterable[str]) -> list[str]:
    """Return the modules that hold these parameters, without repetition.

    Args:
        tensors: Names of parameters.

    Returns:
        The paths of the modules in order; see :func:`layer_of`.
    """
    return list(dict.fromkeys(layer_of(name) for name in tensors))


def layer_of(tensor: str) -> str:
    """Return the module that holds a parameter.

    Args:
        tensor: Name of the parameter.

    Returns:
        The path of the module; a parameter of the model itself is its own layer.
    """
    return tensor.rpartition(".")[0] or tensor


def as_indices(remove: NodeIndices) -> npt.NDArray[np.int64]:
    """Convert node indices to an array.

    Raises:
        ValueError: ``remove`` is a mask of booleans, or has an entry that is no integer.
    """
    entries = remove.tolist() if isinstance(remove, (np.ndarray, Tensor)) else list(remove)
    array = np.asarray(entries)
    if array.dtype == bool and array.size:
        raise ValueError(
            "remove is a mask of booleans: give the indices of the nodes, for instance mask.nonzero()[0] of a numpy "
            "array or mask.nonzero().flatten() of a tensor"
        )
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(
            "remove must be one-dimensional and hold the indices of nodes as integers, for instance [0, 5, 7]"
        )
    return array.astype(np.int64)
