"""Slots and nodes: the dimensions of a network's tensors, and the entries of them that can only be removed together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias, overload

import numpy as np

from earlycrop.graph.types import ChannelLabels, Reason, Role

Group: TypeAlias = tuple[tuple[str, int], ...]
"""The (tensor, dimension) pairs that a node has entries in."""


@dataclass(frozen=True)
class TensorAxis:
    """One dimension of one parameter or buffer.

    nodes: for each index along it, the node that owns it, or -1. classes: for each index, a number that is equal where
    indices are coupled, nodes or not. reasons: why the indices without a node have none.
    """

    tensor: str
    dim: int
    nodes: ChannelLabels
    classes: ChannelLabels
    role: Role
    reasons: tuple[Reason, ...]

    @property
    def layer(self) -> str:
        return self.tensor.rpartition(".")[0] or self.tensor

    @cached_property
    def indices_by_class(self) -> dict[int, ChannelLabels]:
        """The indices along it, by class."""
        order = np.argsort(self.classes, kind="stable")
        classes, starts = np.unique(self.classes[order], return_index=True)
        return dict(zip(classes.tolist(), np.split(order, starts[1:]), strict=True))


@dataclass(frozen=True)
class Node:
    """Entries that can only be removed together: for each (parameter or buffer, dimension), the indices along it."""

    index: int
    layer: str
    owns: tuple[tuple[str, int, tuple[int, ...]], ...]


@dataclass(frozen=True)
class SizeAttribute:
    """An integer attribute of a module that goes in proportion with the width of a tensor's dimension."""

    module: str
    attribute: str
    value: int
    tensor: str
    dim: int


class Nodes(Sequence[Node]):
    """Every node, each made when it is asked for: a large network has hundreds of thousands."""

    def __init__(self, slots: Sequence[TensorAxis], count: int) -> None:
        self._slots = slots
        ids = np.concatenate([np.zeros(0, np.int64), *(s.nodes for s in slots)])
        self._order = np.argsort(ids, kind="stable")
        self._starts = np.searchsorted(ids[self._order], np.arange(count + 1))
        self._firsts = np.cumsum([0, *(s.nodes.size for s in slots)])

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
        which = np.searchsorted(self._firsts, entries, side="right") - 1
        owns = []
        layer = None
        for k in dict.fromkeys(which.tolist()):
            slot = self._slots[k]
            owns.append((slot.tensor, slot.dim, tuple((entries[which == k] - self._firsts[k]).tolist())))
            if layer is None and Role.ROW in slot.role:
                layer = slot.layer
        return Node(i, layer or owns[0][0], tuple(owns))

    def groups(self) -> dict[Group, tuple[int, ...]]:
        """The nodes that own entries along the same dimensions of the same tensors, by those dimensions."""
        tags = np.random.default_rng(0).integers(2**64, size=len(self._slots), dtype=np.uint64)
        group = np.zeros(len(self) + 1, np.uint64)  # the last entry takes what is no node, -1
        for slot, tag in zip(self._slots, tags, strict=True):  # equal for the same slots, else with a chance of 2^-64
            group[slot.nodes] ^= tag
        group = group[:-1]
        firsts = np.sort(np.unique(group, return_index=True)[1]).tolist()
        order = np.argsort(group, kind="stable")
        ends = np.searchsorted(group[order], group[firsts], side="right").tolist()
        begins = np.searchsorted(group[order], group[firsts]).tolist()
        return {
            tuple((tensor, dim) for tensor, dim, _ in self[first].owns): tuple(order[a:b].tolist())
            for first, a, b in zip(firsts, begins, ends, strict=True)
        }
