"""Record, while a network runs, which channels each tensor has and what every operation implies for them.

A :class:`ChannelRecorder` collects from the rules in ``rules/`` which channels are the same (joins), which may not be
cut and why (freezes), and what the channels of each parameter are for (roles). ``coupling`` works out the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from earlycrop.graph.types import ChannelLabels, CostTerm, Reason, Role
from earlycrop.tracing.labels import expand_labels, pad_front, varying_dims


@dataclass(slots=True)
class TensorInfo:
    """What is known of one tensor.

    labels: its channels, as arrays of labels that depend on different dimensions. uniform: all its entries are equal,
    so that it fits any size. weight: it is a parameter, or a view of one. zero_preserving: its entries are zero when
    the parameters of their channels are zero. shape: its shape when this was recorded.
    """

    labels: list[ChannelLabels] = field(default_factory=list)
    uniform: bool = False
    weight: bool = False
    zero_preserving: bool = False
    shape: tuple[int, ...] = ()


UNKNOWN = TensorInfo()
_INFO_ATTRIBUTE = "_earlycrop_info"
SPLIT = "split"
"""Stands for the name of any operation that splits a dimension."""


@dataclass(frozen=True, slots=True)
class ScalarArgs:
    """The numbers among the arguments of an operation.

    operation: its name. numbers: of a split, the width of the dimension, and those of its parts. parts: of a split, the
    channels of each part, if they depend on that dimension alone.
    """

    operation: str
    numbers: tuple[float, ...]
    parts: tuple[ChannelLabels, ...] = field(default=(), compare=False)


class ChannelRecorder:
    """The channels of the tensors of one run, and what its operations imply for them."""

    def __init__(self) -> None:
        self.channel_count = 0
        self.joins: list[tuple[ChannelLabels, ChannelLabels]] = []
        self.freezes: list[tuple[ChannelLabels, Reason]] = []
        self.roles: list[tuple[ChannelLabels, Role]] = []
        self.same_roles: list[tuple[ChannelLabels, ChannelLabels]] = []
        """Lengths, and the directions whose roles they have."""
        self.pending_broadcasts: list[tuple[ChannelLabels, ChannelLabels, Reason]] = []
        self.slices: list[ChannelLabels] = []
        """Channels of a dimension of which a part was taken, a row for each part of the same size."""
        self.distinct_sets: list[ChannelLabels] = []
        self.activation_products: list[ChannelLabels] = []
        self.multi_dim: list[ChannelLabels] = []
        """Labels that depend on several dimensions of a tensor."""
        self.cost_terms: list[CostTerm] = []
        self.used_tensors: set[int] = set()
        """Ids of the tensors that an operation was given."""
        self.module_stack: list[str] = []
        """Names of the modules that are running, outermost first."""
        self.operation = ""
        self.operation_count = 0
        self.scalars: list[ScalarArgs] = []
        """The scalar arguments of elementwise operations and the widths of splits, in order."""
        self.has_unequal_parts = False
        """Whether channels are split into parts of different sizes, each with channels of its own."""
        self.parts_are_known = False
        """Whether the last split was compared with that of an earlier run, so that parts of equal size mean nothing."""
        self.training = False
        self.real = False

    @property
    def module(self) -> str:
        """The name of the innermost module that is running."""
        return self.module_stack[-1] if self.module_stack else ""

    def record_scalars(self, scalars: ScalarArgs) -> None:
        """Record the scalar arguments of an elementwise operation, or the widths of a split."""
        self.scalars.append(scalars)

    def info(self, tensor: object) -> TensorInfo:
        """Return what is known of a tensor; ``UNKNOWN`` for anything else."""
        recorder, info = getattr(tensor, _INFO_ATTRIBUTE, (None, UNKNOWN))
        return info if recorder is self else UNKNOWN

    def labels(self, tensor: object) -> list[ChannelLabels]:
        """Return the channels of a tensor; none for anything else."""
        return self.info(tensor).labels

    def set_info(
        self, tensor: Tensor, labels: Sequence[ChannelLabels] = (), uniform: bool = False, weight: bool = False
    ) -> None:
        """Record what is known of a tensor."""
        info = TensorInfo([array for array in labels if array.size > 1], uniform, weight, weight, tensor.shape)
        setattr(tensor, _INFO_ATTRIBUTE, (self, info))  # on the tensor, so that it lives as long as the tensor

    def new_channels(self, n: int) -> ChannelLabels:
        """Return ``n`` new channels."""
        self.channel_count += n
        return np.arange(self.channel_count - n, self.channel_count)

    def add_tensor(self, tensor: Tensor, weight: bool) -> list[ChannelLabels | None]:
        """Give each dimension of a parameter or buffer new channels.

        Returns:
            For each dimension, a vector of its channels, or None if it is 1 wide.
        """
        vectors = [self.new_channels(n) if n > 1 else None for n in tensor.shape]
        labels = [expand_labels(v, d, tensor.ndim) for d, v in enumerate(vectors) if v is not None]
        self.set_info(tensor, labels, weight=weight)
        return vectors

    def join(self, a: ChannelLabels, b: ChannelLabels) -> None:
        """Mark these channels as coupled, after broadcasting."""
        if a is b:
            return
        if a.shape == b.shape:
            self.joins.append((a.reshape(-1), b.reshape(-1)))
            return
        a, b = np.broadcast_arrays(a, b)
        different = a != b
        self.joins.append((a[different], b[different]))

    def broadcast_join(self, small: ChannelLabels, large: ChannelLabels) -> None:
        """Mark channels as coupled with channels that depend on more dimensions (a scale for each position in a head).

        Either a position is removed from all heads, with its scale, or whole heads are removed, and the scales stay.
        ``coupling`` decides at the end, when it is known whether something else couples whole heads.
        """
        why = "it is shared by groups that can only be removed as a whole, such as heads"
        reason = Reason(self.operation, self.module, why)
        self.pending_broadcasts.append((small, large, reason))

    def freeze(self, labels: Sequence[ChannelLabels | None], why: str) -> None:
        """Mark channels as channels that may not be cut; entries that are None are skipped."""
        arrays = [array for array in labels if array is not None]
        if arrays:
            reason = Reason(self.operation, self.module, why)
            self.freezes += [(unique_labels(array), reason) for array in arrays]

    def couple_or_freeze_along(self, labels: Sequence[ChannelLabels], dims: set[int], why: str) -> list[ChannelLabels]:
        """Keep everything that lies along ``dims``.

        Labels that depend on other dimensions as well (heads, beside the positions in them) are coupled along ``dims``.
        Labels that depend on nothing else are frozen.

        Returns:
            The labels that are not frozen, 1 wide along ``dims``.
        """
        remaining = []
        for array in labels:
            for d in dims & set(varying_dims(array)):
                first = array.take([0], axis=d)
                if first.size == 1:
                    self.freeze([array], why)
                    break
                self.join(array, first)
                array = first
            else:
                remaining.append(array)
        return remaining

    def mark_distinct(self, channels: ChannelLabels) -> None:
        """Record that an operation treats these channels as different ones (heads, the groups of a norm)."""
        self.distinct_sets.append(unique_labels(channels))

    def is_same(self, a: ChannelLabels, b: ChannelLabels) -> bool:
        """Return whether these channels are known to be the same."""
        return bool((a == b).all())

    def add_role(self, channels: ChannelLabels | None, role: Role) -> None:
        """Record what channels of a parameter are for."""
        if channels is not None:
            self.roles.append((channels, role))

    def labels_along(self, tensor: object, dim: int, without: int | None = None) -> ChannelLabels | None:
        """Return the channels along one dimension; those that depend on others as well are coupled along the others.

        Labels that depend on the dimension ``without`` are left out.
        """
        vector: ChannelLabels | None = None
        for labels in self.labels(tensor):
            if labels.shape[dim] == 1 or (without is not None and labels.shape[without] > 1):
                continue
            if labels.size == labels.shape[dim]:
                vector = labels.reshape(-1)
            else:
                by_index = np.moveaxis(labels, dim, 0).reshape(labels.shape[dim], -1)
                self.join(by_index, by_index[:, :1])
                vector = by_index[:, 0]
        return vector

    def elementwise(self, operands: Sequence[Any], ndim: int) -> list[ChannelLabels]:
        """Couple the operands of an elementwise operation along each dimension.

        An operand without channels that is as wide as the others has a fixed number of values, and freezes them.

        Returns:
            The labels of the result, which has ``ndim`` dimensions.
        """
        tensors = [t for t in operands if isinstance(t, Tensor) and 0 < t.ndim <= ndim]
        if tensors and all(t.ndim == ndim and len(self.labels(t)) == 1 for t in tensors):
            first, *others = (self.labels(t)[0] for t in tensors)
            if all(labels.shape == first.shape for labels in others):  # the usual case
                for labels in others:
                    self.join(labels, first)
                return [first]
        result: list[ChannelLabels] = []
        for t in tensors:
            for labels in self.labels(t):
                self._couple_with(result, pad_front(labels, ndim))
        for t in tensors:
            if not self.info(t).uniform:
                varying = {d for labels in self.labels(t) for d in varying_dims(pad_front(labels, ndim))}
                wide = {ndim - t.ndim + d for d, n in enumerate(t.shape) if n > 1 and t.stride(d)}
                result = self.couple_or_freeze_along(result, wide - varying, "it meets a tensor of a fixed size")
        return result

    def _couple_with(self, result: list[ChannelLabels], labels: ChannelLabels) -> None:
        """Couple labels with those of ``result`` that depend on the same dimensions; if there are none, append them."""
        dims = set(varying_dims(labels))
        overlapping = [i for i, other in enumerate(result) if dims & set(varying_dims(other))]
        for i in overlapping:
            small, large = sorted((labels, result[i]), key=lambda array: len(varying_dims(array)))
            if set(varying_dims(small)) < set(varying_dims(large)):
                self.broadcast_join(small, large)
            else:
                self.join(labels, result[i])
            if labels.size > result[i].size:
                result[i] = labels
        if not overlapping:
            result.append(labels)


def unique_labels(labels: ChannelLabels) -> ChannelLabels:
    """Return labels as a vector, in which those that depend on several dimensions occur once each.

    Args:
        labels: Labels of a tensor.
    """
    return labels.reshape(-1) if labels.size == max(labels.shape) else np.unique(labels)
