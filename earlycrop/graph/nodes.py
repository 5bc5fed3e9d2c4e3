"""Nodes: entries of a network's tensors that can only be removed together, and the axes that they lie along."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TypeAlias, overload

import numpy as np

from earlycrop.graph.types import ChannelLabels, Reason, Role, Size, layer_of

Group: TypeAlias = tuple[tuple[str, int], ...]
"""The (tensor, dimension) pairs that a node has entries in."""


@dataclass(frozen=True)
class TensorAxis:
    """One dimension of one parameter or buffer.

    Attributes:
        tensor: Name of the parameter or buffer.
        dim: The dimension.
        nodes: For each index along the dimension, the node that owns it, or -1.
        classes: For each index, its class. Coupled indices have the same class, whether they are nodes or not.
        role: What the channels are for.
        reasons: Why the indices without a node have none.
    """

    tensor: str
    dim: int
    nodes: ChannelLabels
    classes: ChannelLabels
    role: Role
    reasons: tuple[Reason, ...]

    @property
    def layer(self) -> str:
        """The module that holds the tensor."""
        return layer_of(self.tensor)

    @cached_property
    def indices_by_class(self) -> dict[int, ChannelLabels]:
        """The indices along it, by class."""
        order = np.argsort(self.classes, kind="stable")
        classes, starts = np.unique(self.classes[order], return_index=True)
        return dict(zip(classes.tolist(), np.split(order, starts[1:]), strict=True))


@dataclass(frozen=True)
class Node:
    """Entries that can only be removed together.

    Attributes:
        index: Number of the node in its graph.
        layer: The module that produces it.
        owns: The (tensor, dimension, indices along the dimension) that are removed with the node.
    """

    index: int
    layer: str
    owns: tuple[tuple[str, int, tuple[int, ...]], ...]


@dataclass(frozen=True)
class SizeAttribute:
    """An attribute of a module that follows the size of a tensor's dimension.

    An integer is proportional to the size. The integers of a tuple or list are the sizes of parts of the dimension, one
    after the other.

    Attributes:
        module: Path of the module.
        attribute: Name of the attribute.
        value: Its value before a cut; a tuple for a list.
        tensor: Name of the parameter or buffer.
        dim: The dimension.
    """

    module: str
    attribute: str
    value: Size
    tensor: str
    dim: int


class Nodes(Sequence[Node]):
    """All nodes of a graph. A node is made when it is indexed: a large network has hundreds of thousands.

    Args:
        axes: The axes of the network's tensors.
        count: Number of nodes.
    """

    def __init__(self, axes: Sequence[TensorAxis], count: int) -> None:
        self._axes = axes
        nodes = np.concatenate([np.zeros(0, np.int64), *(axis.nodes for axis in axes)])
        self._order = np.argsort(nodes, kind="stable")
        self._starts = np.searchsorted(nodes[self._order], np.arange(count + 1))
        self._offsets = np.cumsum([0, *(axis.nodes.size for axis in axes)])

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> Node: ...
    @overload
    def __getitem__(self, index: slice) -> list[Node]: ...
    def __getitem__(self, index: int | slice) -> Node | list[Node]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]
        entries = self._order[self._starts[i] : self._starts[i + 1]]
        axis_of_entry = np.searchsorted(self._offsets, entries, side="right") - 1
        indices: dict[int, list[int]] = {}
        for k, position in zip(axis_of_entry.tolist(), (entries - self._offsets[axis_of_entry]).tolist(), strict=True):
            indices.setdefault(k, []).append(position)
        owns = tuple((self._axes[k].tensor, self._axes[k].dim, tuple(along)) for k, along in indices.items())
        axes = [self._axes[k] for k in indices]
        rows = (axis for axis in axes if Role.ROW in axis.role)
        outputs = (axis for axis in axes if Role.OUTPUT in axis.role)
        layer = next((axis.layer for axis in chain(rows, outputs)), axes[0].layer)
        return Node(i, layer, owns)

    def groups(self) -> dict[Group, tuple[int, ...]]:
        """Return the nodes by the dimensions that they own entries along; coupled layers share a group."""
        tags = np.random.default_rng(0).integers(2**64, size=len(self._axes), dtype=np.uint64)
        group = np.zeros(len(self) + 1, np.uint64)  # the last entry serves -1, which is no node
        for axis, tag in zip(self._axes, tags, strict=True):  # different axes collide with a probability of 2^-64
            group[axis.nodes] ^= tag
        order = np.argsort(group[:-1], kind="stable")
        starts = np.unique(group[order], return_index=True)[1]
        members = [nodes.tolist() for nodes in np.split(order, starts[1:]) if nodes.size]
        return {tuple((tensor, dim) for tensor, dim, _ in self[n[0]].owns): tuple(n) for n in sorted(members)}
