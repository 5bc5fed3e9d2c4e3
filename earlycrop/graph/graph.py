"""What a trace found: the nodes of a network, what each owns, what a cut would save, and what cannot go and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from operator import index
from typing import Any, ClassVar, SupportsIndex, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from earlycrop.graph.nodes import Group, Nodes, SizeAttribute, TensorAxis
from earlycrop.graph.types import ChannelLabels, CostTerm, Layer, NodeMask, Reason, Role, total_cost

NodeIndices: TypeAlias = Iterable[SupportsIndex] | npt.NDArray[Any] | Tensor
"""Integers, each the index of a node: any iterable, a numpy array or a tensor."""


@dataclass(frozen=True)
class Graph:
    """The nodes of a network; made by :func:`earlycrop.trace`.

    A node is numbered from 0 to ``count`` - 1 in the order of the parameters; the numbers hold until the network is
    cut.
    """

    OUTPUT: ClassVar[str] = "the model returns it"

    example: Any
    shapes: dict[str, tuple[int, ...]]
    itemsizes: dict[str, int]
    parameters: frozenset[str]
    axes: tuple[TensorAxis, ...]
    count: int
    activation_products: NodeMask
    """Whether a node is consumed where two activations are multiplied (attention), and not only by a weight's columns.
    """
    returned: frozenset[int]
    """Classes of channels that the model returns."""
    cost_terms: tuple[CostTerm, ...]
    """Multiply-accumulates of one run on the example, an entry an operation."""
    size_attributes: tuple[SizeAttribute, ...] = ()
    """Sizes in attributes of the modules' own."""

    @cached_property
    def nodes(self) -> Nodes:
        """Every node with what it owns."""
        return Nodes(self.axes, self.count)

    @cached_property
    def groups(self) -> dict[Group, tuple[int, ...]]:
        """The nodes that own entries along the same dimensions of the same tensors: those of coupled layers."""
        return self.nodes.groups()

    @cached_property
    def axis(self) -> dict[tuple[str, int], TensorAxis]:
        """The slots by tensor and dimension."""
        return {(s.tensor, s.dim): s for s in self.axes}

    @cached_property
    def classes(self) -> ChannelLabels:
        """An entry a node: its class of coupled indices."""
        found = np.zeros(self.count + 1, np.int64)  # the last entry takes what is no node, -1
        for s in self.axes:
            found[s.nodes] = s.classes
        return found[:-1]

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The modules with weight matrices, and their outputs. Rows that are coupled (an LSTM unit's) count once."""
        rows: dict[str, list[TensorAxis]] = {}
        for slot in self.axes:
            produces = Role.ROW in slot.role and Role.LOOKUP not in slot.role
            if produces and slot.tensor in self.parameters and len(self.shapes[slot.tensor]) > 1:
                rows.setdefault(slot.layer, []).append(slot)
        layers = []
        for name, slots in rows.items():
            classes = np.concatenate([s.classes for s in slots])
            first = np.sort(np.unique(classes, return_index=True)[1])
            nodes = np.concatenate([s.nodes for s in slots])[first]
            reasons = tuple(dict.fromkeys(r for s in slots for r in s.reasons))
            layers.append(Layer(name, nodes, np.isin(classes[first], list(self.returned)), reasons))
        return tuple(layers)

    def coupling_after(self, removed: NodeMask) -> dict[tuple[str, int], ChannelLabels]:
        """By tensor and dimension, the class of each index that is left without the nodes in ``removed``."""
        kept = np.append(~removed, True)
        return {key: s.classes[kept[s.nodes]] for key, s in self.axis.items()}

    def costs(self, of: str) -> tuple[CostTerm, ...]:
        """What the network costs in ``of``: weights, parameters, nodes, macs or bytes, as products over kept channels.

        Weights are the entries of parameters with two or more dimensions; nodes are the outputs of every layer but the
        model's output layers; macs are those of one run on the example; bytes are those of parameters and buffers. Each
        product names its module.

        Raises:
            ValueError: it is something else, such as time, which is measured and not counted.
        """
        if of not in ("weights", "parameters", "nodes", "macs", "bytes"):
            raise ValueError(f"'{of}' cannot be counted on a graph: weights, nodes, macs and bytes can")
        if of == "macs":
            return self.cost_terms
        if of == "nodes":
            return tuple(CostTerm(1, (layer.nodes[~layer.returned],), layer.name) for layer in self.layers)
        names = [
            n
            for n, shape in self.shapes.items()
            if of == "bytes" or (n in self.parameters and (len(shape) > 1 or of == "parameters"))
        ]
        slots: dict[str, list[ChannelLabels]] = {n: [] for n in names}
        for slot in self.axes:
            if slot.tensor in slots:
                slots[slot.tensor].append(slot.nodes)
        return tuple(
            CostTerm(
                prod(self.shapes[n]) // prod(a.size for a in axes) * (self.itemsizes[n] if of == "bytes" else 1),
                tuple(axes),
                n.rpartition(".")[0] or n,
            )
            for n, axes in slots.items()
        )

    def cost(self, of: str, removed: NodeMask | None = None) -> int:
        """The network's size in ``of`` without the nodes in ``removed``."""
        return total_cost(self.costs(of), np.zeros(self.count, bool) if removed is None else removed)

    def sizes(self, removed: NodeMask) -> dict[tuple[str, str], int]:
        """(Module, attribute) -> what it holds without the nodes in ``removed``, where that differs.

        Raises:
            ValueError: an attribute would not be whole.
        """
        kept = np.append(~removed, True)
        now: dict[tuple[str, str], int] = {}
        for f in self.size_attributes:
            stay = kept[self.axis[f.tensor, f.dim].nodes]
            whole, rest = divmod(f.value * int(stay.sum()), stay.size)
            if rest:
                raise ValueError(f"'{f.module}.{f.attribute}' ({f.value}) would not be whole: remove nodes evenly")
            if whole != f.value:
                now[f.module, f.attribute] = whole
        return now

    def mask(self, remove: NodeIndices) -> NodeMask:
        """An entry a node, true where it is in ``remove``: an iterable, array or tensor of node indices.

        Raises:
            ValueError: ``remove`` is a mask of booleans, has an entry that is no integer, or one that is no node of
                this graph.
        """
        indices = _as_indices(remove)
        if indices.size and (indices.min() < 0 or indices.max() >= self.count):
            bad = int(indices[(indices < 0) | (indices >= self.count)][0])
            raise ValueError(f"there is no node {bad}: this graph has nodes 0 to {self.count - 1}")
        removed = np.zeros(self.count, bool)
        removed[indices] = True
        return removed

    def freeze(self, reasons: Mapping[int, Reason]) -> Graph:
        """The graph in which these nodes are frozen, each for its reason."""
        if not reasons:
            return self
        gone = self.mask(reasons)
        number = np.append(np.where(gone, -1, np.cumsum(~gone) - 1), -1)  # the last entry serves -1
        slots = []
        for s in self.axes:
            mine = [reasons[i] for i in np.unique(s.nodes).tolist() if i in reasons]
            slots.append(replace(s, nodes=number[s.nodes], reasons=tuple(dict.fromkeys([*s.reasons, *mine]))))
        work = tuple(CostTerm(w.constant, tuple(number[a] for a in w.axes), w.module) for w in self.cost_terms)
        return replace(
            self,
            axes=tuple(slots),
            cost_terms=work,
            activation_products=self.activation_products[~gone],
            count=int((~gone).sum()),
        )

    def report(self, width: int | None = None) -> str:
        """What can go and what that saves, what cannot and why, for a person to read in lines of ``width`` at most."""
        from earlycrop.graph.summary import summarize  # which imports this module
        from earlycrop.graph.text import format_summary

        return format_summary(summarize(self), width)


def _as_indices(remove: NodeIndices) -> npt.NDArray[np.int64]:
    """Convert node indices to an array.

    Raises:
        ValueError: ``remove`` is a mask of booleans, or has an entry that is no integer.
    """
    if isinstance(remove, range):
        return np.arange(remove.start, remove.stop, remove.step)
    entries = remove.tolist() if isinstance(remove, (np.ndarray, Tensor)) else list(remove)
    if not isinstance(entries, list):  # of an array without dimensions
        entries = [[entries]]
    one_of_each_type = dict(zip(map(type, entries), entries, strict=True)).values()
    if any(isinstance(e, (bool, np.bool_)) or getattr(e, "dtype", None) == torch.bool for e in one_of_each_type):
        raise ValueError(
            "remove is a mask of booleans: give the indices of the nodes, for instance mask.nonzero()[0] of a numpy "
            "array or mask.nonzero().flatten() of a tensor"
        )
    try:
        return np.fromiter(map(index, entries), np.int64)
    except TypeError:
        raise ValueError(
            "remove must be one-dimensional and hold the indices of nodes as integers, for instance [0, 5, 7]"
        ) from None
