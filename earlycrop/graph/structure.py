"""The data of a traced network and the queries on it: nodes, layers, costs, coupled channels, sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any, ClassVar, TypeVar

import numpy as np
from torch import Tensor

from earlycrop.graph.nodes import Group, Nodes, SizeAttribute, TensorAxis
from earlycrop.graph.types import (
    NOT_UNDERSTOOD,
    ChannelLabels,
    CostTerm,
    Layer,
    NodeIndices,
    NodeMask,
    Reason,
    Role,
    Size,
    layer_of,
    total_cost,
)

G = TypeVar("G", bound="GraphStructure")


@dataclass(frozen=True, repr=False)
class GraphStructure:
    """What a trace of a network records.

    Nodes are numbered from 0 to ``count`` - 1 in the order of the parameters. The numbers are valid until the network
    is cut.
    """

    OUTPUT: ClassVar[str] = "the model returns it"

    example: Any
    """What the network was called with."""
    shapes: dict[str, tuple[int, ...]]
    """Shape of each parameter and buffer, by name."""
    itemsizes: dict[str, int]
    """Bytes of one entry of each parameter and buffer, by name."""
    parameters: frozenset[str]
    """Names of the parameters."""
    axes: tuple[TensorAxis, ...]
    """The dimensions of parameters and buffers that have channels."""
    count: int
    """Number of nodes."""
    activation_products: NodeMask
    """For each node, whether two activations are multiplied over it (attention)."""
    returned: frozenset[int]
    """Classes of channels that the model returns."""
    cost_terms: tuple[CostTerm, ...]
    """Multiply-accumulates of one run on the example, a term for each operation."""
    size_attributes: tuple[SizeAttribute, ...] = ()
    """Attributes of modules that hold the size of a dimension."""
    uncalled: tuple[str, ...] = ()
    """Layers that no run has called. What they may use is frozen."""
    unused: tuple[str, ...] = ()
    """Parameters that no run has used."""

    def __repr__(self) -> str:
        nodes, weights, layers = self.count, self.cost("weights"), len(self.layers)
        return f"{type(self).__name__}({nodes=}, {weights=}, {layers=})"

    @cached_property
    def nodes(self) -> Nodes:
        """All nodes, each with the entries that it owns."""
        return Nodes(self.axes, self.count)

    @cached_property
    def groups(self) -> dict[Group, tuple[int, ...]]:
        """The nodes by the dimensions that they own entries along; coupled layers share a group."""
        return self.nodes.groups()

    @cached_property
    def axis(self) -> dict[tuple[str, int], TensorAxis]:
        """The axes by tensor name and dimension."""
        return {(axis.tensor, axis.dim): axis for axis in self.axes}

    @cached_property
    def axes_by_tensor(self) -> dict[str, list[TensorAxis]]:
        """The axes of each parameter and buffer that has any."""
        axes: dict[str, list[TensorAxis]] = {}
        for axis in self.axes:
            axes.setdefault(axis.tensor, []).append(axis)
        return axes

    def is_matrix(self, tensor: str) -> bool:
        """Whether the tensor is a parameter with two or more dimensions."""
        return tensor in self.parameters and len(self.shapes[tensor]) > 1

    @cached_property
    def product_weights(self) -> frozenset[str]:
        """Parameters that are the weight of a matrix product, a convolution or a recurrent cell.

        Embedding tables, class tokens, embeddings of positions, layer scales and the lengths of weight norm are not
        among them. A matrix that only operations without a rule use is, as it may be such a weight.
        """
        weights: set[str] = set()
        normed = {axis.layer for axis in self.axes if Role.DIRECTION in axis.role}
        for name, axes in self.axes_by_tensor.items():
            role = Role(0)
            for axis in axes:
                role |= axis.role
            is_unknown = any(reason.why == NOT_UNDERSTOOD for axis in axes for reason in axis.reasons)
            is_vector = prod(self.shapes[name]) == max(self.shapes[name], default=1)
            is_length = is_vector and axes[0].layer in normed and Role.DIRECTION not in role
            is_weight = Role.LOOKUP not in role and not is_length and (role & (Role.ROW | Role.COLUMN) or is_unknown)
            if self.is_matrix(name) and is_weight:
                weights.add(name)
        return frozenset(weights)

    @cached_property
    def classes(self) -> ChannelLabels:
        """For each node, its class of coupled channels."""
        classes = np.zeros(self.count + 1, np.int64)  # the last entry serves -1, which is no node
        for axis in self.axes:
            classes[axis.nodes] = axis.classes
        return classes[:-1]

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The modules with weight matrices, and their outputs. Coupled rows (a unit of an LSTM) count once."""
        producers: dict[str, list[TensorAxis]] = {}
        for axis in self.axes:
            is_row = Role.ROW in axis.role and Role.LOOKUP not in axis.role and self.is_matrix(axis.tensor)
            if is_row or Role.OUTPUT in axis.role:
                producers.setdefault(axis.layer, []).append(axis)
        layers = []
        for name, axes in producers.items():
            classes = np.concatenate([axis.classes for axis in axes])
            first = np.sort(np.unique(classes, return_index=True)[1])
            nodes = np.concatenate([axis.nodes for axis in axes])[first]
            reasons = tuple(dict.fromkeys(reason for axis in axes for reason in axis.reasons))
            layers.append(Layer(name, nodes, np.isin(classes[first], list(self.returned)), reasons))
        return tuple(layers)

    def coupling_after(self, removed: NodeMask) -> dict[tuple[str, int], ChannelLabels]:
        """Return the classes of the channels that remain after a cut.

        Args:
            removed: For each node, whether it is removed.

        Returns:
            For each tensor name and dimension, the class of every remaining index.
        """
        kept = np.append(~removed, True)
        return {key: axis.classes[kept[axis.nodes]] for key, axis in self.axis.items()}

    def costs(self, of: str) -> tuple[CostTerm, ...]:
        """Return a cost of the network as products over kept channels. Each product names its module.

        Args:
            of: "weights" are the entries of parameters with two or more dimensions. "parameters" are the entries of
                all parameters. "nodes" are the outputs of every layer but the model's output layers. "macs" are the
                multiply-accumulates of one run on the example. "bytes" are those of parameters and buffers.

        Returns:
            The terms; :func:`~earlycrop.graph.types.total_cost` adds them up.

        Raises:
            ValueError: ``of`` is something else. "time" is one: it is measured, and cannot be counted.
        """
        if of == "macs":
            return self.cost_terms
        if of == "nodes":
            return tuple(CostTerm(1, (layer.nodes[~layer.returned],), layer.name) for layer in self.layers)
        if of not in ("weights", "parameters", "bytes"):
            raise ValueError(
                f"'{of}' cannot be counted on a graph: use 'weights', 'parameters', 'nodes', 'macs' or 'bytes'"
            )
        terms = []
        for name, shape in self.shapes.items():
            if of == "bytes" or self.is_matrix(name) or (of == "parameters" and name in self.parameters):
                nodes = tuple(axis.nodes for axis in self.axes_by_tensor.get(name, []))
                constant = prod(shape) // prod(n.size for n in nodes) * (self.itemsizes[name] if of == "bytes" else 1)
                terms.append(CostTerm(constant, nodes, layer_of(name)))
        return tuple(terms)

    def cost(self, of: str, removed: NodeMask | None = None) -> int:
        """Return a cost of the network, before or after a cut.

        Args:
            of: What is counted, see :meth:`costs`.
            removed: For each node, whether it is removed. None removes no node.

        Returns:
            The cost.

        Raises:
            ValueError: ``of`` cannot be counted.
        """
        return total_cost(self.costs(of), np.zeros(self.count, bool) if removed is None else removed)

    def sizes(self, removed: NodeMask) -> dict[tuple[str, str], Size]:
        """Return the size attributes that a cut changes.

        Args:
            removed: For each node, whether it is removed.

        Returns:
            The new value for each (module, attribute).

        Raises:
            ValueError: An attribute would not be a whole number.
        """
        kept = np.append(~removed, True)
        sizes: dict[tuple[str, str], Size] = {}
        for size in self.size_attributes:
            remaining = kept[self.axis[size.tensor, size.dim].nodes]
            if isinstance(size.value, tuple):
                parts = np.split(remaining, np.cumsum(size.value)[:-1])
                value: Size = tuple(int(part.sum()) for part in parts)
            else:
                value, remainder = divmod(size.value * int(remaining.sum()), remaining.size)
                if remainder:
                    raise ValueError(
                        f"'{size.module}.{size.attribute}' ({size.value}) would not be a whole number after the cut: "
                        "remove the same number of nodes from each part of its dimension"
                    )
            if value != size.value:
                sizes[size.module, size.attribute] = value
        return sizes

    def mask(self, remove: NodeIndices) -> NodeMask:
        """Return an entry per node, true for the nodes in ``remove``.

        Raises:
            ValueError: ``remove`` is a mask of booleans, has an entry that is no integer, or one that is no node of
                this graph.
        """
        indices = np.asarray(remove.tolist() if isinstance(remove, (np.ndarray, Tensor)) else list(remove))
        if indices.dtype == bool and indices.size:
            raise ValueError(
                "remove is a mask of booleans: give the indices of the nodes, for instance mask.nonzero()[0] of a "
                "numpy array or mask.nonzero().flatten() of a tensor"
            )
        if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
            raise ValueError(
                "remove must be one-dimensional and hold the indices of nodes as integers, for instance [0, 5, 7]"
            )
        unknown = indices[(indices < 0) | (indices >= self.count)]
        if unknown.size:
            raise ValueError(f"there is no node {unknown[0]}: this graph has nodes 0 to {self.count - 1}")
        removed = np.zeros(self.count, bool)
        removed[indices.astype(np.int64)] = True
        return removed

    def freeze(self: G, reasons: Mapping[int, Reason]) -> G:
        """Return the graph in which some nodes are frozen. The other nodes are renumbered.

        Args:
            reasons: Why each of these nodes must not be removed.

        Returns:
            The new graph, or this one if there are no reasons.
        """
        if not reasons:
            return self
        frozen = self.mask(reasons)
        number = np.append(np.where(frozen, -1, np.cumsum(~frozen) - 1), -1)  # the last entry serves -1
        frozen_entry = np.append(frozen, False)
        axes = []
        for axis in self.axes:
            added = [reasons[i] for i in np.unique(axis.nodes[frozen_entry[axis.nodes]]).tolist()]
            axes.append(replace(axis, nodes=number[axis.nodes], reasons=tuple(dict.fromkeys([*axis.reasons, *added]))))
        terms = tuple(replace(term, axes=tuple(number[nodes] for nodes in term.axes)) for term in self.cost_terms)
        return replace(
            self,
            axes=tuple(axes),
            cost_terms=terms,
            activation_products=self.activation_products[~frozen],
            count=int((~frozen).sum()),
        )
