"""Types that the tracer, the graph and all that reads it share: channel labels, roles, reasons, cost terms, layers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntFlag
from math import prod
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

ChannelLabels: TypeAlias = npt.NDArray[np.int64]


class Role(IntFlag):
    """What a channel of a parameter is for; a tied matrix has several. None of them: a norm's scale, a running mean."""

    ROW = 1
    """Produces a node: a row of a weight matrix, an entry of its bias."""
    COLUMN = 2
    """Consumes a node: a column of a weight matrix."""
    LOOKUP = 4
    """A row of an embedding, found by index."""
    DIRECTION = 8
    """A row of a matrix of which only the direction counts: it cannot be zero."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why channels may not be cut: the operation, the module it ran in, and what about it."""

    operation: str
    module: str
    why: str

    def __str__(self) -> str:
        place = f"in '{self.module}'" if self.module else "in the model's own forward"
        return f"{self.why} ({self.operation} {place})"


@dataclass(frozen=True, slots=True)
class CostTerm:
    """Multiply-accumulates of one contraction: ``constant`` times the number of channels in each of ``axes``.

    module: the path of the module that it ran in.
    """

    constant: int
    axes: tuple[ChannelLabels, ...]
    module: str


NOT_UNDERSTOOD = "this operation is not understood"
"""Why channels may not be cut that an operation without a rule was given."""
NodeMask: TypeAlias = npt.NDArray[np.bool_]
"""An entry a node: whether it is removed."""


@dataclass(frozen=True)
class Layer:
    """A module's outputs: for each, the node that it is, or -1, and whether the model returns it."""

    name: str
    nodes: ChannelLabels
    returned: NodeMask
    reasons: tuple[Reason, ...]


def total_cost(costs: Iterable[CostTerm], removed: NodeMask) -> int:
    """The sum of the products, each over the channels that are left."""
    kept = np.append(~removed, True)  # the last entry serves channels without a node, which are numbered -1
    return sum(w.constant * prod(int(kept[a].sum()) for a in w.axes) for w in costs)


def layers_of(tensors: Iterable[str]) -> list[str]:
    """The modules that hold these parameters, each once; a parameter of the model's own is a layer by its name."""
    return list(dict.fromkeys(layer_of(name) for name in tensors))


def layer_of(tensor: str) -> str:
    """The module that holds a parameter."""
    return tensor.rpartition(".")[0] or tensor
