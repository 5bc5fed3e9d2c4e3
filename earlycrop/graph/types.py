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
    """It is a row or column of a matrix whose direction alone counts: it cannot be zero."""
    OUTPUT = 16
    """It produces a node of a layer whose matrix is computed from several parameters, so that no row is the node's."""


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


Size: TypeAlias = int | tuple[int, ...]
"""The size of a dimension, or the sizes of the parts that it consists of, in their order."""
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


def layer_of(tensor: str) -> str:
    """Return the module that holds a parameter.

    Args:
        tensor: Name of the parameter.

    Returns:
        The path of the module; a parameter of the model itself is its own layer.
    """
    return tensor.rpartition(".")[0] or tensor
